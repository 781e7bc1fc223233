"""Everything that can be trained is trained, validated and predicted once, small, from files to files."""

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import pipeline
from core.domain.model import PredictionOptions
from core.domain.progress import SilentObserver
from core.domain.training import EpochRecord
from core.errors import DomainError, TrainingError
from core.io.readers import read_labels, write_labels
from tests.core.pipeline.bench import RESIDUAL, dataset, order_of, plan_of, train
from tests.factories import Recipe, case_name

BETTER_THAN_CHANCE = 0.2
"""Mean Dice that every kind reaches in seconds, and no untrained network."""

READER = "SimpleITKIO"
OPTIONS = PredictionOptions(device="cpu", precision="fp32")
SHORT: dict[str, Any] = {
    "augmentation": "default",
    "epochs": 2,
    "iterations_per_epoch": 30,
    "initial_learning_rate": 0.05,
    "momentum": 0.9,
}

REGIONS: dict[str, Any] = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "region_order": (1, 2)}
IGNORE: dict[str, Any] = {"labels": {"background": 0, "left": 1, "right": 2, "ignore": 3}}
BOTH: dict[str, Any] = {
    "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
    "region_order": (1, 2),
}


@dataclass(frozen=True)
class Kind:
    """What is special about a training."""

    recipe: dict[str, Any] = field(default_factory=dict)
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    plan: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


KINDS = {
    "labels": Kind(),
    "regions": Kind(REGIONS),
    "ignore label": Kind(IGNORE),
    "regions and ignore label": Kind(BOTH),
    "residual encoder": Kind(plan={"kind": RESIDUAL}),
    "2D": Kind(spacing=(1.0, 1.0), plan={"entries": {"batch_size": 8}}),
    "2D, regions and ignore label": Kind(BOTH, spacing=(1.0, 1.0)),
    "dummy 2D": Kind({"spacing": (4.0, 1.0, 1.0)}, (4.0, 1.0, 1.0), {"entries": {"patch_size": [4, 16, 16]}}),
    "batch Dice": Kind(plan={"entries": {"batch_dice": True, "batch_size": 3}}),
    "batch Dice, regions and ignore label": Kind(BOTH, plan={"entries": {"batch_dice": True}}),
    "several channels, masked": Kind(
        {"channels": 3, "margin": 3}, plan={"schemes": ["ZScoreNormalization"] * 3, "masked": True}
    ),
    "strong augmentation": Kind(settings={"augmentation": "strong"}),
    "transposed, resampled": Kind(
        {"spacing": (0.8, 1.0, 1.5)}, (1.2, 0.9, 1.0), {"axes": (2, 0, 1)}, {"iterations_per_epoch": 45}
    ),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_it_learns_validates_and_predicts(kind: Kind, tmp_path: Path) -> None:
    recipe = replace(Recipe(cases=3, shape=(18, 20, 22), noise=4), **kind.recipe)
    raw, model = dataset(tmp_path / "raw", recipe, folds=3), tmp_path / "model"
    entries = {"patch_size": [16] * len(kind.spacing)} | kind.plan.get("entries", {})
    plan = plan_of(kind.spacing, **kind.plan | {"entries": entries})

    report = train(order_of(raw, plan, "small", model, 0, **SHORT | kind.settings))
    name, images = f"{case_name(0)}.nii.gz", sorted((raw / "imagesTr").glob(f"{case_name(0)}_*"))
    loaded, target = pipeline.load(model, OPTIONS), pipeline.PredictionFiles(tmp_path / name)
    pipeline.predict_files(loaded, images, target, SilentObserver(), OPTIONS)

    lines = (model / "fold_0/epochs.jsonl").read_text().splitlines()
    first, last = (EpochRecord.model_validate_json(line) for line in lines)
    assert last.train_loss < first.train_loss
    assert last.validation_loss is not None
    assert np.isfinite(last.validation_loss)
    shown = [name for name in recipe.labels if name not in {"background", "ignore"}]
    assert list(last.pseudo_dice) == shown
    summary = json.loads((model / "fold_0/validation/summary.json").read_text())
    assert len(summary["mean"]) == len(shown)
    assert report.foreground_mean.dice is not None
    assert report.foreground_mean.dice > BETTER_THAN_CHANCE
    validated = read_labels(model / "fold_0/validation" / name, "SimpleITKIO").labels_zyx
    assert np.array_equal(read_labels(tmp_path / name, "SimpleITKIO").labels_zyx, validated)
    assert set(np.unique(validated)) <= {0, 1, 2}


def test_validation_leaves_probabilities_on_request(tmp_path: Path) -> None:
    raw, plan = dataset(tmp_path / "raw", Recipe(cases=3)), plan_of()

    train(order_of(raw, plan, "small", tmp_path / "plain"))
    train(order_of(raw, plan, "small", tmp_path / "kept"), save_probabilities=True)

    kept, plain = (tmp_path / name / "fold_0/validation" for name in ("kept", "plain"))
    names = sorted(path.name.split(".")[0] for path in kept.glob("*.nii.gz"))
    assert [path.stem for path in sorted(kept.glob("*.npz"))] == names
    assert [path.stem for path in sorted(kept.glob("*.pkl"))] == names
    assert list(plain.glob("*.npz")) == []
    for name in names:
        with np.load(kept / f"{name}.npz") as archive:
            decided_zyx = archive["probabilities"].argmax(0)
        labels_zyx = read_labels(kept / f"{name}.nii.gz", "SimpleITKIO").labels_zyx
        assert np.array_equal(decided_zyx, labels_zyx)


def test_a_fold_without_validation_cases_is_trained_and_scores_nothing(tmp_path: Path) -> None:
    raw, model = dataset(tmp_path / "raw", Recipe(cases=3)), tmp_path / "model"
    names = [case_name(number) for number in range(3)]
    (raw / "splits_final.json").write_text(json.dumps([{"train": names, "val": []}]))

    report = train(order_of(raw, plan_of(), "small", model))

    assert report.metric_per_case == ()
    assert report.foreground_mean.dice is None
    assert (model / "fold_0/weights.safetensors").is_file()
    assert not (model / "fold_0/validation").exists()  # As what gathers the folds of a model expects.


SWAPPED: dict[str, Any] = {"swapped_labels": [["left", "right"]], "swap_axis": 2}


@pytest.mark.parametrize(
    ("settings", "changes", "sentence"),
    [
        ({"loss": "nope"}, {}, "'nope'"),
        ({"augmentation": "nope"}, {}, "'nope'"),
        ({"mirror_axes": [0, 0]}, {}, "names an axis twice"),
        (SWAPPED | {"swapped_labels": [["left", "rihgt"]]}, {}, "no such label"),
        (
            SWAPPED | {"mirror_axes": [0, 1]},
            {},
            r"swap_axis is 2, but mirror_axes \[0, 1\] leave that axis out",
        ),
        ({"warmup_epochs": 1}, {}, "warmup_epochs is 1, but the training has 1 epoch, .*never begin"),
        ({}, {"device": "cuda:7"}, "device cuda:7 is not there"),
        ({}, {"precision": "fp16"}, "fp16 is not for a cpu"),
    ],
)
def test_what_is_wrong_with_an_order_is_said_before_any_work(
    tmp_path: Path, settings: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    raw = dataset(tmp_path / "raw", Recipe(cases=2))

    with pytest.raises(DomainError, match=sentence):
        train(order_of(raw, plan_of(), "small", tmp_path / "model", **settings), **changes)

    assert not (tmp_path / "model").exists()


def test_other_settings_than_those_that_a_fold_began_with_are_refused_before_any_work(tmp_path: Path) -> None:
    raw, model = dataset(tmp_path / "raw", Recipe(cases=2)), tmp_path / "model"
    train(order_of(raw, plan_of(), "small", model))
    shutil.rmtree(model / "preprocessed")

    with pytest.raises(TrainingError, match=r"momentum 0\.99, now 0\.5"):
        train(order_of(raw, plan_of(), "small", model, momentum=0.5))

    assert not (model / "preprocessed").exists()


def test_references_are_kept_with_the_model_whatever_their_format(tmp_path: Path) -> None:
    raw = dataset(tmp_path / "raw", Recipe(cases=4, shape=(10, 12, 14)))
    labels, names = raw / "labelsTr", [case_name(number) for number in range(4)]
    for name in names:
        write_labels(read_labels(labels / f"{name}.nii.gz", READER), labels / f"{name}.mha", READER)
        (labels / f"{name}.nii.gz").unlink()
    description = json.loads((raw / "dataset.json").read_text())
    description["dataset"] = {
        name: {"images": [f"imagesTr/{name}_0000.nii.gz"], "label": f"labelsTr/{name}.mha"} for name in names
    }
    (raw / "dataset.json").write_text(json.dumps(description))

    train(order_of(raw, plan_of((1.0, 1.0, 1.0)), "small", tmp_path / "model"))

    kept = tmp_path / "model/gt_segmentations"
    assert sorted(path.name for path in kept.iterdir()) == [f"{name}.nii.gz" for name in names[::2]]
    expected = read_labels(labels / f"{names[0]}.mha", READER)
    found = read_labels(kept / f"{names[0]}.nii.gz", READER)
    assert (found.labels_zyx == expected.labels_zyx).all()


def test_references_behind_symbolic_links_are_kept_as_files(tmp_path: Path) -> None:
    raw = dataset(tmp_path / "raw", Recipe(cases=4, shape=(10, 12, 14)))
    (raw / "labelsTr").rename(raw / "elsewhere")
    (raw / "labelsTr").mkdir()
    for path in (raw / "elsewhere").iterdir():
        (raw / "labelsTr" / path.name).symlink_to(Path("../elsewhere") / path.name)

    train(order_of(raw, plan_of((1.0, 1.0, 1.0)), "small", tmp_path / "model"))

    kept = tmp_path / "model/gt_segmentations" / f"{case_name(0)}.nii.gz"
    assert kept.read_bytes() == (raw / "elsewhere" / kept.name).read_bytes()
