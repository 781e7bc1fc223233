"""A cascade on the command line: both stages trained, predicted together and apart."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from core import __main__ as command_line
from core.io.readers import read_labels
from tests.core.pipeline.bench import SETTINGS, cascade_plan, dataset
from tests.factories import Recipe

RECIPE = Recipe(cases=2, shape=(12, 16, 14))


def run(*arguments: object) -> int:
    return command_line.main([str(argument) for argument in arguments])


def test_a_cascade_is_trained_and_predicts(tmp_path: Path, capfd: Any) -> None:
    raw, low, full = dataset(tmp_path / "raw", RECIPE), tmp_path / "low", tmp_path / "full"
    (tmp_path / "plans.json").write_text(json.dumps(cascade_plan().to_json()))
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    train = (
        "train",
        "--raw",
        raw,
        "--plans",
        tmp_path / "plans.json",
        "--settings",
        tmp_path / "settings.json",
    )
    train_full = (*train, "--configuration", "3d_cascade_fullres", "--previous", low, "--out", full)
    predict = ("predict", "--input", raw / "imagesTr")

    assert run(*train, "--configuration", "3d_lowres", "--out", low, "--fold", 0) == 0
    assert run(*train_full) == 1
    assert "missing for 1 of 2 cases: phantom_001; train fold 1 of 3d_lowres" in capfd.readouterr().err
    assert run(*train, "--configuration", "3d_lowres", "--out", low, "--fold", 1) == 0
    assert run(*train_full) == 0

    assert run(*predict, "--model", full, "--out", tmp_path / "own") == 0
    assert run(*predict, "--model", low, "--out", tmp_path / "first") == 0
    assert run(*predict, "--model", full, "--out", tmp_path / "told", "--previous", tmp_path / "first") == 0
    assert run(*predict, "--model", full, "--out", tmp_path / "apart", "--previous-model", low) == 0
    own, told, apart = (
        read_labels(tmp_path / way / "phantom_000.nii.gz", "SimpleITKIO").labels_zyx
        for way in ("own", "told", "apart")
    )
    assert np.array_equal(own, told)
    assert np.array_equal(own, apart)
