"""What one fold is trained from, and the state in which its training begins: fresh, or that of its checkpoint."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from core.domain.dataset import CaseId
from core.domain.grounds import Grounds, changed, grounds_of_training
from core.domain.labels import LabelSet
from core.domain.model import PrecisionName
from core.domain.plan import Configuration
from core.domain.problems import counted
from core.domain.stages import input_channels
from core.domain.training import TrainingSettings
from core.errors import TrainingError
from core.io.case_store import PreprocessedCase
from core.network.device import choose_device, choose_precision, is_possible
from core.network.unet import build_network
from core.training import checkpoint
from core.training.augmentations import prediction_mirror_axes
from core.training.checkpoint import CheckpointRecord
from core.training.course import has_ended
from core.training.loss import LossSetup, make_loss
from core.training.pretrained import StartWeights, begin_with
from core.training.ranks import ALONE, Ranks
from core.training.step import TrainingState, make_training_state
from core.training.turns import mirror_axes, swapped_values

log = logging.getLogger(__name__)

Checkpoint = tuple[CheckpointRecord, dict[str, Tensor]]
"""What is on disk of a training's state."""


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

    keeps_ended: bool = False
    """Whether such a training stays as it is if it stopped early, beside others that do go further; else it is refused."""


def examine(setup: FoldSetup) -> Checkpoint | None:
    """Look at all that can be wrong before a case is opened.

    Returns:
        The checkpoint that the training goes on from; None where it begins.

    Raises:
        TrainingError: The settings do not suit plan or labels, or the checkpoint is damaged, or belongs to a training
            with other settings, or by another plan, or on other cases or labels, or to one that stopped early.
        UnknownNameError: There is no loss or augmentation of that name.
        DeviceError: The device is not there, or has no such number format.
    """
    _require_enough_samples(setup)
    make_loss(LossSetup(setup.labels, setup.configuration.batch_dice, setup.settings, setup.ranks))
    prediction_mirror_axes(setup.configuration, setup.settings)
    swapped_values(setup.labels, setup.settings)
    choose_precision(setup.precision, choose_device(setup.device))
    found = checkpoint.read(setup.folder)
    if found is None:
        _require_reachable(setup)
    else:
        _require_same_settings(found[0].settings, setup)
        _require_same_grounds(found[0].grounds, _grounds(setup), setup.folder)
        _require_further_epochs(found[0], setup)
    return found


def begin(setup: FoldSetup) -> TrainingState:
    """Return a fresh state, or the one that the folder's checkpoint holds.

    A training goes on in the number format that it began in, unless its new device has none such.

    Raises:
        DomainError: As `examine`; or the checkpoint is that of another network.
    """
    found = examine(setup)
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
    state = replace(state, pretrained=pretrained, grounds=_grounds(setup))
    if found is not None:
        checkpoint.restore(state, *found)
    started = {"epoch": state.epoch, "epochs": setup.settings.epochs}
    log.info("training begins", extra=started | {"precision": precision, "device": device.type})
    return state


def _grounds(setup: FoldSetup) -> Grounds:
    """Return what a fold is trained from."""
    return grounds_of_training(
        setup.configuration, setup.labels, setup.training_cases, setup.validation_cases
    )


def _require_reachable(setup: FoldSetup) -> None:
    """Refuse settings of a new training of which one keeps another from ever having an effect.

    Raises:
        TrainingError: Labels are to change places along an axis that is not mirrored, or the warm-up is as long as
            the training.
    """
    settings = setup.settings
    mirrored = mirror_axes(len(setup.configuration.patch_size), settings)
    if settings.swap_axis is not None and settings.swap_axis not in mirrored:
        raise TrainingError(
            f"swap_axis is {settings.swap_axis}, but mirror_axes {list(mirrored)} leave that axis out, so that labels "
            "would never change places; add it to mirror_axes, or leave swapped_labels and swap_axis out"
        )
    if settings.warmup_epochs >= settings.epochs:
        raise TrainingError(
            f"warmup_epochs is {settings.warmup_epochs}, but the training has {counted(settings.epochs, 'epoch')}, so "
            "that the schedule would never begin; lower it, or train for more epochs"
        )


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


def _require_same_grounds(before: Grounds, now: Grounds, folder: Path) -> None:
    """Refuse to go on with another plan, or on other cases or labels, than a training was begun with.

    Raises:
        TrainingError: They differ; the sentence names each entry that does.
    """
    differing = changed(before, now)
    if differing:
        raise TrainingError(
            f"{folder.name} holds a training that began otherwise (different: {', '.join(differing)}); go on with the "
            "plan, cases and labels that it began with, or start anew in an empty folder",
            entries=[*differing],
        )


def _require_further_epochs(before: CheckpointRecord, setup: FoldSetup) -> None:
    """Refuse more epochs for a training that stopped early: it would do so again, at once.

    Raises:
        TrainingError: It did, and nobody said that it may stay as it is.
    """
    wants_more = setup.goes_further and setup.settings.epochs > before.settings.epochs
    if wants_more and not setup.keeps_ended and has_ended(before.epochs, setup.settings):
        raise TrainingError(
            f"{setup.folder.name} stopped early after {counted(len(before.epochs), 'epoch')} because it got no better, "
            "and would do so again at once; train anew without early_stop_epochs, or begin with its weights as those "
            "of a pretrained model",
            epochs=len(before.epochs),
        )
