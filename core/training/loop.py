"""Training one fold: epochs from top to bottom, each leaving a checkpoint."""

import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from core.domain.dataset import CaseId
from core.domain.labels import LabelSet
from core.domain.model import FOLD_FILE, WEIGHTS_FILE, FoldRecord, PrecisionName
from core.domain.plan import Configuration
from core.domain.progress import Observer, Progress
from core.domain.record import write_json
from core.domain.stages import input_channels
from core.domain.training import EpochRecord, TrainingSettings
from core.errors import CancelledError, TrainingError
from core.io.case_store import PreprocessedCase
from core.network.device import choose_device, choose_precision, computing, is_out_of_memory, is_possible
from core.network.unet import build_network
from core.training import checkpoint
from core.training.course import best_epoch, has_ended, smoothed
from core.training.loss import Loss, LossSetup, make_loss
from core.training.optimizer import set_learning_rate
from core.training.patches import Batch, batches
from core.training.pretrained import StartWeights, begin_with, keep_record
from core.training.ranks import ALONE, Ranks
from core.training.samples import SamplingSetup
from core.training.saving import Saver, write_epochs
from core.training.schedule import learning_rate
from core.training.step import (
    TrainingState,
    Validation,
    make_training_state,
    train_step,
    validate,
)
from core.training.targets import deep_supervision_scales

log = logging.getLogger(__name__)


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

    ranks: Ranks = ALONE
    """The processes that train the fold together; all of them read the same files."""

    initial: StartWeights | None = None
    """Weights to begin with instead of drawn ones; of no use to a training that goes on from its checkpoint."""

    goes_further: bool = False
    """Whether a training that was begun may be given more epochs than it was begun with."""


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
    first = setup.ranks.is_first
    if first:
        setup.folder.mkdir(parents=True, exist_ok=True)
    settings = setup.settings
    loss = make_loss(LossSetup(setup.labels, setup.configuration.batch_dice, settings, setup.ranks))
    state = _begin(setup)
    if first:
        keep_record(state.pretrained, setup.folder)
    if first and state.epochs:
        write_epochs(state.epochs, setup.folder)
    for finished in state.epochs:
        observer.record_epoch(finished)
    saver = Saver(setup.folder, observer) if first else None
    with saver or nullcontext(), computing(repeatable=settings.deterministic):
        while not has_ended(state.epochs, settings):
            state.epochs.append(_train_epoch(_Run(state, setup, loss, observer, saver)))
            if saver is not None:
                saver.save(checkpoint.snapshot(state, settings))
    _report(observer, settings, settings.epochs, 0, _note(state, settings))
    return _finish(state, setup)


@dataclass(frozen=True, slots=True)
class _Run:
    """A training that is under way."""

    state: TrainingState
    setup: FoldSetup
    loss: Loss
    observer: Observer
    saver: Saver | None


def _begin(setup: FoldSetup) -> TrainingState:
    """Return a fresh state, or the one that the folder's checkpoint holds.

    A training goes on in the number format that it began in, unless its new device has none such.

    Raises:
        TrainingError: The checkpoint is damaged, or belongs to a training with other settings.
    """
    _require_enough_samples(setup)
    found = checkpoint.read(setup.folder)
    device = choose_device(setup.device)
    precision = choose_precision(setup.precision, device).name
    if found is not None and setup.precision == "auto" and is_possible(found[0].precision, device):
        precision = found[0].precision
    network = build_network(
        setup.configuration.architecture,
        input_channels(setup.configuration, setup.labels),
        len(setup.labels.heads),
        seed=setup.settings.seed,
    )
    pretrained = begin_with(network, setup.initial, None if found is None else found[0])
    state = make_training_state(network, setup.settings, precision, device, setup.ranks)
    state = replace(state, pretrained=pretrained)
    if found is not None:
        record, tensors = found
        _require_same_settings(record.settings, setup)
        checkpoint.restore(state, record, tensors)
    started = {"epoch": state.epoch, "epochs": setup.settings.epochs}
    log.info("training begins", extra=started | {"precision": precision, "device": device.type})
    return state


def _require_enough_samples(setup: FoldSetup) -> None:
    """Refuse more processes than a batch has samples.

    Raises:
        TrainingError: There are more.
    """
    count, batch_size = setup.ranks.count, setup.configuration.batch_size
    if batch_size < count:
        raise TrainingError(
            f"a batch of {batch_size} cannot be shared by {count} processes; start at most {batch_size}, or plan "
            "with a larger batch"
        )


def _require_same_settings(before: TrainingSettings, setup: FoldSetup) -> None:
    """Refuse to go on along another path than the one that was begun.

    Raises:
        TrainingError: A setting differs; the sentence names each, with both values.
    """
    old, new = before.to_json(), setup.settings.to_json()
    if setup.goes_further and setup.settings.epochs > before.epochs:
        del old["epochs"]
    changes = [f"{name} {old[name]}, now {new[name]}" for name in old if old[name] != new[name]]
    if changes:
        raise TrainingError(
            f"{setup.folder.name} holds a training with other settings ({'; '.join(changes)}); "
            "go on with those, continue with more epochs, or start anew in an empty folder"
        )


def _train_epoch(run: _Run) -> EpochRecord:
    """Train and validate for one epoch.

    Raises:
        CancelledError: The observer asked to stop.
        TrainingError: The loss is not finite any more.
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
        validation = Validation(loss=None, pseudo_dice=(None,) * len(setup.labels.foreground_heads))
        if setup.validation_cases:
            with _drawn(run, is_training=False) as validating:
                validation = validate(state, _watched(validating, run), run.loss, setup.labels)
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
        raise TrainingError(
            f"the loss is not finite any more in epoch {state.epoch}: the training diverged; "
            "lower initial_learning_rate or train with precision fp32, and start anew",
            epoch=state.epoch,
        )
    if len(finite) < len(values):
        log.warning("steps were left out", extra={"epoch": state.epoch, "steps": len(values) - len(finite)})
    return finite.mean().item()


def _too_large(setup: FoldSetup) -> str:
    """Say what to change where a batch does not fit into memory."""
    configuration = setup.configuration
    patch = " x ".join(map(str, configuration.patch_size))
    return (
        f"memory ran out while training on batches of {configuration.batch_size} patches of {patch} voxels; plan "
        "with a smaller gpu_memory_gb, lower batch_size or patch_size in the plan, or end what else uses the device"
    )


def _drawn(run: _Run, *, is_training: bool) -> closing[Generator[Batch, None, None]]:
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


def _watched(drawn: Iterator[Batch], run: _Run) -> Iterator[Batch]:
    """Pass the batches of this epoch on, reporting each, and stop before the next one if asked to.

    Raises:
        CancelledError: The observer asked to stop.
    """
    state, settings = run.state, run.setup.settings
    note = _note(state, settings)
    for done, batch in enumerate(drawn):
        if run.saver is not None:
            run.saver.settle()
        if run.setup.ranks.agreed(flag=run.observer.stop_requested()):
            raise CancelledError(f"training stopped in epoch {state.epoch}", epoch=state.epoch)
        iterations = done if state.network.training else settings.iterations_per_epoch + done
        _report(run.observer, settings, state.epoch, iterations, note)
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
        epochs=state.epoch,
        best_epoch=best_epoch(state.epochs),
        pretrained=None if state.pretrained is None else state.pretrained.source,
    )
    if not setup.ranks.is_first:
        return record
    checkpoint.save_weights(checkpoint.snapshot(state, setup.settings), setup.folder / WEIGHTS_FILE)
    write_json(setup.folder / FOLD_FILE, record.to_json())
    checkpoint.forget_previous(setup.folder)
    log.info("training ends", extra={"epochs": state.epoch, "pseudo_dice": record.smoothed_pseudo_dice})
    return record
