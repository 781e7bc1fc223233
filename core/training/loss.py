"""What a training minimises, by name, and how it is taken over all outputs of the network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.domain.labels import LabelSet
from core.domain.training import TrainingSettings
from core.errors import TrainingError
from core.extensions import Group
from core.registry import Registry
from core.training import plain_loss
from core.training.dice_ce import Rules, fused_loss
from core.training.ranks import ALONE, Ranks

Loss = Callable[[Tensor, Tensor], Tensor]
"""Loss of (logits, target) of one output of the network: a scalar tensor.

Logits are (b, k, spatial axes), one channel per head. The target has label values (b, 1, spatial axes), the
ignore label among them; with regions it is boolean (b, r, spatial axes), and has a last channel that marks
ignored voxels if the dataset declares an ignore label.
"""


@dataclass(frozen=True, slots=True)
class LossSetup:
    """What a loss is made for."""

    labels: LabelSet
    """What the network tells apart."""
    batch_dice: bool
    """Whether Dice is taken over the whole batch instead of each sample, as the plan says."""
    settings: TrainingSettings
    ranks: Ranks = ALONE
    """The processes that share a batch."""


MakeLoss = Callable[[LossSetup], Loss]
"""Makes a loss, or raises a TrainingError where it does not suit the dataset."""

LOSSES: Registry[MakeLoss] = Registry("loss", Group.LOSS)
"""By the names that `TrainingSettings.loss` may have."""


def make_loss(setup: LossSetup) -> Loss:
    """Return the loss that the settings name.

    Raises:
        UnknownNameError: There is none of that name.
        TrainingError: It does not suit the dataset.
    """
    return LOSSES.get(setup.settings.loss)(setup)


@LOSSES.register("dice_ce")
def _dice_and_cross_entropy(setup: LossSetup) -> Loss:
    """Cross-entropy minus mean Dice; engine specification B 1.8, B 1.9."""
    rules = Rules(setup.batch_dice, setup.settings.dice_smoothing, setup.ranks)
    if setup.settings.label_smoothing == 0 and setup.settings.dice_smoothing > 0:
        return fused_loss(setup.labels, rules)
    return _sum(_cross_entropy(setup), _dice(setup))


@LOSSES.register("ce")
def _cross_entropy(setup: LossSetup) -> Loss:
    """Cross-entropy alone; engine specification B 5."""
    terms = plain_loss.cross_entropy(setup.labels, setup.settings.label_smoothing)
    return plain_loss.mean(terms, setup.labels, setup.ranks)


@LOSSES.register("dice")
def _dice(setup: LossSetup) -> Loss:
    """Dice alone; engine specification B 5."""
    return plain_loss.dice(setup.labels, Rules(setup.batch_dice, setup.settings.dice_smoothing, setup.ranks))


@LOSSES.register("topk")
def _hardest(setup: LossSetup) -> Loss:
    """Cross-entropy of the hardest tenth of the voxels; engine specification B 5."""
    if setup.labels.has_regions:
        raise TrainingError(
            "the loss topk needs labels that exclude each other, but the dataset declares regions; "
            "choose dice_ce, ce or dice"
        )
    terms = plain_loss.cross_entropy(setup.labels, setup.settings.label_smoothing)
    return plain_loss.mean_of_hardest(terms, setup.labels, setup.ranks)


@LOSSES.register("dice_topk")
def _dice_and_hardest(setup: LossSetup) -> Loss:
    """Cross-entropy of the hardest tenth of the voxels minus mean Dice; engine specification B 5."""
    return _sum(_hardest(setup), _dice(setup))


def _sum(one: Loss, other: Loss) -> Loss:
    """Return a loss that adds two up."""
    return lambda logits, target: one(logits, target) + other(logits, target)


def deep_supervision_weights(outputs: int) -> tuple[float, ...]:
    """Return the weight of each output's loss, highest resolution first; they add up to 1.

    Each output counts half as much as the next finer one, the coarsest nothing; but an only output
    counts fully.

    Source:
        Engine specification B 1.7, where a single output has no defined weight.
    """
    if outputs == 1:
        return (1.0,)
    raw = [0.5**index for index in range(outputs - 1)]
    return (*(weight / sum(raw) for weight in raw), 0.0)


def deeply_supervised(loss: Loss, logits: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return the weighted sum of the losses of all outputs; those of weight 0 are not computed.

    Args:
        loss: Of one output.
        logits: Highest resolution first.
        targets: Of the same sizes.
    """
    weights = deep_supervision_weights(len(logits))
    parts = [
        weight * loss(output, target)
        for weight, output, target in zip(weights, logits, targets, strict=True)
        if weight
    ]
    return torch.stack(parts).sum()
