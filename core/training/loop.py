"""Training one fold: epochs from top to bottom, each leaving a checkpoint."""

import logging
from contextlib import nullcontext

import torch

from core.domain.model import FOLD_FILE, WEIGHTS_FILE, FoldRecord
from core.domain.progress import Observer
from core.domain.record import write_json
from core.network.device import computing
from core.training import checkpoint
from core.training.course import best_epoch, has_ended
from core.training.epoch import Run, report, train_epoch
from core.training.fold import FoldSetup, begin
from core.training.loss import LossSetup, make_loss
from core.training.pretrained import keep_record
from core.training.saving import Saver, write_epochs
from core.training.step import TrainingState

log = logging.getLogger(__name__)


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
    state = begin(setup)
    if first:
        keep_record(state.pretrained, setup.folder)
    if first and state.epochs:
        write_epochs(state.epochs, setup.folder)
    for finished in state.epochs:
        observer.record_epoch(finished)
    saver = Saver(setup.folder, observer) if first else None
    run = Run(state, setup, loss, observer, saver)
    with saver or nullcontext(), computing(repeatable=settings.deterministic):
        while not has_ended(state.epochs, settings):
            state.epochs.append(train_epoch(run))
            if saver is not None:
                saver.save(checkpoint.snapshot(state, settings))
    report(run, epoch=settings.epochs, iterations=0)
    return _finish(state, setup)


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
