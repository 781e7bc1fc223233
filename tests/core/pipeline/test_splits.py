"""Which splits a training follows, and what it leaves in the model's folder."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from core.domain.progress import SilentObserver
from core.domain.splits import SPLITS_FILE, Grouping, are_equal, parse_splits
from core.domain.training import Split
from core.errors import DatasetError, TrainingError
from core.pipeline import preprocess
from core.pipeline.splits import choose_splits, keep_splits, split_of_fold
from core.training.splits import cross_validation
from tests.core.pipeline.bench import order_of, plan_of, train
from tests.factories import Recipe, make_dataset

CASES = [f"{patient}_{scan}" for patient in "abcdef" for scan in range(3)]
BY_PATIENT = Grouping(pattern="^(.)_")
OWN = [
    Split(train=tuple(CASES[3:]), val=tuple(CASES[:3])),
    Split(train=tuple(CASES[:3]), val=tuple(CASES[3:])),
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


def write(folder: Path, splits: list[Split]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / SPLITS_FILE).write_text(json.dumps([split.to_json() for split in splits]))


def begin(model: Path) -> None:
    (model / "fold_0").mkdir(parents=True)
    (model / "fold_0/checkpoint.safetensors").touch()


def test_the_order_goes_before_the_dataset_and_that_before_the_default(raw: Path, model: Path) -> None:
    assert choose_splits(None, raw, model, CASES).folds == cross_validation(CASES)
    write(raw, OWN)
    assert choose_splits(None, raw, model, CASES).folds == tuple(OWN)
    assert choose_splits(OWN[:1], raw, model, CASES).folds == OWN[:1]
    grouped = choose_splits(BY_PATIENT, raw, model, CASES)
    assert grouped.folds is not None
    assert all(len({case[0] for case in split.val}) == len(split.val) / 3 for split in grouped.folds)


def test_folds_of_a_model_follow_the_same_splits(raw: Path, model: Path) -> None:
    keep_splits(choose_splits(BY_PATIENT, raw, model, CASES), model, CASES)
    assert choose_splits(OWN, raw, model, CASES).folds == OWN  # Nothing was trained yet.
    begin(model)

    later = choose_splits(None, raw, model, CASES)

    kept = parse_splits((model / SPLITS_FILE).read_bytes())
    assert later.folds == kept
    assert are_equal(choose_splits(BY_PATIENT, raw, model, CASES).folds or (), kept)
    with pytest.raises(TrainingError, match="fold 5 is beyond the splits that other folds"):
        split_of_fold(later, CASES, 5)
    with pytest.raises(TrainingError, match="model has folds that followed other splits"):
        choose_splits(OWN, raw, model, CASES)
    write(raw, OWN)
    with pytest.raises(TrainingError, match="model has folds that followed other splits"):
        choose_splits(None, raw, model, CASES)


def test_folds_beyond_the_default_are_drawn_whatever_the_model_has(raw: Path, model: Path) -> None:
    default = choose_splits(None, raw, model, CASES)
    keep_splits(default, model, CASES)
    begin(model)

    later = choose_splits(None, raw, model, CASES)

    assert split_of_fold(later, CASES, 8) == split_of_fold(default, CASES, 8)


def test_few_cases_have_no_splits_but_fold_all(raw: Path, model: Path) -> None:
    splits = choose_splits(None, raw, model, CASES[:3])
    keep_splits(splits, model, CASES[:3])

    assert split_of_fold(splits, CASES[:3], "all").train == tuple(CASES[:3])
    assert not model.exists()


def test_few_patients_have_no_splits_but_fold_all_and_those_that_are_drawn(raw: Path, model: Path) -> None:
    cases = CASES[:9]
    splits = choose_splits(BY_PATIENT, raw, model, cases)
    keep_splits(splits, model, cases)

    assert split_of_fold(splits, cases, "all").train == tuple(cases)
    assert {case[0] for case in split_of_fold(splits, cases, 5).val} < set("abc")
    with pytest.raises(TrainingError, match=r"3 patients cannot be dealt into 5 folds; .*train fold 'all'"):
        split_of_fold(splits, cases, 0)
    assert not model.exists()


def test_odd_splits_are_warned_about(raw: Path, model: Path, caplog: Any) -> None:
    odd = [Split(train=tuple(CASES[:5]), val=tuple(CASES[4:17]))]

    with caplog.at_level(logging.WARNING):
        keep_splits(choose_splits(odd, raw, model, CASES), model, CASES)

    assert "fold 0 trains on b_1 and validates on them too" in caplog.text
    assert "no fold uses f_2" in caplog.text


def test_a_training_by_patient_leaves_its_splits_in_the_model(tmp_path: Path) -> None:
    raw = make_dataset(tmp_path / "raw", Recipe(cases=6, shape=(10, 12, 12)))
    patients = {f"phantom_{number:03}": str(min(number, 4)) for number in range(6)}
    order = order_of(raw, plan_of(), "small", tmp_path / "model")

    train(order, splits=Grouping(patients=patients))

    kept = parse_splits((tmp_path / "model" / SPLITS_FILE).read_bytes())
    fold = json.loads((tmp_path / "model/fold_0/fold.json").read_text())
    assert fold["validation_cases"] == list(kept[0].val) == ["phantom_004", "phantom_005"]


@pytest.mark.parametrize(("folder", "ending"), [("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")])
def test_preprocessed_cases_that_the_dataset_no_longer_has_are_named_before_training(
    tmp_path: Path, folder: str, ending: str
) -> None:
    raw = make_dataset(tmp_path / "raw", Recipe(cases=6, shape=(10, 12, 12)))
    order, store = order_of(raw, plan_of(), "small", tmp_path / "model"), tmp_path / "store"
    preprocess(raw, order.plan, "small", store, SilentObserver(), workers=1)
    (raw / folder / f"phantom_002{ending}").unlink()

    with pytest.raises(DatasetError, match=r"phantom_002.*; put .* back, or preprocess the dataset again"):
        train(order, preprocessed=store)

    assert not (tmp_path / "model/fold_0").exists()
