"""Dice + cross-entropy, value and gradient in one pass: on labels or regions, with ignored voxels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from core.domain.labels import LabelSet
from core.training.ranks import ALONE, Ranks

SMALLEST_DENOMINATOR = 1e-8
"""A smaller denominator is taken for this."""

Terms = tuple[Tensor, Tensor, Tensor]
"""Cross-entropy, negative mean Dice, and the gradient of their sum by the logits, float32 each."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How Dice and cross-entropy are taken."""

    batch_dice: bool
    """Whether Dice is taken over the whole batch instead of each sample."""
    smoothing: float = 1e-5
    """Added above and below the fraction line of Dice, so that a class that is nowhere scores 1."""
    ranks: Ranks = ALONE
    """The processes that share a batch; value and gradient are those of the whole one."""


def fused_loss(labels: LabelSet, rules: Rules) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss for what a dataset tells apart: cross-entropy minus mean Dice.

    Value and gradient are computed together, once, without a one-hot target and without waiting for
    the device; the gradient is kept for the backward pass instead of every intermediate tensor.

    Args:
        labels: Decides between exclusive labels and overlapping regions.
        rules: Of the Dice term.

    Source:
        Engine specification B 1.8 and 1.9.
    """

    def terms(logits: Tensor, target: Tensor) -> Terms:
        if labels.has_regions:
            return region_terms(logits, target, has_ignore=labels.ignore is not None, rules=rules)
        return label_terms(logits, target, ignore=labels.ignore, rules=rules)

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


def label_terms(logits: Tensor, target: Tensor, *, ignore: int | None, rules: Rules) -> Terms:
    """Compare exclusive labels with the truth.

    Args:
        logits: (b, k, spatial axes), background first.
        target: Label values (b, 1, spatial axes).
        ignore: The value of voxels that count nowhere.
        rules: Of the Dice term.

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
    count = rules.ranks.total(counted_b1v.sum()).clamp(min=1.0)
    cross_entropy = rules.ranks.total(surprise_b1v.sum()) / count

    of_truth_b1v = probability_bkv.gather(1, truth_b1v)
    sums_sbk = torch.stack(
        (
            _per_class(of_truth_b1v, truth_b1v, probability_bkv),
            probability_bkv.sum(2),
            _per_class(counted_b1v, truth_b1v, probability_bkv),
        )
    )
    dice, by_hit_bk, by_mass_bk = _dice(sums_sbk[..., 1:], rules)

    by_hit_bk, by_mass_bk1 = (
        functional.pad(by_hit_bk, (1, 0)),
        functional.pad(by_mass_bk, (1, 0)).unsqueeze(2),
    )
    own_b1v = of_truth_b1v * by_hit_bk.gather(1, truth_b1v.squeeze(1)).unsqueeze(1) - counted_b1v / count
    pull_b1v = torch.bmm(by_mass_bk1.transpose(1, 2), probability_bkv).add_(own_b1v)
    gradient_bkv = probability_bkv.mul_(by_mass_bk1 - pull_b1v)
    gradient_bkv.scatter_add_(1, truth_b1v, own_b1v)
    return cross_entropy, dice, _of_all(gradient_bkv, rules).view(logits.shape)


def _per_class(values_b1v: Tensor, class_b1v: Tensor, like_bkv: Tensor) -> Tensor:
    """Sum the values of each sample by class, exactly enough for any number of voxels: (b, k)."""
    sums_bk = like_bkv.new_zeros(like_bkv.shape[:2], dtype=torch.float64)
    return sums_bk.scatter_add_(1, class_b1v.squeeze(1), values_b1v.squeeze(1).double()).float()


def region_terms(logits: Tensor, target: Tensor, *, has_ignore: bool, rules: Rules) -> Terms:
    """Compare overlapping regions with the truth.

    With an ignore label the mean of the cross-entropy is taken per voxel, not per voxel and region.

    Args:
        logits: (b, r, spatial axes).
        target: Boolean (b, r, spatial axes); a last channel marks ignored voxels, if there can be any.
        has_ignore: Whether the target has that channel.
        rules: Of the Dice term.

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
        count = rules.ranks.total(valid_b1v.sum()).clamp(min=SMALLEST_DENOMINATOR)
        for masked in (truth_brv, entropy_brv, slope_brv):
            masked.mul_(valid_b1v)
        error_brv = (probability_brv - truth_brv).mul_(valid_b1v)
        probability_brv = probability_brv * valid_b1v
    else:
        count = rules.ranks.total(torch.tensor(float(entropy_brv.numel()), device=logits.device))
        error_brv = probability_brv - truth_brv
    sums_sbr = torch.stack(((probability_brv * truth_brv).sum(2), probability_brv.sum(2), truth_brv.sum(2)))
    dice, by_hit_br, by_mass_br = _dice(sums_sbr, rules)
    by_probability_brv = truth_brv.mul_(by_hit_br.unsqueeze(2)).add_(by_mass_br.unsqueeze(2))
    gradient_brv = error_brv.div_(count).addcmul_(by_probability_brv, slope_brv)
    gradient_brv = _of_all(gradient_brv, rules)
    return rules.ranks.total(entropy_brv.sum()) / count, dice, gradient_brv.view(logits.shape)


def _of_all(gradient: Tensor, rules: Rules) -> Tensor:
    """Scale a gradient so that the average over all processes is the sum of their parts."""
    return gradient if rules.ranks.count == 1 else gradient.mul_(rules.ranks.count)


def _dice(sums_sbk: Tensor, rules: Rules) -> Terms:
    """Return the negative mean Dice and how it changes with probabilities.

    Args:
        sums_sbk: Per sample and class, over space: probability times truth, probability, truth.
        rules: Of the Dice term.

    Returns:
        The mean over samples and classes, negated; its derivative by a probability where the class
        is true less that elsewhere (b, k); its derivative elsewhere (b, k).

    Source:
        Engine specification B 1.8.
    """
    samples, ranks = sums_sbk.shape[1], rules.ranks
    if rules.batch_dice:
        sums_sbk = ranks.total(sums_sbk.sum(1, keepdim=True))
    hit_bk, predicted_bk, truth_bk = sums_sbk
    above_bk = 2 * hit_bk + rules.smoothing
    below_bk = (truth_bk + predicted_bk + rules.smoothing).clamp(min=SMALLEST_DENOMINATOR)
    dice_bk = above_bk / below_bk
    if rules.batch_dice or ranks.count == 1:
        count, value = dice_bk.new_tensor(float(dice_bk.numel())), -dice_bk.mean()
    else:
        total = ranks.total(torch.stack((dice_bk.sum(), dice_bk.new_tensor(float(dice_bk.numel())))))
        count, value = total[1], -total[0] / total[1]
    by_hit_bk = -2 / (below_bk * count)
    by_mass_bk = above_bk / (below_bk.square() * count)
    return value, by_hit_bk.expand(samples, -1), by_mass_bk.expand(samples, -1)
