"""A fingerprint says of a dataset what the reference's says, in the same draws."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core import __main__ as command_line
from core.crew import Crew
from core.domain.progress import Progress, SilentObserver
from core.errors import CancelledError, DatasetError, ImageError
from core.fingerprinting import fingerprint_dataset
from core.io.readers import read_image
from tests.factories import Recipe, case_name, make_dataset, make_phantom

SHARED = Path(__file__).resolve().parents[2] / "../shared"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the recorded results are not beside the repository"
)


FEW = 20_000
"""Draws; enough to be right within a few per cent."""


def test_shapes_are_those_after_cropping_and_spacings_those_of_the_files(tmp_path: Path) -> None:
    make_dataset(
        tmp_path, Recipe(cases=3, shape=(12, 20, 18), margin=2, spacing=(3.0, 0.5, 0.8), ending=".mha")
    )

    found = fingerprint_dataset(tmp_path, SilentObserver(), Crew(1), FEW)

    assert found.shapes_after_crop == ((8, 16, 14),) * 3
    assert found.spacings == ((3.0, 0.5, 0.8),) * 3
    assert found.median_relative_size_after_cropping == (8 * 16 * 14) / (12 * 20 * 18)
    assert found.foreground_intensity_properties_per_channel["0"].mean == pytest.approx(190, abs=5)


def test_pictures_have_a_channel_per_color(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=2, shape=(1, 32, 40), channels=3, ending=".png"))

    found = fingerprint_dataset(tmp_path, SilentObserver(), Crew(1), FEW)

    assert sorted(found.foreground_intensity_properties_per_channel) == ["0", "1", "2"]
    assert found.spacings == ((999.0, 1.0, 1.0),) * 2


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(vary_shape=True, channels=2))

    found = [fingerprint_dataset(tmp_path, SilentObserver(), Crew(workers), FEW) for workers in (1, 3)]
    little = fingerprint_dataset(tmp_path, SilentObserver(), Crew(3, memory_bytes=1), FEW)

    assert found[0] == found[1] == little


def unmarked(folder: Path, channel: str) -> Path:
    """A dataset whose label files mark nothing."""
    make_dataset(folder, replace(Recipe(cases=2), labels={"background": 0}))
    description = {"channel_names": {"0": channel}, "labels": {"background": 0, "x": 1}, "numTraining": 2}
    (folder / "dataset.json").write_text(json.dumps({**description, "file_ending": ".nii.gz"}))
    return folder


@pytest.mark.parametrize("name", ["CT", "ct"])
def test_a_ct_dataset_that_marks_nothing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"no label file marks anything.*name the channel otherwise"):
        fingerprint_dataset(unmarked(tmp_path, name), SilentObserver(), Crew(1), FEW)


def test_where_nothing_is_marked_whole_images_are_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = unmarked(tmp_path, "T1")
    with caplog.at_level(logging.WARNING):
        found = fingerprint_dataset(raw, SilentObserver(), Crew(2), 10 * FEW)

    voxels = np.concatenate(
        [
            read_image([path], "SimpleITKIO").voxels_czyx[0, 1:-1, 1:-1, 1:-1].ravel()
            for path in (raw / "imagesTr").iterdir()
        ]
    )
    properties = found.foreground_intensity_properties_per_channel["0"]
    assert "no label file marks anything" in caplog.text
    assert (properties.mean, properties.std) == pytest.approx((voxels.mean(), voxels.std()), rel=0.02)
    assert voxels.min() <= properties.min <= properties.percentile_00_5 < properties.percentile_99_5


def test_a_case_without_label_file_is_named(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    (tmp_path / "labelsTr" / f"{case_name(2)}.nii.gz").unlink()

    with pytest.raises(DatasetError, match="phantom_002 has no label file"):
        fingerprint_dataset(tmp_path, SilentObserver(), Crew(1), FEW)


def test_a_case_without_a_channel_is_named(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(channels=2))
    (tmp_path / "imagesTr" / f"{case_name(3)}_0001.nii.gz").unlink()

    with pytest.raises(ImageError, match="phantom_003 has 1 channels"):
        fingerprint_dataset(tmp_path, SilentObserver(), Crew(1), FEW)


class StopsAfterTwo(SilentObserver):
    def __init__(self) -> None:
        self.seen: list[Progress] = []

    def report(self, progress: Progress) -> None:
        self.seen.append(progress)

    def stop_requested(self) -> bool:
        return len(self.seen) == 2


def test_it_stops_when_asked(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    observer = StopsAfterTwo()

    with pytest.raises(CancelledError, match="after 2 of 5"):
        fingerprint_dataset(tmp_path, observer, Crew(1), FEW)

    assert [(p.stage, p.done, p.total) for p in observer.seen] == [
        ("fingerprint", 1, 5),
        ("fingerprint", 2, 5),
    ]


def test_phantoms_keep_their_foreground_within_the_body() -> None:
    phantom = make_phantom()

    assert (phantom.voxels_czyx[0][phantom.labels_zyx > 0] > 0).all()


RAW_FOLDERS = [
    ("data/Dataset004_Hippocampus", "goldens/fingerprint/dataset_fingerprint.json"),
    *(
        (str(path.parent / "raw"), str(path))
        for path in sorted(Path(SHARED).glob("goldens/preprocess_goldens/dev/*/fingerprint.json"))
    ),
]


@pytest.mark.parity
@needs_shared
@pytest.mark.parametrize(("raw", "recorded"), RAW_FOLDERS, ids=lambda name: Path(name).parent.name)
def test_fingerprint_equals_the_reference(raw: str, recorded: str, tmp_path: Path) -> None:
    expected = json.loads((SHARED / recorded).read_text())

    status = command_line.main(["fingerprint", "--raw", str(SHARED / raw), "--out", str(tmp_path / "f.json")])

    assert status == 0
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["shapes_after_crop"] == expected["shapes_after_crop"]
    assert found["spacings"] == expected["spacings"]
    assert found["median_relative_size_after_cropping"] == expected["median_relative_size_after_cropping"]
    for channel, properties in expected["foreground_intensity_properties_per_channel"].items():
        assert found["foreground_intensity_properties_per_channel"][channel] == pytest.approx(
            properties, rel=1e-6
        )
