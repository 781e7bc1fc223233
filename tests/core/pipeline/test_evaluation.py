import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.__main__ import main
from core.io.readers import read_labels
from tests.core.pipeline.results import describe, rows, save_labels

NEW = ["hd95_mm", "surface_dice", "volume_difference_ml", "volume_difference_relative"]
OLD = ["Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"]


def _summary(tmp_path: Path, *more: str, **labels: Any) -> dict[str, Any]:
    """Evaluate found against true on the command line."""
    describe(tmp_path / "found", **labels)
    words = ["--predictions", "found", "--references", "true", "--dataset-json", "found/dataset.json"]
    paths = [word if word.startswith("--") else str(tmp_path / word) for word in (*words, "--out", "s.json")]
    assert main(["evaluate", *paths, *more]) == 0
    read: dict[str, Any] = json.loads((tmp_path / "s.json").read_text(), parse_constant=pytest.fail)
    return read


def test_surfaces_stand_beside_overlap_on_request(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_labels(rows("11000", "11000", "00000"), tmp_path / "true", "c0")
    save_labels(rows("01100", "01100", "00000"), tmp_path / "found", "c0")

    plain = _summary(tmp_path)
    said = capfd.readouterr().out
    whole = _summary(tmp_path, "--surface", "--tolerance-mm", "0.8")

    assert sorted(plain) == ["foreground_mean", "mean", "metric_per_case"]
    assert sorted(plain["mean"]["1"]) == OLD
    assert sorted(whole["mean"]["1"]) == sorted([*OLD, *NEW])
    assert whole["surface_tolerance_mm"] == 0.8
    assert whole["mean"]["1"] | plain["mean"]["1"] == whole["mean"]["1"]
    assert whole["mean"]["1"]["surface_dice"] == 1  # One voxel of 0.8 mm to the right.
    assert whole["mean"]["1"]["hd95_mm"] == pytest.approx(0.8)
    assert whole["mean"]["1"]["volume_difference_ml"] == 0
    assert whole["mean"]["2"] == {**dict.fromkeys([*OLD, *NEW]), "TN": 15, **dict.fromkeys(["TP", "FP", "FN"], 0),
                                  "n_pred": 0, "n_ref": 0, "volume_difference_ml": 0}  # fmt: skip
    assert "surface" not in said
    assert "surface Dice 1.0000, HD95 0.8000 mm" in capfd.readouterr().out


def test_regions_and_what_nobody_annotated_are_measured_as_they_are_scored(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    save_labels(rows("1120033", "1120033"), tmp_path / "true", "c0")
    save_labels(rows("1120011", "1220011"), tmp_path / "found", "c0")

    summary = _summary(tmp_path, "--surface", labels=labels, regions_class_order=[1, 2])

    assert summary["mean"]["(1, 2)"]["surface_dice"] == 1
    assert summary["mean"]["(1, 2)"]["volume_difference_relative"] == 0
    assert summary["mean"]["(2,)"]["volume_difference_relative"] == 0.5


def test_pictures_are_scored_and_postprocessed_in_two_dimensions(tmp_path: Path) -> None:
    true = np.zeros((30, 40), np.uint8)
    true[5:15, 5:15] = 1
    found = true.copy()
    found[5:15, 25:27] = 1
    for folder, labels in (("true", true), ("found", found)):
        (tmp_path / folder).mkdir()
        Image.fromarray(labels).save(tmp_path / folder / "c0.png")

    summary = _summary(tmp_path, "--surface", file_ending=".png", labels={"background": 0, "a": 1})
    out = tmp_path / "out"
    words = ("--input", tmp_path / "found", "--out", out, "--references", tmp_path / "true")
    status = main(["postprocess", *map(str, words)])

    assert summary["mean"]["1"]["volume_difference_ml"] is None
    assert summary["mean"]["1"]["volume_difference_relative"] == pytest.approx(0.2)
    assert 9 < summary["mean"]["1"]["hd95_mm"] < 13
    assert status == 0
    assert (read_labels(out / "c0.png", "NaturalImage2DIO").labels_zyx[0] == true).all()
