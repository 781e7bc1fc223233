"""Dice + cross-entropy on labels or regions, with ignored voxels, over all outputs of the network."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from core.domain.labels import LabelSet

SMOOTH = 1e-5
"""Added above and below the fraction line of Dice, so that a class that is nowhere scores 1."""

SMALLEST_DENOMINATOR = 1e-8
"""A smaller denominator is taken for this; with `SMOOTH` only zero can be smaller."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Loss of (logits, target) of one output of the network: a scalar tensor."""

Terms = tuple[Tensor, Tensor, Tensor]
"""Cross-entropy, negative mean Dice, and the gradient of their sum by the logits, float32 each."""


def segmentation_loss(labels: LabelSet, *, batch_dice: bool) -> Loss:
    """Return the loss for what a dataset tells apart: cross-entropy minus mean Dice.

    Value and gradient are computed together, once, without a one-hot target and without waiting for
    the device; the gradient is kept for the backward pass instead of every intermediate tensor.

    Args:
        labels: Decides between exclusive labels and overlapping regions.
        batch_dice: Whether Dice is taken over the whole batch instead of each sample.

    Source:
        Engine specification B 1.8 and 1.9.
    """

    def terms(logits: Tensor, target: Tensor) -> Terms:
        if labels.has_regions:
            return region_terms(logits, target, has_ignore=labels.ignore is not None, batch_dice=batch_dice)
        return label_terms(logits, target, ignore=labels.ignore, batch_dice=batch_dice)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        value: Tensor = _WithGradient.apply(logits, target, terms)  # type: ignore[no-untyped-call]
        return value

    return loss


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient was computed with it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, terms: Callable[[Tensor, Tensor], Terms]) -> Tensor:
        """Return cross-entropy plus Dice term."""
        with torch.autocast(logits.device.type, enabled=False):
            cross_entropy, dice, gradient = terms(logits, target)
        # Gradients of single voxels are too small for float16 before the loss is scaled.
        kept = torch.float32 if logits.dtype == torch.float16 else logits.dtype
        ctx.save_for_backward(gradient.to(kept))
        ctx.dtype = logits.dtype
        return cross_entropy + dice

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits."""
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream).to(ctx.dtype), None, None


def label_terms(logits: Tensor, target: Tensor, *, ignore: int | None, batch_dice: bool) -> Terms:
    """Compare exclusive labels with the truth.

    Args:
        logits: (b, k, spatial axes), background first.
        target: Label values (b, 1, spatial axes).
        ignore: The value of voxels that count nowhere.
        batch_dice: Whether Dice is taken over the whole batch.

    Source:
        Engine specification B 1.8.
    """
    truth_b1v = target.flatten(2).long()
    valid_b1v = None if ignore is None else truth_b1v != ignore
    if valid_b1v is not None:
        truth_b1v = truth_b1v.masked_fill(~valid_b1v, 0)
    probability_bkv = functional.log_softmax(logits.flatten(2).float().contiguous(), dim=1)
    surprise_b1v = probability_bkv.gather(1, truth_b1v).neg_()
    probability_bkv.exp_()
    counted_b1v = torch.ones_like(surprise_b1v)
    if valid_b1v is not None:
        # An ignored voxel takes part in no sum and gets no gradient once its probabilities are 0.
        counted_b1v.mul_(valid_b1v)
        surprise_b1v.mul_(valid_b1v)
        probability_bkv.mul_(valid_b1v)
    count = counted_b1v.sum().clamp(min=1.0)
    cross_entropy = surprise_b1v.sum() / count

    of_truth_b1v = probability_bkv.gather(1, truth_b1v)
    sums_sbk = torch.stack(
        (
            _per_class(of_truth_b1v, truth_b1v, probability_bkv),
            probability_bkv.sum(2),
            _per_class(counted_b1v, truth_b1v, probability_bkv),
        )
    )
    dice, by_hit_bk, by_mass_bk = _dice(sums_sbk[..., 1:], batch_dice=batch_dice)

    by_hit_bk, by_mass_bk1 = (
        functional.pad(by_hit_bk, (1, 0)),
        functional.pad(by_mass_bk, (1, 0)).unsqueeze(2),
    )
    own_b1v = of_truth_b1v * by_hit_bk.gather(1, truth_b1v.squeeze(1)).unsqueeze(1) - counted_b1v / count
    pull_b1v = torch.bmm(by_mass_bk1.transpose(1, 2), probability_bkv).add_(own_b1v)
    gradient_bkv = probability_bkv.mul_(by_mass_bk1 - pull_b1v)
    gradient_bkv.scatter_add_(1, truth_b1v, own_b1v)
    return cross_entropy, dice, gradient_bkv.view(logits.shape)


def _per_class(values_b1v: Tensor, class_b1v: Tensor, like_bkv: Tensor) -> Tensor:
    """Sum the values of each sample by class, exactly enough for any number of voxels: (b, k)."""
    sums_bk = like_bkv.new_zeros(like_bkv.shape[:2], dtype=torch.float64)
    return sums_bk.scatter_add_(1, class_b1v.squeeze(1), values_b1v.squeeze(1).double()).float()


def region_terms(logits: Tensor, target: Tensor, *, has_ignore: bool, batch_dice: bool) -> Terms:
    """Compare overlapping regions with the truth.

    With an ignore label the mean of the cross-entropy is taken per voxel, not per voxel and region.

    Args:
        logits: (b, r, spatial axes).
        target: Boolean (b, r, spatial axes); a last channel marks ignored voxels, if there can be any.
        has_ignore: Whether the target has that channel.
        batch_dice: Whether Dice is taken over the whole batch.

    Source:
        Engine specification B 1.9, Q1.
    """
    logits_brv = logits.flatten(2).float().contiguous()
    truth_brv = target.flatten(2)[:, : logits.shape[1]].float()
    entropy_brv = functional.binary_cross_entropy_with_logits(logits_brv, truth_brv, reduction="none")
    probability_brv = logits_brv.sigmoid()
    slope_brv = probability_brv * (1 - probability_brv)
    if has_ignore:
        valid_b1v = ~target.flatten(2)[:, -1:]
        count = valid_b1v.sum().clamp(min=SMALLEST_DENOMINATOR)
        for masked in (truth_brv, entropy_brv, slope_brv):
            masked.mul_(valid_b1v)
        error_brv = (probability_brv - truth_brv).mul_(valid_b1v)
        probability_brv = probability_brv * valid_b1v
    else:
        count = torch.tensor(float(entropy_brv.numel()), device=logits.device)
        error_brv = probability_brv - truth_brv
    sums_sbr = torch.stack(((probability_brv * truth_brv).sum(2), probability_brv.sum(2), truth_brv.sum(2)))
    dice, by_hit_br, by_mass_br = _dice(sums_sbr, batch_dice=batch_dice)
    by_probability_brv = truth_brv.mul_(by_hit_br.unsqueeze(2)).add_(by_mass_br.unsqueeze(2))
    gradient_brv = error_brv.div_(count).addcmul_(by_probability_brv, slope_brv)
    return entropy_brv.sum() / count, dice, gradient_brv.view(logits.shape)


def _dice(sums_sbk: Tensor, *, batch_dice: bool) -> Terms:
    """Return the negative mean Dice and how it changes with probabilities.

    Args:
        sums_sbk: Per sample and class, over space: probability times truth, probability, truth.
        batch_dice: Whether the batch is one sample.

    Returns:
        The mean over samples and classes, negated; its derivative by a probability where the class
        is true less that elsewhere (b, k); its derivative elsewhere (b, k).

    Source:
        Engine specification B 1.8.
    """
    samples = sums_sbk.shape[1]
    if batch_dice:
        sums_sbk = sums_sbk.sum(1, keepdim=True)
    hit_bk, predicted_bk, truth_bk = sums_sbk
    above_bk = 2 * hit_bk + SMOOTH
    below_bk = (truth_bk + predicted_bk + SMOOTH).clamp(min=SMALLEST_DENOMINATOR)
    by_hit_bk = -2 / (below_bk * above_bk.numel())
    by_mass_bk = above_bk / (below_bk.square() * above_bk.numel())
    value = -(above_bk / below_bk).mean()
    return value, by_hit_bk.expand(samples, -1), by_mass_bk.expand(samples, -1)


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
