import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.domain.model import FoldRecord
from core.domain.training import EpochRecord, TrainingSettings
from core.errors import CancelledError, TrainingError
from core.training import checkpoint
from core.training.course import smoothed
from core.training.loop import train_fold
from tests.core.training.small_training import CONFIGURATION, Listener, ball, recorded_epochs, setup_in

pytestmark = pytest.mark.usefixtures("one_thread")


def without_seconds(records: list[EpochRecord]) -> list[EpochRecord]:
    return [record.model_copy(update={"seconds": 0}) for record in records]


def test_a_training_leaves_weights_records_and_a_checkpoint(tmp_path: Path) -> None:
    listener = Listener()

    record = train_fold(setup_in(tmp_path), listener)

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint.safetensors",
        "epochs.jsonl",
        "fold.json",
        "weights.safetensors",
        "weights_best.safetensors",
    ]
    assert FoldRecord.model_validate_json((tmp_path / "fold.json").read_text()) == record
    assert record.training_cases == ("a", "b")
    assert recorded_epochs(tmp_path) == listener.epochs
    assert [epoch.epoch for epoch in listener.epochs] == [0, 1, 2]
    assert listener.epochs[0].pseudo_dice.keys() == {"ball"}
    assert listener.epochs[2].train_loss < listener.epochs[0].train_loss
    weights = load_file(tmp_path / "weights.safetensors")
    assert "encoder.stages.0.0.convs.0.conv.weight" in weights
    assert len(weights) == 28
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_progress_counts_iterations_over_all_epochs(tmp_path: Path) -> None:
    listener = Listener()

    train_fold(setup_in(tmp_path, epochs=2), listener)

    assert [progress.done for progress in listener.progress] == list(range(13))
    assert {progress.total for progress in listener.progress} == {12}
    assert listener.progress[0].note == "epoch 1 of 2"
    assert "pseudo Dice" in listener.progress[-1].note


CHOICES: list[dict[str, Any]] = [
    {},
    {"deterministic": True},
    {"optimizer": "adamw", "initial_learning_rate": 1e-3, "schedule": "cosine", "warmup_epochs": 1},
    {"optimizer": "adam", "loss": "dice_topk", "deep_supervision": False, "augmentation": "strong"},
]


@pytest.mark.parametrize(
    ("chosen", "stopped_after"),
    [(CHOICES[0], after) for after in (-1, 3, 5, 6, 11, 15, 16)]
    + [(chosen, after) for chosen in CHOICES[1:] for after in (0, 6, 15)],
)
def test_a_training_stopped_anywhere_and_continued_ends_bit_equal_to_an_unbroken_one(
    tmp_path: Path, chosen: dict[str, Any], stopped_after: int
) -> None:
    unbroken = Listener()
    train_fold(setup_in(tmp_path / "unbroken", **chosen), unbroken)
    broken = setup_in(tmp_path / "broken", **chosen)

    with pytest.raises(CancelledError):
        train_fold(broken, Listener(stops=lambda done: done >= stopped_after))
    resumed = Listener()
    train_fold(broken, resumed)

    expected = load_file(tmp_path / "unbroken/weights.safetensors")
    weights = load_file(tmp_path / "broken/weights.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert without_seconds(resumed.epochs) == without_seconds(unbroken.epochs)
    assert without_seconds(recorded_epochs(tmp_path / "broken")) == without_seconds(unbroken.epochs)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = train_fold(setup_in(tmp_path), Listener())
    again = Listener()

    assert train_fold(setup_in(tmp_path), again) == first
    assert len(again.epochs) == 3
    assert [progress.done for progress in again.progress] == [18]


def test_a_training_that_gets_no_better_stops_early_and_keeps_its_best_weights(tmp_path: Path) -> None:
    listener = Listener()
    chosen: dict[str, Any] = {"initial_learning_rate": 1e-12, "early_stop_epochs": 2}

    record = train_fold(setup_in(tmp_path, epochs=50, **chosen), listener)

    smooth = [epoch.smoothed_pseudo_dice or 0 for epoch in listener.epochs]
    assert record.epochs == len(listener.epochs) < 50
    assert record.best_epoch == smooth.index(max(smooth)) == len(smooth) - 3
    assert listener.progress[-1].done == listener.progress[-1].total
    assert (tmp_path / "weights_best.safetensors").exists()
    again = Listener()
    assert train_fold(setup_in(tmp_path, epochs=50, **chosen), again) == record


def test_where_memory_runs_out_the_sentence_says_what_to_change(tmp_path: Path) -> None:
    huge = CONFIGURATION.model_copy(update={"patch_size": (2**17, 2**17, 2**17)})

    with pytest.raises(TrainingError, match=r"memory ran out .* 131072 voxels; plan with a smaller"):
        train_fold(replace(setup_in(tmp_path), configuration=huge), Listener())


def test_an_epoch_is_told_of_once_its_checkpoint_is_on_disk(tmp_path: Path) -> None:
    seen = []

    class Looking(Listener):
        def record_epoch(self, epoch: EpochRecord) -> None:
            found = checkpoint.find(tmp_path)
            seen.append((epoch.epoch, 0 if found is None else found[1]))

    train_fold(setup_in(tmp_path), Looking())

    assert seen == [(0, 1), (1, 2), (2, 3)]


def test_a_checkpoint_that_cannot_be_written_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)

    with pytest.raises(OSError, match="No space left"):
        train_fold(setup_in(tmp_path), Listener())


def test_a_diverged_training_ends_with_a_sentence(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    infinite = replace(ball(0), voxels_czyx=np.full((1, 12, 12, 12), np.inf, np.float32))

    with pytest.raises(TrainingError, match="diverged"):
        train_fold(replace(setup, training_cases={"a": infinite}), Listener())
    assert not (tmp_path / checkpoint.LATEST).exists()


@pytest.mark.parametrize(
    ("rate", "what"), [(1e38, "weights are not finite"), (1e13, "the validation loss is not finite")]
)
def test_a_training_that_its_last_step_spoils_keeps_nothing_of_that_epoch(
    tmp_path: Path, rate: float, what: str
) -> None:
    settings = TrainingSettings(
        epochs=1,
        iterations_per_epoch=1,
        validation_iterations_per_epoch=1,
        initial_learning_rate=rate,
        optimizer="adamw",
    )
    listener = Listener()

    with pytest.raises(TrainingError, match=f"{what} any more in epoch 0: the training diverged"):
        train_fold(replace(setup_in(tmp_path), settings=settings), listener)

    assert listener.epochs == []
    assert not list(tmp_path.glob("*.safetensors"))


def test_without_validation_cases_nothing_is_validated(tmp_path: Path) -> None:
    listener = Listener()

    train_fold(replace(setup_in(tmp_path, epochs=1), validation_cases={}), listener)

    (record,) = listener.epochs
    assert record.validation_loss is None
    assert record.pseudo_dice == {"ball": None}
    assert json.loads((tmp_path / "fold.json").read_text())["smoothed_pseudo_dice"] is None


def test_the_moving_average_skips_epochs_without_a_value() -> None:
    assert smoothed(None, None) is None
    assert smoothed(None, 0.5) == 0.5
    assert smoothed(0.5, None) == 0.5
    assert smoothed(0.5, 1.0) == pytest.approx(0.55)
