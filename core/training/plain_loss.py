"""Losses in the plain formulation, for automatic differentiation: cross-entropy, its hardest voxels, Dice."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from core.domain.labels import LabelSet
from core.training.dice_ce import SMALLEST_DENOMINATOR, Rules
from core.training.ranks import Ranks

Terms = Callable[[Tensor, Tensor], Tensor]
"""Cross-entropy of every voxel, (b, voxels) or with regions (b, r, voxels), 0 where it is ignored."""

HARDEST = 10
"""Percent of the voxels that count as hardest. Source: engine specification B 5."""


def cross_entropy(labels: LabelSet, label_smoothing: float) -> Terms:
    """Return the cross-entropy of each voxel.

    Args:
        labels: Decides between exclusive labels and overlapping regions.
        label_smoothing: Share of the truth that is spread evenly: over all labels, or over in and out of a region.

    Source:
        Engine specification B 1.8, B 1.9, B 5.
    """

    def of_labels(logits: Tensor, target: Tensor) -> Tensor:
        truth_bv, valid_bv = _labels_and_mask(target, labels.ignore)
        entropy_bv = functional.cross_entropy(
            logits.flatten(2).float(), truth_bv, reduction="none", label_smoothing=label_smoothing
        )
        return entropy_bv if valid_bv is None else entropy_bv * valid_bv

    def of_regions(logits: Tensor, target: Tensor) -> Tensor:
        logits_brv = logits.flatten(2).float()
        truth_brv = target.flatten(2)[:, : logits.shape[1]].float()
        truth_brv = truth_brv * (1 - label_smoothing) + label_smoothing / 2
        entropy_brv = functional.binary_cross_entropy_with_logits(logits_brv, truth_brv, reduction="none")
        return entropy_brv if labels.ignore is None else entropy_brv * ~target.flatten(2)[:, -1:]

    return of_regions if labels.has_regions else of_labels


def mean(terms: Terms, labels: LabelSet, ranks: Ranks) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean of voxels that count, over all processes.

    With regions and an ignore label the mean is taken per voxel, not per voxel and region.

    Source:
        Engine specification B 1.8, B 1.9.
    """

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            entropy = terms(logits, target)
            if labels.ignore is None:
                count = entropy.new_tensor(float(entropy.numel()))
            elif labels.has_regions:
                count = (~target.flatten(2)[:, -1]).sum().float()
            else:
                count = (target != labels.ignore).sum().float()
            smallest = SMALLEST_DENOMINATOR if labels.has_regions else 1.0
            return ranks.total_with_gradient(entropy.sum()) / ranks.total(count).clamp(min=smallest)

    return loss


def mean_of_hardest(terms: Terms, labels: LabelSet, ranks: Ranks) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean over the hardest tenth of the voxels of the batch, over all processes.

    Args:
        terms: Per voxel.
        labels: Exclusive ones; ignored voxels count, as the easiest.
        ranks: The processes.

    Source:
        Engine specification B 5.
    """
    if labels.has_regions:
        raise ValueError("the hardest voxels of overlapping regions are not defined")

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            entropy = terms(logits, target).flatten()
            voxels = int(ranks.total(torch.tensor(entropy.numel())))  # On the CPU: no device is waited for.
            count = max(1, voxels * HARDEST // 100)
            hardest = entropy.topk(min(count, entropy.numel()), sorted=False).values
            counted = hardest * _shares_that_count(hardest.detach(), count, ranks)
            return ranks.total_with_gradient(counted.sum()) / count

    return loss


def _shares_that_count(own: Tensor, count: int, ranks: Ranks) -> Tensor:
    """Return how much each voxel of a process counts among the hardest of all processes, from 0 to 1.

    Voxels that are as hard as the last one that counts share the places that are left.

    Args:
        own: Cross-entropy of its hardest voxels, 0 or more, in any order; at most `count`.
        count: How many count in all.
        ranks: The processes.
    """
    if ranks.count == 1:
        return own.new_ones(())
    all_rv = own.new_zeros((ranks.count, count))  # No voxel is easier than 0, so padding displaces none.
    all_rv[ranks.rank, : own.numel()] = own
    all_rv = ranks.total(all_rv)
    last = all_rv.flatten().topk(count).values[-1]
    left = count - (all_rv > last).sum()
    return (own > last).float() + (own == last) * (left / (all_rv == last).sum())


def dice(labels: LabelSet, rules: Rules) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the negative mean Dice of all foreground heads.

    Source:
        Engine specification B 1.8, B 1.9.
    """

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            probability_bkv, truth_bkv = _foreground(logits.flatten(2).float(), target, labels)
            sums_sbk = torch.stack(
                ((probability_bkv * truth_bkv).sum(2), probability_bkv.sum(2), truth_bkv.sum(2))
            )
            if rules.batch_dice:
                sums_sbk = rules.ranks.total_with_gradient(sums_sbk.sum(1, keepdim=True))
            hit_bk, predicted_bk, true_bk = sums_sbk
            below_bk = (true_bk + predicted_bk + rules.smoothing).clamp(min=SMALLEST_DENOMINATOR)
            dice_bk: Tensor = (2 * hit_bk + rules.smoothing) / below_bk
            if rules.batch_dice:
                return dice_bk.mean().neg()
            sums: Tensor = rules.ranks.total_with_gradient(dice_bk.sum())
            mean = sums / rules.ranks.total(dice_bk.new_tensor(float(dice_bk.numel())))
            return mean.neg()

    return loss


def _foreground(logits_bkv: Tensor, target: Tensor, labels: LabelSet) -> tuple[Tensor, Tensor]:
    """Return probabilities and truth of the foreground heads, 0 where a voxel is ignored."""
    if labels.has_regions:
        flat = target.flatten(2)
        probability_bkv, truth_bkv = logits_bkv.sigmoid(), flat[:, : logits_bkv.shape[1]].float()
        valid_b1v = None if labels.ignore is None else ~flat[:, -1:]
    else:
        truth_bv, valid_bv = _labels_and_mask(target, labels.ignore)
        probability_bkv = logits_bkv.softmax(1)[:, 1:]
        heads = torch.arange(1, logits_bkv.shape[1], device=target.device).view(1, -1, 1)
        truth_bkv = (truth_bv.unsqueeze(1) == heads).float()
        valid_b1v = None if valid_bv is None else valid_bv.unsqueeze(1)
    if valid_b1v is None:
        return probability_bkv, truth_bkv
    return probability_bkv * valid_b1v, truth_bkv * valid_b1v


def _labels_and_mask(target: Tensor, ignore: int | None) -> tuple[Tensor, Tensor | None]:
    """Return label values (b, voxels), 0 where they are ignored, and where they are not."""
    truth_bv = target.flatten(2)[:, 0].long()
    if ignore is None:
        return truth_bv, None
    valid_bv = truth_bv != ignore
    return truth_bv.masked_fill(~valid_bv, 0), valid_bv
