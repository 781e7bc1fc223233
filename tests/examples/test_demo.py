import json
import zipfile
from contextlib import AbstractContextManager, closing
from pathlib import Path

import demo
import numpy as np
import psycopg
import pytest
from holdout import HoldOutError, hold_out
from redis import Redis
from scores import dice_per_label, threshold_dice
from server_process import ServerMissingError
from servers import PostgresServer

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


def test_laptop_mode_needs_no_server() -> None:
    with demo._servers(demo.LAPTOP) as settings:
        assert settings == {}


def test_scaled_mode_starts_both_servers_and_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    with demo._servers(demo.SCALED) as settings:
        address = settings["SEG_DATABASE_URL"].replace("+psycopg", "")
        with closing(psycopg.connect(address)), closing(Redis.from_url(settings["SEG_BROKER_URL"])) as client:
            assert client.ping()

    told = capsys.readouterr().out
    assert "scaled: PostgreSQL on port" in told
    assert address.split(":")[2].partition("@")[0] not in told


def test_a_missing_server_ends_the_demo_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = _zip(tmp_path, cases=["a", "b"])
    arguments = [
        "demo.py",
        "--mode",
        "scaled",
        "--dataset",
        str(archive),
        "--output",
        str(tmp_path / "output"),
    ]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(demo, "postgresql", _missing)

    assert demo.main() == 1
    assert "The demo stopped: there is no server" in capsys.readouterr().out


def _missing() -> AbstractContextManager[PostgresServer]:
    """Start nothing, as on a machine without a server."""
    raise ServerMissingError("there is no server")


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
