"""One epoch of a training: its learning rate, its batches, what it measured, and how far the training is."""

import logging
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from core.domain.progress import Observer, Progress
from core.domain.training import EpochRecord, TrainingSettings
from core.errors import CancelledError, TrainingError
from core.network.device import is_out_of_memory
from core.training.course import smoothed
from core.training.fold import FoldSetup
from core.training.loss import Loss
from core.training.optimizer import set_learning_rate
from core.training.patches import Batch, batches
from core.training.samples import SamplingSetup
from core.training.saving import Saver
from core.training.schedule import learning_rate
from core.training.step import TrainingState, Validation, train_step, validate
from core.training.targets import deep_supervision_scales

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """A training that is under way."""

    state: TrainingState
    setup: FoldSetup
    loss: Loss
    observer: Observer
    saver: Saver | None
    """Of the process that writes for all; None in the others."""


def train_epoch(run: Run) -> EpochRecord:
    """Train and validate for one epoch.

    Raises:
        CancelledError: The observer asked to stop.
        TrainingError: A loss or a weight is not finite any more; nothing of this epoch is kept.
    """
    state, setup, started = run.state, run.setup, time.monotonic()
    settings = setup.settings
    rate = learning_rate(state.epoch, settings)
    set_learning_rate(state.optimizer, rate)
    state.network.train()
    try:
        with _drawn(run, is_training=True) as training:
            limit = settings.gradient_norm_limit
            losses = [train_step(state, batch, run.loss, limit) for batch in _watched(training, run)]
        train_loss = _mean(losses, state)
        _require_finite_weights(state)
        validation = Validation(loss=None, pseudo_dice=(None,) * len(setup.labels.foreground_heads))
        if setup.validation_cases:
            with _drawn(run, is_training=False) as validating:
                validation = validate(state, _watched(validating, run), run.loss, setup.labels)
            if validation.loss is None and state.scaler is None:
                raise _diverged("the validation loss is", state)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise TrainingError(_too_large(setup), epoch=state.epoch) from error
        raise
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


def _mean(losses: Sequence[Tensor], state: TrainingState) -> float:
    """Fetch the losses of an epoch from the device and return their mean.

    With a scaled loss, a step whose gradients overflow is left out by the scaler, and so is its loss.

    Raises:
        TrainingError: The network diverged: without a scaler one loss is not finite, or with one none is.
    """
    values = torch.stack(list(losses)).float().cpu()
    finite = values[values.isfinite()]
    if len(finite) == 0 or (state.scaler is None and len(finite) < len(values)):
        raise _diverged("the loss is", state)
    if len(finite) < len(values):
        log.warning("steps were left out", extra={"epoch": state.epoch, "steps": len(values) - len(finite)})
    return finite.mean().item()


def _require_finite_weights(state: TrainingState) -> None:
    """Look at the weights once per epoch: the last step may have spoilt them, which no training loss shows.

    Raises:
        TrainingError: The network diverged.
    """
    # A norm overflows to infinity where weights are far beyond use, and is NaN where one of them is.
    norms = torch.stack(torch._foreach_norm([*state.network.parameters()]))  # noqa: SLF001 - what clipping uses
    if not norms.isfinite().all():
        raise _diverged("weights are", state)


def _diverged(what: str, state: TrainingState) -> TrainingError:
    """Say that nothing can come of a training."""
    return TrainingError(
        f"{what} not finite any more in epoch {state.epoch}: the training diverged; "
        "lower initial_learning_rate or train with precision fp32, and start anew",
        epoch=state.epoch,
    )


def _too_large(setup: FoldSetup) -> str:
    """Say what to change where a batch does not fit into memory."""
    configuration = setup.configuration
    patch = " x ".join(map(str, configuration.patch_size))
    return (
        f"memory ran out while training on batches of {configuration.batch_size} patches of {patch} voxels; plan "
        "with a smaller gpu_memory_gb, lower batch_size or patch_size in the plan, or end what else uses the device"
    )


def _drawn(run: Run, *, is_training: bool) -> closing[Generator[Batch, None, None]]:
    """Return the batches of this epoch, in a context that ends their background thread."""
    setup = run.setup
    scales = deep_supervision_scales(setup.configuration.architecture)
    sampling = SamplingSetup(
        cases=setup.training_cases if is_training else setup.validation_cases,
        configuration=setup.configuration,
        labels=setup.labels,
        masked_channels=setup.configuration.use_mask_for_norm,
        settings=setup.settings,
        deep_supervision_scales=scales if setup.settings.deep_supervision else scales[:1],
        is_training=is_training,
        ranks=setup.ranks,
    )
    return closing(batches(sampling, run.state.epoch, run.state.device))


def _watched(drawn: Iterator[Batch], run: Run) -> Iterator[Batch]:
    """Pass the batches of this epoch on, reporting each, and stop before the next one if asked to.

    Raises:
        CancelledError: The observer asked to stop.
    """
    state, settings = run.state, run.setup.settings
    for done, batch in enumerate(drawn):
        if run.saver is not None:
            run.saver.settle()
        if run.setup.ranks.agreed(flag=run.observer.stop_requested()):
            raise CancelledError(f"training stopped in epoch {state.epoch}", epoch=state.epoch)
        iterations = done if state.network.training else settings.iterations_per_epoch + done
        report(run, epoch=state.epoch, iterations=iterations)
        yield batch


def report(run: Run, *, epoch: int, iterations: int) -> None:
    """Report progress in iterations of training and validation, over all epochs."""
    settings = run.setup.settings
    per_epoch = settings.iterations_per_epoch + settings.validation_iterations_per_epoch
    done, total = epoch * per_epoch + iterations, settings.epochs * per_epoch
    run.observer.report(Progress(stage="train", done=done, total=total, note=_note(run.state, settings)))


def _note(state: TrainingState, settings: TrainingSettings) -> str:
    """Say in a few words how the training stands after its last finished epoch."""
    words = f"epoch {min(state.epoch + 1, settings.epochs)} of {settings.epochs}"
    if not state.epochs:
        return words
    last = state.epochs[-1]
    dice = "" if last.mean_pseudo_dice is None else f", pseudo Dice {last.mean_pseudo_dice:.3f}"
    return f"{words}, loss {last.train_loss:.3f}{dice}"
