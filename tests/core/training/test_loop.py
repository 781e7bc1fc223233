import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.domain.labels import label_key, label_set
from core.domain.model import FoldRecord
from core.domain.plan import Configuration
from core.domain.progress import Progress
from core.domain.training import EpochRecord, TrainingSettings
from core.errors import CancelledError, TrainingError
from core.io.case_store import PreprocessedCase
from core.training import checkpoint
from core.training.course import smoothed
from core.training.fold import FoldSetup
from core.training.loop import train_fold
from tests.core.training.setups import uncropped
from tests.factories import voxels_of

LABELS = label_set({"background": 0, "ball": 1}, None)
CONFIGURATION = Configuration.model_validate(
    {
        "batch_size": 2,
        "patch_size": [8, 8, 8],
        "spacing": [1, 1, 1],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {},
        "resampling_fn_seg_kwargs": {},
        "resampling_fn_probabilities_kwargs": {},
        "architecture": {
            "network_class_name": "PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [4, 8],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * 2,
                "strides": [[1, 1, 1], [2, 2, 2]],
                "n_conv_per_stage": [2, 2],
                "n_conv_per_stage_decoder": [2],
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "nonlin": "torch.nn.LeakyReLU",
            },
        },
    }
)


def ball(seed: int) -> PreprocessedCase:
    """A bright ball in noise, as preprocessing would leave it."""
    z, y, x = np.ogrid[:12, :12, :12]
    labels_zyx = ((z - 6) ** 2 + (y - 6) ** 2 + (x - 5 - seed) ** 2 < 16).astype(np.int16)
    noise_zyx = np.random.default_rng(seed).normal(size=labels_zyx.shape)
    return PreprocessedCase(
        voxels_czyx=(2 * labels_zyx + 0.3 * noise_zyx)[None].astype(np.float32),
        labels_zyx=labels_zyx,
        properties=uncropped((12, 12, 12)),
        locations={label_key(1): voxels_of(labels_zyx > 0)},
    )


def setup_in(folder: Path, *, epochs: int = 3, **chosen: Any) -> FoldSetup:
    return FoldSetup(
        training_cases={"a": ball(0), "b": ball(1)},
        validation_cases={"c": ball(2)},
        configuration=CONFIGURATION,
        labels=LABELS,
        settings=TrainingSettings(
            epochs=epochs, iterations_per_epoch=4, validation_iterations_per_epoch=2, seed=5, **chosen
        ),
        folder=folder,
        device="cpu",
        precision="fp32",
    )


@dataclass
class Listener:
    """Takes note of everything, and asks to stop once `stops` is true of the iterations done."""

    stops: Callable[[int], bool] = lambda _done: False
    progress: list[Progress] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)

    def report(self, progress: Progress) -> None:
        self.progress.append(progress)

    def record_epoch(self, epoch: EpochRecord) -> None:
        self.epochs.append(epoch)

    def stop_requested(self) -> bool:
        return self.stops(self.progress[-1].done if self.progress else -1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def without_seconds(records: list[EpochRecord]) -> list[EpochRecord]:
    return [record.model_copy(update={"seconds": 0}) for record in records]


def lines(folder: Path) -> list[EpochRecord]:
    return [
        EpochRecord.model_validate_json(line) for line in (folder / "epochs.jsonl").read_text().splitlines()
    ]


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
    assert lines(tmp_path) == listener.epochs
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
    assert without_seconds(lines(tmp_path / "broken")) == without_seconds(unbroken.epochs)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = train_fold(setup_in(tmp_path), Listener())
    again = Listener()

    assert train_fold(setup_in(tmp_path), again) == first
    assert len(again.epochs) == 3
    assert [progress.done for progress in again.progress] == [18]


def interrupted_in_third_epoch(setup: FoldSetup) -> None:
    with pytest.raises(CancelledError):
        train_fold(setup, Listener(stops=lambda done: done >= 13))


def test_a_damaged_checkpoint_falls_back_to_the_previous_one(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    interrupted_in_third_epoch(setup)
    content = bytearray((tmp_path / checkpoint.LATEST).read_bytes())
    content[-20] ^= 1
    (tmp_path / checkpoint.LATEST).write_bytes(content)

    found = checkpoint.read(tmp_path)

    assert found is not None
    assert len(found[0].epochs) == 1
    train_fold(setup, Listener())
    assert [record.epoch for record in lines(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x02\0\0\0\0\0\0\0{}"])
def test_no_readable_checkpoint_is_said_plainly(tmp_path: Path, content: bytes) -> None:
    (tmp_path / checkpoint.LATEST).write_bytes(content)

    with pytest.raises(TrainingError, match="start it anew"):
        train_fold(setup_in(tmp_path), Listener())


def test_a_crash_between_the_renames_loses_one_epoch_at_most(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    interrupted_in_third_epoch(setup)
    (tmp_path / checkpoint.LATEST).unlink()

    found = checkpoint.read(tmp_path)

    assert found is not None
    assert len(found[0].epochs) == 1


def test_other_settings_do_not_go_on(tmp_path: Path) -> None:
    train_fold(setup_in(tmp_path, epochs=1), Listener())

    with pytest.raises(TrainingError, match=r"epochs 1, now 2"):
        train_fold(setup_in(tmp_path, epochs=2), Listener())


def test_a_finished_training_goes_on_with_more_epochs_if_that_is_asked_for(tmp_path: Path) -> None:
    train_fold(setup_in(tmp_path, epochs=2), Listener())
    listener = Listener()

    record = train_fold(replace(setup_in(tmp_path, epochs=4), goes_further=True), listener)

    assert [epoch.epoch for epoch in listener.epochs] == [0, 1, 2, 3]
    assert record.epochs == record.settings.epochs == 4
    assert listener.epochs[2].learning_rate == pytest.approx(0.01 * 0.5**0.9)


def test_more_epochs_are_all_that_may_change_on_the_way(tmp_path: Path) -> None:
    train_fold(setup_in(tmp_path, epochs=2), Listener())

    for chosen in ({"epochs": 1}, {"epochs": 3, "momentum": 0.9}):
        with pytest.raises(TrainingError, match="holds a training with other settings"):
            train_fold(replace(setup_in(tmp_path, **chosen), goes_further=True), Listener())


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


def test_another_network_does_not_go_on(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    train_fold(setup, Listener())
    other = label_set({"background": 0, "ball": 1, "cube": 2}, None)

    with pytest.raises(TrainingError, match="another network"):
        train_fold(replace(setup, labels=other), Listener())


def test_a_newer_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_fold(setup_in(tmp_path, epochs=1), Listener())
    monkeypatch.setattr(checkpoint, "VERSION", 0)

    with pytest.raises(TrainingError, match="update it"):
        checkpoint.read(tmp_path)


def test_a_diverged_training_ends_with_a_sentence(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    infinite = replace(ball(0), voxels_czyx=np.full((1, 12, 12, 12), np.inf, np.float32))

    with pytest.raises(TrainingError, match="diverged"):
        train_fold(replace(setup, training_cases={"a": infinite}), Listener())
    assert not (tmp_path / checkpoint.LATEST).exists()


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
