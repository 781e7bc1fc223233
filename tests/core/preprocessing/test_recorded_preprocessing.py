"""Resampling and whole preprocessing, against what the reference recorded."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from core.domain.dataset import DatasetDescription
from core.domain.geometry import permuted
from core.domain.plan import Plan
from core.domain.resampling import SplineArguments
from core.io.readers import read_image, read_labels
from core.preprocessing.crop import crop_to_nonzero
from core.preprocessing.pipeline import preprocess_case
from core.preprocessing.resample import resample_image, resample_labels, separate_axis

GOLDENS = Path(__file__).resolve().parents[3] / "../shared/goldens"
RESAMPLED = sorted((GOLDENS / "resample_goldens/dev").glob("*.npz"))
PREPROCESSED = sorted((GOLDENS / "preprocess_goldens/dev").glob("*/expected/*/*.npz"))

TOLERANCE = 1e-6
"""Largest difference, as a share of the image's range."""

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        not RESAMPLED or not PREPROCESSED,
        reason="the reference's recorded preprocessing (../shared) is absent",
    ),
]


def loaded(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path) as recorded:
        return dict(recorded)


@pytest.mark.parametrize("path", RESAMPLED, ids=lambda path: path.stem)
def test_resampling(path: Path) -> None:
    recorded = loaded(path)
    before, after = tuple(recorded["spacing"].tolist()), tuple(recorded["new_spacing"].tolist())
    z, y, x = (int(count) for count in recorded["new_shape"])

    axis = separate_axis(before, after, None)
    assert (-1 if axis is None else axis) == recorded["axis"]
    for kind, order in (("data", 3), ("prob32", 1)):
        voxels_czyx = recorded[f"in_{kind}"]
        found_czyx = resample_image(voxels_czyx, (z, y, x), before, after, SplineArguments(order=order))
        difference = np.abs(found_czyx - recorded[f"out_{kind}"]).max()
        assert difference <= TOLERANCE * np.ptp(voxels_czyx)
    labels_zyx = resample_labels(recorded["in_seg"][0], (z, y, x), before, after, SplineArguments(order=1))
    assert (labels_zyx == recorded["out_seg"][0]).all()


@pytest.mark.parametrize(
    "path", PREPROCESSED, ids=lambda path: f"{path.parents[2].name}-{path.parent.name}-{path.stem}"
)
def test_preprocessing(path: Path) -> None:
    recorded, folder = loaded(path), path.parents[2]
    plan_name, configuration_name = path.parent.name.split("__")
    plan = Plan.parse((folder / f"{plan_name}.json").read_text())
    raw = folder / "raw"
    description = DatasetDescription.parse(next(folder.rglob("dataset.json")).read_text())
    ending, reader = description.file_ending, plan.image_reader_writer
    image = read_image(sorted((raw / "imagesTr").glob(f"{path.stem}_????{ending}")), reader)
    reference = read_labels(raw / "labelsTr" / f"{path.stem}{ending}", reader)
    configuration, labels = plan.configuration(configuration_name), description.label_set()

    case = preprocess_case(image, reference.labels_zyx, plan, configuration, labels)
    unlabelled = preprocess_case(image, None, plan, configuration, labels)

    limit = TOLERANCE * np.ptp(recorded["data"])
    assert np.abs(case.voxels_czyx - recorded["data"]).max() <= limit
    assert np.abs(unlabelled.voxels_czyx - recorded.get("data_noseg", recorded["data"])).max() <= limit
    assert case.labels_zyx is not None
    assert (case.labels_zyx == recorded["seg"][0]).all()
    expected = {name for name in recorded if name.startswith("loc_")}
    assert {_recorded_name(key) for key in case.locations} == expected
    for key, voxels in case.locations.items():
        assert voxels.tolist() == recorded[_recorded_name(key)].reshape(-1, 4).tolist()


@pytest.mark.parametrize(
    "path", PREPROCESSED, ids=lambda path: f"{path.parents[2].name}-{path.parent.name}-{path.stem}"
)
def test_the_nonzero_mask_alone(path: Path) -> None:
    recorded, folder = loaded(path), path.parents[2]
    plan_name, configuration_name = path.parent.name.split("__")
    plan = Plan.parse((folder / f"{plan_name}.json").read_text())
    ending = DatasetDescription.parse(next(folder.rglob("dataset.json")).read_text()).file_ending
    image = read_image(
        sorted((folder / "raw/imagesTr").glob(f"{path.stem}_????{ending}")), plan.image_reader_writer
    )
    axes, configuration = plan.transpose_forward, plan.configuration(configuration_name)
    voxels_czyx = image.voxels_czyx.transpose(0, *(axis + 1 for axis in axes))
    spacing = permuted(image.geometry.spacing, axes)
    _, z, y, x = recorded["data"].shape

    crop = crop_to_nonzero(voxels_czyx, np.zeros(voxels_czyx.shape[1:], np.int8))

    assert crop.labels_zyx is not None
    marks_zyx = resample_labels(
        crop.labels_zyx,
        (z, y, x),
        spacing,
        configuration.target_spacing(spacing),
        SplineArguments(order=1),
    )
    assert (marks_zyx == recorded["seg_noseg"][0]).all()


def _recorded_name(key: str) -> str:
    return "loc_" + key.strip("()").replace(", ", "_")
