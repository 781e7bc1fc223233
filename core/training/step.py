"""One optimisation step, and one validation pass."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from core.domain.grounds import Grounds
from core.domain.labels import REGION_THRESHOLD, LabelSet
from core.domain.model import PrecisionName
from core.domain.pretraining import PretrainedRecord
from core.domain.training import EpochRecord, TrainingSettings
from core.errors import TrainingError
from core.network.contract import Network
from core.network.device import autocast
from core.training.loss import Loss, deeply_supervised
from core.training.optimizer import make_optimizer
from core.training.patches import Batch
from core.training.ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class TrainingState:
    """A network, what optimises it, and how it came along; the one thing that training changes."""

    network: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    """Keeps gradients within float16's range; None in other formats."""
    precision: PrecisionName
    device: torch.device
    model: nn.Module
    """The network, or what wraps it so that several processes train it together."""
    ranks: Ranks = ALONE
    epochs: list[EpochRecord] = field(default_factory=list)
    """The finished ones."""
    pretrained: PretrainedRecord | None = None
    """What the network began with, if not with drawn weights."""
    grounds: Grounds = field(default_factory=dict)
    """What it is trained from; whoever goes on must have the same."""

    @property
    def epoch(self) -> int:
        """The epoch that comes next, counted from 0."""
        return len(self.epochs)


def make_training_state(
    network: Network,
    settings: TrainingSettings,
    precision: PrecisionName,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> TrainingState:
    """Put a network on its device and give it an optimizer; with several processes, join them."""
    network.to(device)
    network.deep_supervision = settings.deep_supervision
    optimizer = make_optimizer(network, settings, device)
    scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
    return TrainingState(network, optimizer, scaler, precision, device, ranks.joined(network), ranks)


def train_step(state: TrainingState, batch: Batch, loss: Loss, gradient_norm_limit: float) -> Tensor:
    """Take one optimisation step.

    Nothing here waits for the device: the loss stays on it.

    Args:
        state: Changed in place.
        batch: On the device of the state.
        loss: Of one output.
        gradient_norm_limit: Longer gradients are shortened to this length.

    Returns:
        The loss before the step, a scalar on the device.

    Source:
        Engine specification B 1.4.
    """
    network, optimizer, scaler = state.network, state.optimizer, state.scaler
    optimizer.zero_grad(set_to_none=True)
    value = _loss(state, state.model, batch, loss)[0]
    if scaler is None:
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), gradient_norm_limit)
        optimizer.step()
    else:
        scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), gradient_norm_limit)
        scaler.step(optimizer)
        scaler.update()
    return value.detach()


def _loss(state: TrainingState, model: nn.Module, batch: Batch, loss: Loss) -> tuple[Tensor, Tensor]:
    """Return the deeply supervised loss and the logits of the highest resolution.

    Raises:
        TrainingError: A package's network returns more outputs than its plan has strides for.
    """
    with autocast(state.precision, state.device):
        logits = model(batch.voxels_bczyx)
    outputs: Sequence[Tensor] = logits if isinstance(logits, tuple) else (logits,)
    if len(outputs) > len(batch.targets):
        raise TrainingError(
            f"the network returns {len(outputs)} outputs, but by the strides in its arch_kwargs there is "
            f"{len(batch.targets)}: correct them in the plan, or update the package that adds the network"
        )
    return deeply_supervised(loss, outputs, batch.targets[: len(outputs)]), outputs[0]


@dataclass(frozen=True, slots=True)
class Validation:
    """What one validation pass measured."""

    loss: float | None
    """None where nothing was validated, or where the loss was not finite."""
    pseudo_dice: tuple[float | None, ...]
    """Per foreground head; None where a class is neither in the reference nor in the segmentation, and for all where
    the loss was not finite: such logits segment nothing."""

    @property
    def mean_pseudo_dice(self) -> float | None:
        """Mean over the classes that occurred; None if none did."""
        occurring = [dice for dice in self.pseudo_dice if dice is not None]
        return sum(occurring) / len(occurring) if occurring else None


def validate(state: TrainingState, batches: Iterable[Batch], loss: Loss, labels: LabelSet) -> Validation:
    """Measure loss and pseudo Dice over batches, without learning from them.

    Args:
        state: Left as it is.
        batches: At least one, on the state's device.
        loss: Of one output.
        labels: What the network tells apart.

    Source:
        Engine specification B 1.10.
    """
    state.network.eval()
    values, counts = [], []
    with torch.no_grad():
        for batch in batches:
            value, logits_bkzyx = _loss(state, state.network, batch, loss)
            values.append(value)
            counts.append(overlap(logits_bkzyx, batch.targets[0], labels))
    state.network.train()
    mean_loss = torch.stack(values).mean().item()
    hits, wrong, missed = state.ranks.total(torch.stack(counts).sum(0)).tolist()
    if not math.isfinite(mean_loss):
        return Validation(None, (None,) * len(hits))
    return Validation(mean_loss, tuple(map(_dice, hits, wrong, missed)))


def _dice(hits: int, wrong: int, missed: int) -> float | None:
    """Return the Dice of counted voxels; None where there are none."""
    denominator = 2 * hits + wrong + missed
    return 2 * hits / denominator if denominator else None


def overlap(logits_bkzyx: Tensor, target: Tensor, labels: LabelSet) -> Tensor:
    """Count voxels of a batch per foreground head: hits, wrong ones, missed ones, (3, heads), on the device.

    Args:
        logits_bkzyx: Of the highest resolution.
        target: As batches carry it: labels, or booleans per region.
        labels: What the network tells apart; ignored voxels are not counted.
    """
    if labels.has_regions:
        return _region_overlap(logits_bkzyx, target, has_ignore=labels.ignore is not None)
    heads = logits_bkzyx.shape[1]
    found = logits_bkzyx.argmax(1).flatten()
    truth = target.flatten().long()
    # One table over (truth, found); the ignore label, the value after the last head, has a row of its own.
    table = torch.zeros((heads + 1) * heads, dtype=torch.int64, device=found.device)
    table = table.scatter_add(0, truth * heads + found, torch.ones_like(found)).view(heads + 1, heads)[:-1]
    hits = table.diagonal()
    return torch.stack((hits, table.sum(0) - hits, table.sum(1) - hits))[:, 1:]


def _region_overlap(logits_bkzyx: Tensor, target: Tensor, *, has_ignore: bool) -> Tensor:
    """Count voxels per region."""
    found = logits_bkzyx.float().sigmoid() > REGION_THRESHOLD
    truth = target[:, : found.shape[1]]
    if has_ignore:
        valid = ~target[:, -1:]
        found, truth = found & valid, truth & valid
    space = [0, *range(2, found.dim())]
    return torch.stack([mask.sum(space) for mask in (found & truth, found & ~truth, truth & ~found)])
