"""The folds of a model agree in all that predicting with them needs."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import TrainingError
from core.pipeline import TrainOrder
from tests.core.pipeline.bench import architecture, cascade_plan, dataset, order_of, plan_of, train
from tests.factories import Recipe


@pytest.fixture
def begun(tmp_path: Path) -> TrainOrder:
    """The order of fold 1, in a folder whose fold 0 has begun."""
    raw = dataset(tmp_path / "raw", Recipe(cases=2, shape=(10, 12, 12)))
    train(order_of(raw, cascade_plan(), "3d_fullres", tmp_path / "model"))
    return order_of(raw, cascade_plan(), "3d_fullres", tmp_path / "model", 1)


def described(order: TrainOrder, **changes: Any) -> None:
    file = order.raw / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_fold_of_another_configuration_is_refused_before_any_work(begun: TrainOrder) -> None:
    before = (begun.model / "plans.json").read_bytes()

    with pytest.raises(
        TrainingError, match=r"model holds a model of 3d_fullres; train 3d_lowres into another"
    ):
        train(begun, configuration="3d_lowres")

    assert (begun.model / "plans.json").read_bytes() == before
    assert [path.name for path in (begun.model / "preprocessed").iterdir()] == ["3d_fullres"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"entries": {"architecture": architecture(3, strides=(1, 2, 2))}}, "architecture"),
        ({"spacing": (1.5, 1, 1)}, "spacing"),
        ({"axes": (1, 0, 2)}, "transpose_forward, transpose_backward"),
        ({"entries": {"patch_size": [8, 8, 12], "batch_size": 3}}, "batch_size, patch_size"),
        ({"schemes": ["CTNormalization"]}, "normalization_schemes"),
    ],
)
def test_a_fold_by_another_plan_is_refused(begun: TrainOrder, changes: dict[str, Any], named: str) -> None:
    plan = plan_of(**{"spacing": (1, 1, 1)} | changes)
    plan = plan.model_copy(update={"configurations": {"3d_fullres": plan.configurations["small"]}})

    with pytest.raises(TrainingError, match=rf"model has folds that .*\(different: {named}\)"):
        train(begun, plan=plan)


def test_a_fold_of_another_dataset_or_that_mirrors_otherwise_is_refused(begun: TrainOrder) -> None:
    with pytest.raises(TrainingError, match=r"\(different: the mirrored axes\)"):
        train(begun, settings=begun.settings.model_copy(update={"augmentation": "default"}))

    described(begun, labels={"background": 0, "left": 2, "right": 1})
    with pytest.raises(TrainingError, match=r"\(different: the labels\)"):
        train(begun)


def test_what_no_fold_depends_on_may_differ(begun: TrainOrder) -> None:
    described(begun, numTraining=2, note="checked")

    train(begun, plan=cascade_plan().model_copy(update={"plans_name": "another"}))

    assert sorted(path.name for path in begun.model.glob("fold_*/fold.json")) == ["fold.json"] * 2


def test_a_folder_in_which_nothing_was_trained_yet_takes_any_plan(begun: TrainOrder) -> None:
    for file in begun.model.glob("fold_*/*.safetensors"):
        file.unlink()

    train(begun, configuration="3d_lowres")

    assert json.loads((begun.model / "model.json").read_text())["configuration"] == "3d_lowres"
