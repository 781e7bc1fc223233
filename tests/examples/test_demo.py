import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from holdout import HoldOutError, hold_out
from scores import dice_per_label, threshold_dice

LABELS = {"background": 0, "bright": 1, "odd": 2}


def test_a_threshold_finds_what_intensity_tells_apart() -> None:
    reference_zyx = np.zeros((4, 8, 8), np.uint8)
    reference_zyx[1:3, 2:6, 2:6] = 1
    voxels_czyx = (reference_zyx[None] * 100).astype(np.float32)

    dice = threshold_dice(voxels_czyx, reference_zyx, LABELS)

    assert dice == {"bright": 1.0, "odd": None}


def test_no_interval_beats_the_one_that_is_found() -> None:
    rng = np.random.default_rng(0)
    voxels_czyx = rng.normal(size=(1, 6, 6, 6)).astype(np.float32)
    reference_zyx = (rng.random((6, 6, 6)) < 0.3).astype(np.uint8)
    values = np.sort(voxels_czyx.ravel())
    everywhere = [
        dice_per_label(
            ((voxels_czyx[0] >= low) & (voxels_czyx[0] <= high)).astype(np.uint8),
            reference_zyx,
            {"bright": 1},
        )["bright"]
        for low in values[::4]
        for high in values[::4]
        if low <= high
    ]

    best = threshold_dice(voxels_czyx, reference_zyx, {"bright": 1})["bright"]

    assert best is not None
    assert best >= max(dice for dice in everywhere if dice is not None) - 1e-4


def test_dice_counts_regions_and_leaves_ignored_voxels_out() -> None:
    reference = np.array([[[0, 1, 2, 2, 3]]])
    prediction = np.array([[[0, 1, 1, 0, 1]]])

    dice = dice_per_label(prediction, reference, {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3})

    assert dice == {"whole": pytest.approx(0.8), "core": 0.0}


def test_the_last_case_is_held_out_and_counted_out(tmp_path: Path) -> None:
    archive = _zip(tmp_path, cases=["a", "b", "c"])

    task = hold_out(archive, tmp_path / "work")

    with zipfile.ZipFile(task.dataset) as packed:
        assert not [name for name in packed.namelist() if "/c" in name]
        assert json.loads(packed.read("Dataset001_X/dataset.json"))["numTraining"] == 2
    assert [image.read_text() for image in task.images] == ["c 0", "c 1"]
    assert task.reference.read_text() == "c label"
    assert task.file_ending == ".nii.gz"


def test_an_archive_without_a_dataset_is_refused_with_a_sentence(tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("holiday.jpg", "sea")

    with pytest.raises(HoldOutError, match=r"holds no dataset\.json"):
        hold_out(archive, tmp_path / "work")


def test_a_description_that_lacks_something_is_refused_with_a_sentence(tmp_path: Path) -> None:
    archive = tmp_path / "incomplete.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("dataset.json", json.dumps({"channel_names": {"0": "T1"}, "file_ending": ".nii"}))

    with pytest.raises(HoldOutError, match="lacks or garbles 'labels'"):
        hold_out(archive, tmp_path / "work")


def _zip(folder: Path, cases: list[str]) -> Path:
    """Pack a dataset of two channels whose files tell who they are."""
    archive = folder / "dataset.zip"
    description = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("Dataset001_X/dataset.json", json.dumps(description))
        for case in cases:
            packed.writestr(f"Dataset001_X/labelsTr/{case}.nii.gz", f"{case} label")
            for channel in range(2):
                packed.writestr(f"Dataset001_X/imagesTr/{case}_{channel:04d}.nii.gz", f"{case} {channel}")
    return archive
