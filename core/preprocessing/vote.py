"""Interpolation of label maps: the labels around a voxel vote by weight, in one pass, however many there are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from core.domain.labels import BACKGROUND
from core.io.image import LabelArray
from core.preprocessing.crop import BoolArray
from core.preprocessing.operators import LINEAR, Indices, Taps, axis_operator, copied, nearest, taps

VOXELS_PER_CHUNK = 1 << 13
"""Voxels that vote at once, so that their corners stay in the cache; measured, flat optimum."""

VOXELS_PER_SLAB = 1 << 22
"""Voxels of the result that are worked on at once, so that nothing else of the size of a volume exists."""

MAJORITY = 0.5
"""Share of the weight that the threshold rule asks for; Engine specification A 0.2."""

CLEAR = MAJORITY + 1e-9
"""A label with more than this share wins, whatever the others have; rounding is far less."""

SCALE_OF_HALVES = 1000
"""What scores are multiplied with before they become 16-bit floats; Engine specification A 6.8."""

CLEAR_IN_HALVES = MAJORITY + 1e-3
"""The same where scores are rounded to 16 bits: next to 500 they are half a thousandth apart."""

T = TypeVar("T", bound=np.generic)
Votes = npt.NDArray[np.float64]
Choice = Callable[[LabelArray, Votes, LabelArray], LabelArray]
"""Corner labels (k, v), the score of each corner's label (k, v), nearest label (v) → chosen label (v)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a label is chosen among those around."""

    choose: Choice
    clear: float = CLEAR
    """A label with a larger share than this wins in any case."""


def choose_strongest(corners_kv: LabelArray, scores_kv: Votes, nearest_v: LabelArray) -> LabelArray:
    """Choose the label with the largest score; exact ties go to the nearest label, else the smallest.

    Source:
        Engine specification A 6.7.3.
    """
    best_v = scores_kv.max(axis=0)
    is_best_kv = scores_kv == best_v
    nearest_is_best_v = (is_best_kv & (corners_kv == nearest_v)).any(axis=0)
    return np.where(nearest_is_best_v, nearest_v, _smallest(corners_kv, is_best_kv))


def choose_largest_with_half(corners_kv: LabelArray, scores_kv: Votes, _nearest_v: LabelArray) -> LabelArray:
    """Choose the largest label whose score reaches one half; background where none does.

    Source:
        Engine specification A 0.2, the rule of batchgenerators up to 0.25.3.
    """
    return _largest(corners_kv, scores_kv >= MAJORITY)


def choose_largest_above_half(corners_kv: LabelArray, scores_kv: Votes, _nearest_v: LabelArray) -> LabelArray:
    """Choose the largest label whose score exceeds one half; background where none does.

    Source:
        Engine specification A 6.8, the variant that saves memory; its scores have 32 bits. About one voxel in a
        million differs: one whose score is one half but for the order in which 32-bit products are summed.
    """
    return _largest(corners_kv, scores_kv.astype(np.float32) > MAJORITY)


def choose_strongest_in_halves(
    corners_kv: LabelArray, scores_kv: Votes, _nearest_v: LabelArray
) -> LabelArray:
    """Choose the smallest label among those whose scores, rounded to 16 bits, are the largest.

    Source:
        Engine specification A 6.8: a score above 700 of 1000 is the largest anyhow.
    """
    halves_kv = (scores_kv * SCALE_OF_HALVES).astype(np.float32).astype(np.float16)
    return _smallest(corners_kv, halves_kv == halves_kv.max(axis=0))


STRONGEST = Rule(choose_strongest)
LARGEST_WITH_HALF = Rule(choose_largest_with_half)
LARGEST_ABOVE_HALF = Rule(choose_largest_above_half, CLEAR_IN_HALVES)
STRONGEST_IN_HALVES = Rule(choose_strongest_in_halves, CLEAR_IN_HALVES)


def vote(
    labels_zyx: LabelArray, shape: Sequence[int], rule: Rule = STRONGEST, order: int = LINEAR
) -> LabelArray:
    """Interpolate a label map linearly along each axis whose length changes.

    Where all corners of a cell agree, nothing needs to be computed. Elsewhere each corner's label is scored
    with the weights of the corners that share it.

    Args:
        labels_zyx: A label map; any integer is a label.
        shape: Voxel counts of the result.
        rule: Chooses among the labels of a cell.
        order: Of the interpolation, one that has two neighbours.

    Source:
        Engine specification A 6.7. Scores are summed in C order of the corners, in float64, because ties
        are told by exact equality.
    """
    axes = [taps(n, m, order) for n, m in zip(labels_zyx.shape, shape, strict=True)]
    nearests = [nearest(n, m) for n, m in zip(labels_zyx.shape, shape, strict=True)]
    chosen_zyx = np.empty(tuple(shape), labels_zyx.dtype)
    for rows in _slabs(shape):
        ends, first = axes[0].indices[:, rows], int(axes[0].indices[0, rows].min())
        part_zyx = labels_zyx[first : int(ends.max()) + 1]
        here = [Taps(ends - first, axes[0].weights[:, rows]), *axes[1:]]
        chosen_zyx[rows] = _gathered(part_zyx, [nearests[0][rows] - first, *nearests[1:]])
        _decide(part_zyx, chosen_zyx[rows], here, rule)
    return chosen_zyx


def vote_of_splines(labels_zyx: LabelArray, shape: Sequence[int], rule: Rule, order: int) -> LabelArray:
    """Interpolate each label's indicator by a spline and let the rule choose; costs memory for each label."""
    present = np.unique(labels_zyx)
    scores_kv = np.stack([_indicator(labels_zyx, label, shape, order).reshape(-1) for label in present])
    corners_kv = np.broadcast_to(present[:, np.newaxis], scores_kv.shape)
    nearest_v = copied_labels(labels_zyx, shape, 0).reshape(-1)
    return rule.choose(corners_kv, scores_kv, nearest_v).reshape(shape)


def vote_across_slices(labels_zyx: LabelArray, shape: Sequence[int], order: int) -> LabelArray:
    """Interpolate each label across slices; the largest one that covers more than half is written.

    Source:
        Engine specification A 6.7.1.
    """
    resampled_zyx = np.zeros(shape, dtype=labels_zyx.dtype)
    for label in np.unique(labels_zyx):
        resampled_zyx[_indicator(labels_zyx, label, shape, order) > MAJORITY] = label
    return resampled_zyx


def copied_labels(labels_zyx: LabelArray, shape: Sequence[int], order: int) -> LabelArray:
    """Copy the sample that an order of the copying kind takes, along every axis whose length changes."""
    for axis, (n, m) in enumerate(zip(labels_zyx.shape, shape, strict=True)):
        if n != m:
            labels_zyx = labels_zyx.take(copied(n, m, order), axis)
    return labels_zyx


def _smallest(corners_kv: LabelArray, is_meant_kv: BoolArray) -> LabelArray:
    """Return the smallest label of those that are meant."""
    highest = np.iinfo(corners_kv.dtype).max
    smallest_v: LabelArray = np.where(is_meant_kv, corners_kv, highest).min(axis=0)
    return smallest_v


def _largest(corners_kv: LabelArray, is_meant_kv: BoolArray) -> LabelArray:
    """Return the largest label of those that are meant, background where none is."""
    lowest = np.iinfo(corners_kv.dtype).min
    largest_v = np.where(is_meant_kv, corners_kv, lowest).max(axis=0)
    return np.where(is_meant_kv.any(axis=0), largest_v, BACKGROUND).astype(corners_kv.dtype)


def _indicator(labels_zyx: LabelArray, label: np.integer, shape: Sequence[int], order: int) -> Votes:
    """Interpolate where a label lies, in float64, kept within 0 and 1."""
    share_zyx = (labels_zyx == label).astype(np.float64)
    for axis, (n, m) in enumerate(zip(labels_zyx.shape, shape, strict=True)):
        if n != m:
            share_zyx = np.moveaxis(np.tensordot(axis_operator(n, m, order), share_zyx, (1, axis)), 0, axis)
    clipped_zyx: Votes = np.clip(share_zyx, 0.0, 1.0)
    return clipped_zyx


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Cut a volume into slabs of slices z."""
    count = max(1, VOXELS_PER_SLAB // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], count):
        yield slice(start, min(start + count, shape[0]))


def _decide(labels_zyx: LabelArray, chosen_zyx: LabelArray, axes: Sequence[Taps], rule: Rule) -> None:
    """Overwrite the nearest label wherever the corners of a cell choose another one."""
    cells_zyx = mixed_cells(labels_zyx, [axis for axis, ends in enumerate(axes) if ends.is_pair])
    undecided = np.flatnonzero(_gathered(cells_zyx, [ends.indices[0] for ends in axes]))
    flat, chosen = np.ascontiguousarray(labels_zyx).reshape(-1), chosen_zyx.reshape(-1)
    for start in range(0, undecided.size, VOXELS_PER_CHUNK):
        voxels = undecided[start : start + VOXELS_PER_CHUNK]
        indices_kv, weights_kv = _corners(voxels, axes, labels_zyx.shape, chosen_zyx.shape)
        corners_kv = flat[indices_kv]
        contested = np.flatnonzero(
            _scores(corners_kv, weights_kv, chosen[voxels][np.newaxis])[0] <= rule.clear
        )
        voxels, corners_kv = voxels[contested], corners_kv.take(contested, 1)
        scores_kv = _scores(corners_kv, weights_kv.take(contested, 1), corners_kv)
        chosen[voxels] = rule.choose(corners_kv, scores_kv, chosen[voxels])


def mixed_cells(labels_zyx: LabelArray, axes: Sequence[int]) -> BoolArray:
    """Mark the voxels that do not all agree with the next ones along the given axes.

    Args:
        labels_zyx: A label map.
        axes: Along which a voxel and its next one are ends of the same cell.

    Returns:
        A mask of the same shape, true where a cell that begins at the voxel holds several labels.
    """
    lowest_zyx = highest_zyx = labels_zyx
    for axis in axes:
        following = np.minimum(np.arange(labels_zyx.shape[axis]) + 1, labels_zyx.shape[axis] - 1)
        lowest_zyx = np.minimum(lowest_zyx, lowest_zyx.take(following, axis))
        highest_zyx = np.maximum(highest_zyx, highest_zyx.take(following, axis))
    mixed_zyx: BoolArray = lowest_zyx != highest_zyx
    return mixed_zyx


def _gathered(array_zyx: npt.NDArray[T], indices: Sequence[Indices]) -> npt.NDArray[T]:
    """Pick samples along each axis."""
    for axis, index in enumerate(indices):
        array_zyx = array_zyx.take(index, axis)
    return array_zyx


def _corners(
    voxels: Indices, axes: Sequence[Taps], source: Sequence[int], shape: Sequence[int]
) -> tuple[Indices, Votes]:
    """List the corners of the cells around some voxels of the result, in C order, with their weights.

    Args:
        voxels: Flat indices into the result (v).
        axes: How each axis is interpolated.
        source: Voxel counts of the label map.
        shape: Voxel counts of the result.

    Returns:
        Flat indices into the label map (k, v) and weights (k, v).
    """
    indices_kv = np.zeros((1, voxels.size), dtype=np.intp)
    weights_kv = np.ones((1, voxels.size))
    for ends, count, position in zip(axes, source, np.unravel_index(voxels, tuple(shape)), strict=True):
        ends_kv, shares_kv = ends.indices.take(position, 1), ends.weights.take(position, 1)
        indices_kv = (indices_kv[:, np.newaxis] * count + ends_kv).reshape(-1, voxels.size)
        weights_kv = (weights_kv[:, np.newaxis] * shares_kv).reshape(-1, voxels.size)
    return indices_kv, weights_kv


def _scores(corners_kv: LabelArray, weights_kv: Votes, labels_nv: LabelArray) -> Votes:
    """Sum the weights of the corners that carry each label, one corner after the other (n, v)."""
    scores_nv = np.zeros(labels_nv.shape)
    for corner_v, weight_v in zip(corners_kv, weights_kv, strict=True):
        scores_nv += np.where(labels_nv == corner_v, weight_v, 0.0)
    return scores_nv
