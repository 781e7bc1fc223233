"""A model whose reader turns images segments any of them, and the segmentation lies where its image lies."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from torch import Tensor, nn

from core.domain.dataset import DatasetDescription
from core.domain.model import PredictionOptions
from core.domain.plan import Plan
from core.domain.progress import SilentObserver
from core.inference.model import LoadedModel
from core.io.case_store import CaseProperties
from core.io.readers import read_image, read_labels
from core.network.device import Precision
from core.pipeline import PredictionFiles, predict_files
from core.preprocessing.pipeline import preprocess_case
from tests.factories import IDENTITY, Recipe, make_phantom, rotation_xyz, write_array

OPTIONS = PredictionOptions(device="cpu", precision="fp32")
READERS = ("SimpleITKIOWithReorient", "NibabelIOWithReorient")
PIL = (0, 0, 1, 1, 0, 0, 0, -1, 0)
CASES = {
    "LPS": (IDENTITY, ".nii.gz"),
    "RAS": ((-1, 0, 0, 0, -1, 0, 0, 0, 1), ".mha"),
    "PIL": (PIL, ".nrrd"),
    "oblique": (rotation_xyz((50, -20, 130)), ".nii.gz"),
}
"""Direction of an image and format of its files."""

sitk: Any = SimpleITK


class Brightness(nn.Module):
    """Calls lesion what is brighter than the mean of the first channel, whichever way the image lies."""

    def forward(self, tiles: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(tiles[:, :1]), tiles[:, :1]], dim=1)


def model_with(plan: Plan, description: DatasetDescription, reader: str) -> LoadedModel:
    return LoadedModel(
        description=description,
        plan=plan.model_copy(update={"image_reader_writer": reader}),
        configuration_name="3d_fullres",
        configuration=plan.configuration("3d_fullres"),
        labels=description.label_set(),
        mirror_axes=(0, 1, 2),
        networks={0: Brightness()},
        precision=Precision("fp32", "for the test"),
        device=torch.device("cpu"),
    )


def channels(folder: Path, direction: tuple[float, ...], ending: str) -> list[Path]:
    recipe = Recipe(
        shape=(9, 12, 15), channels=2, origin_xyz=(-31.5, 12.25, 900.1), direction=direction, margin=2
    )
    voxels_czyx = make_phantom(recipe).voxels_czyx
    return [
        write_array(voxels_zyx, folder / f"a_{i:04d}{ending}", recipe)
        for i, voxels_zyx in enumerate(voxels_czyx)
    ]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", list(CASES))
def test_a_segmentation_lies_where_its_image_lies(
    tmp_path: Path, plan: Plan, description: DatasetDescription, reader: str, case: str
) -> None:
    direction, ending = CASES[case]
    paths = channels(tmp_path, direction, ending)
    plain, turned = (PredictionFiles(tmp_path / f"{name}{ending}") for name in ("plain", "turned"))

    predict_files(model_with(plan, description, "SimpleITKIO"), paths, plain, SilentObserver(), OPTIONS)
    with_preview = replace(turned, preview=tmp_path / "turned.png")
    predict_files(model_with(plan, description, reader), paths, with_preview, SilentObserver(), OPTIONS)

    expected, found = (sitk.ReadImage(str(files.segmentation)) for files in (plain, turned))
    assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    assert 0 < sitk.GetArrayFromImage(found).mean() < 1
    image = sitk.ReadImage(str(paths[0]))
    assert (found.GetOrigin(), found.GetDirection()) == (image.GetOrigin(), image.GetDirection())
    assert (tmp_path / "turned.png").is_file()


@pytest.mark.parametrize("reader", READERS)
def test_preprocessed_cases_remember_the_way_back(
    tmp_path: Path, plan: Plan, description: DatasetDescription, reader: str
) -> None:
    paths = channels(tmp_path, PIL, ".nii.gz")
    image = read_image(paths, reader)
    reference = read_labels(paths[0], reader)

    case = preprocess_case(
        image, reference.labels_zyx, plan, plan.configuration("3d_fullres"), description.label_set()
    )

    again = CaseProperties.model_validate_json(case.properties.model_dump_json())
    assert again.geometry == image.geometry
    assert again.geometry.turn is not None
    assert again.spacing == image.geometry.spacing
