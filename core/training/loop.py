"""Training one fold: epochs from top to bottom, each leaving a checkpoint."""

import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from core.domain.dataset import CaseId
from core.domain.labels import LabelSet
from core.domain.model import EPOCHS_FILE, FOLD_FILE, WEIGHTS_FILE, FoldRecord, PrecisionName
from core.domain.plan import Configuration
from core.domain.progress import Observer, Progress
from core.domain.record import write_json
from core.domain.training import EpochRecord, TrainingSettings
from core.errors import CancelledError, TrainingError
from core.io.case_store import PreprocessedCase
from core.network.device import choose_device, choose_precision, is_possible
from core.network.unet import build_network
from core.training import checkpoint
from core.training.loss import Loss, segmentation_loss
from core.training.patches import Batch, batches
from core.training.samples import SamplingSetup
from core.training.schedule import learning_rate
from core.training.step import (
    TrainingState,
    Validation,
    make_training_state,
    set_learning_rate,
    train_step,
    validate,
)
from core.training.targets import deep_supervision_scales

log = logging.getLogger(__name__)

SMOOTHING = 0.9
"""Share of the previous value in the moving average of pseudo Dice. Source: engine specification B 1.1."""


@dataclass(frozen=True, slots=True)
class FoldSetup:
    """Everything that one fold is trained from."""

    training_cases: Mapping[CaseId, PreprocessedCase]
    """Memory-mapped, as those below."""

    validation_cases: Mapping[CaseId, PreprocessedCase]
    """May be empty; then epochs are not validated."""

    configuration: Configuration
    labels: LabelSet
    settings: TrainingSettings

    folder: Path
    """Of the fold, in the folder of the model; a training that was interrupted in it goes on."""

    device: str = "auto"
    """cpu, cuda, cuda:1 …; auto takes a GPU if there is one."""

    precision: PrecisionName | Literal["auto"] = "auto"
    """Number format of the network; auto takes the device's best."""


def train_fold(setup: FoldSetup, observer: Observer) -> FoldRecord:
    """Train until the last epoch, saving a checkpoint after each, then write the weights.

    Epochs that an interrupted training finished are handed to the observer again, so that its records
    are whole even if it was lost between checkpoint and record.

    Args:
        setup: Cases, plan and settings.
        observer: Told of every iteration and epoch, and asked before each iteration whether to stop.

    Returns:
        What is written beside the weights.

    Raises:
        CancelledError: The observer asked to stop. The last checkpoint is complete; the epoch that was
            under way is repeated by whoever goes on.
        TrainingError: The training cannot start, go on from its checkpoint, or has diverged.

    Source:
        Engine specification B 1.3.
    """
    setup.folder.mkdir(parents=True, exist_ok=True)
    state = _begin(setup)
    _write_epochs(state, setup.folder)
    for finished in state.epochs:
        observer.record_epoch(finished)
    loss = segmentation_loss(setup.labels, batch_dice=setup.configuration.batch_dice)
    with torch.backends.cudnn.flags(benchmark=True, deterministic=False):
        while state.epoch < setup.settings.epochs:
            record = _train_epoch(state, setup, loss, observer)
            state.epochs.append(record)
            checkpoint.save(state, setup.settings, setup.folder)
            _write_epochs(state, setup.folder)
            observer.record_epoch(record)
    _report(observer, setup.settings, state.epoch, 0, _note(state, setup.settings))
    return _finish(state, setup)


def _begin(setup: FoldSetup) -> TrainingState:
    """Return a fresh state, or the one that the folder's checkpoint holds.

    A training goes on in the number format that it began in, unless its new device has none such.

    Raises:
        TrainingError: The checkpoint is damaged, or belongs to a training with other settings.
    """
    found = checkpoint.read(setup.folder)
    device = choose_device(setup.device)
    precision = choose_precision(setup.precision, device).name
    if found is not None and setup.precision == "auto" and is_possible(found[0].precision, device):
        precision = found[0].precision
    network = build_network(
        setup.configuration.architecture,
        len(setup.configuration.normalization_schemes),
        len(setup.labels.heads),
        seed=setup.settings.seed,
    )
    state = make_training_state(network, setup.settings, precision, device)
    if found is not None:
        record, tensors = found
        _require_same_settings(record.settings, setup)
        checkpoint.restore(state, record, tensors)
    started = {"epoch": state.epoch, "epochs": setup.settings.epochs}
    log.info("training begins", extra=started | {"precision": precision, "device": device.type})
    return state


def _require_same_settings(before: TrainingSettings, setup: FoldSetup) -> None:
    """Refuse to go on along another path than the one that was begun.

    Raises:
        TrainingError: A setting differs; the sentence names each, with both values.
    """
    old, new = before.to_json(), setup.settings.to_json()
    changes = [f"{name} {old[name]}, now {new[name]}" for name in old if old[name] != new[name]]
    if changes:
        raise TrainingError(
            f"{setup.folder.name} holds a training with other settings ({'; '.join(changes)}); "
            "go on with those, or start anew in an empty folder"
        )


def _train_epoch(state: TrainingState, setup: FoldSetup, loss: Loss, observer: Observer) -> EpochRecord:
    """Train and validate for one epoch.

    Raises:
        CancelledError: The observer asked to stop.
        TrainingError: The loss is not finite any more.
    """
    started = time.monotonic()
    settings = setup.settings
    rate = learning_rate(state.epoch, settings.epochs, settings.initial_learning_rate)
    set_learning_rate(state, rate)
    state.network.train()
    with _drawn(state, setup, is_training=True) as training:
        limit = settings.gradient_norm_limit
        losses = [
            train_step(state, batch, loss, limit) for batch in _watched(training, state, setup, observer)
        ]
    train_loss = _mean(losses, state)
    validation = Validation(loss=None, pseudo_dice=(None,) * len(setup.labels.foreground_heads))
    if setup.validation_cases:
        with _drawn(state, setup, is_training=False) as validating:
            seen = _watched(validating, state, setup, observer)
            validation = validate(state, seen, loss, setup.labels)
    mean = validation.mean_pseudo_dice
    return EpochRecord(
        epoch=state.epoch,
        train_loss=train_loss,
        validation_loss=validation.loss,
        pseudo_dice=dict(zip(setup.labels.foreground_names, validation.pseudo_dice, strict=True)),
        mean_pseudo_dice=mean,
        smoothed_pseudo_dice=smoothed(state.epochs[-1].smoothed_pseudo_dice if state.epochs else None, mean),
        learning_rate=rate,
        seconds=time.monotonic() - started,
    )


def smoothed(previous: float | None, new: float | None) -> float | None:
    """Return the moving average of pseudo Dice; an epoch without a value leaves it as it was.

    Source:
        Engine specification B 1.10, Q3.
    """
    if previous is None or new is None:
        return previous if new is None else new
    return SMOOTHING * previous + (1 - SMOOTHING) * new


def _mean(losses: Sequence[Tensor], state: TrainingState) -> float:
    """Fetch the losses of an epoch from the device and return their mean.

    With a scaled loss, a step whose gradients overflow is left out by the scaler, and so is its loss.

    Raises:
        TrainingError: The network diverged: without a scaler one loss is not finite, or with one none is.
    """
    values = torch.stack(list(losses)).float().cpu()
    finite = values[values.isfinite()]
    if len(finite) == 0 or (state.scaler is None and len(finite) < len(values)):
        raise TrainingError(
            f"the loss is not finite any more in epoch {state.epoch}: the training diverged; "
            "lower initial_learning_rate or train with precision fp32, and start anew",
            epoch=state.epoch,
        )
    if len(finite) < len(values):
        log.warning("steps were left out", extra={"epoch": state.epoch, "steps": len(values) - len(finite)})
    return finite.mean().item()


def _drawn(
    state: TrainingState, setup: FoldSetup, *, is_training: bool
) -> closing[Generator[Batch, None, None]]:
    """Return the batches of this epoch, in a context that ends their background thread."""
    sampling = SamplingSetup(
        cases=setup.training_cases if is_training else setup.validation_cases,
        configuration=setup.configuration,
        labels=setup.labels,
        masked_channels=setup.configuration.use_mask_for_norm,
        settings=setup.settings,
        deep_supervision_scales=deep_supervision_scales(setup.configuration.architecture),
        is_training=is_training,
    )
    return closing(batches(sampling, state.epoch, state.device))


def _watched(
    drawn: Iterator[Batch], state: TrainingState, setup: FoldSetup, observer: Observer
) -> Iterator[Batch]:
    """Pass the batches of this epoch on, reporting each, and stop before the next one if asked to.

    Raises:
        CancelledError: The observer asked to stop.
    """
    note = _note(state, setup.settings)
    for done, batch in enumerate(drawn):
        if observer.stop_requested():
            raise CancelledError(f"training stopped in epoch {state.epoch}", epoch=state.epoch)
        iterations = done if state.network.training else setup.settings.iterations_per_epoch + done
        _report(observer, setup.settings, state.epoch, iterations, note)
        yield batch


def _report(observer: Observer, settings: TrainingSettings, epoch: int, iterations: int, note: str) -> None:
    """Report progress in iterations of training and validation, over all epochs."""
    per_epoch = settings.iterations_per_epoch + settings.validation_iterations_per_epoch
    done, total = epoch * per_epoch + iterations, settings.epochs * per_epoch
    observer.report(Progress(stage="train", done=done, total=total, note=note))


def _note(state: TrainingState, settings: TrainingSettings) -> str:
    """Say in a few words how the training stands after its last finished epoch."""
    words = f"epoch {min(state.epoch + 1, settings.epochs)} of {settings.epochs}"
    if not state.epochs:
        return words
    last = state.epochs[-1]
    dice = "" if last.mean_pseudo_dice is None else f", pseudo Dice {last.mean_pseudo_dice:.3f}"
    return f"{words}, loss {last.train_loss:.3f}{dice}"


def _write_epochs(state: TrainingState, folder: Path) -> None:
    """Write all finished epochs, one per line, so that each stands there once whatever was interrupted."""
    partial = folder / f"{EPOCHS_FILE}.partial"
    partial.write_text("".join(f"{record.model_dump_json()}\n" for record in state.epochs))
    partial.replace(folder / EPOCHS_FILE)


def _finish(state: TrainingState, setup: FoldSetup) -> FoldRecord:
    """Write the weights and what is known of them; the last checkpoint stays, its predecessor goes."""
    record = FoldRecord(
        training_cases=tuple(setup.training_cases),
        validation_cases=tuple(setup.validation_cases),
        settings=setup.settings,
        precision=state.precision,
        device=state.device.type,
        torch_version=str(torch.__version__),
        smoothed_pseudo_dice=state.epochs[-1].smoothed_pseudo_dice,
    )
    checkpoint.save_weights(state, setup.folder / WEIGHTS_FILE)
    write_json(setup.folder / FOLD_FILE, record.to_json())
    checkpoint.forget_previous(setup.folder)
    log.info("training ends", extra={"epochs": state.epoch, "pseudo_dice": record.smoothed_pseudo_dice})
    return record
