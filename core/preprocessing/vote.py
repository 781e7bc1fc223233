"""Linear interpolation of label maps: corners vote by weight, in one pass, however many labels there are."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from core.domain.labels import BACKGROUND
from core.io.image import LabelArray
from core.preprocessing.crop import BoolArray
from core.preprocessing.operators import Indices, Taps, nearest, taps

VOXELS_PER_CHUNK = 1 << 13
"""Voxels that vote at once, so that their corners stay in the cache; measured, flat optimum."""

MAJORITY = 0.5
"""Share of the weight that the threshold rule asks for; Engine specification A 0.2."""

CLEAR = MAJORITY + 1e-9
"""A label with more than this share wins by every rule, whatever the others have; rounding is far less."""

LINEAR = 1
"""Order of the spline that this module knows."""

T = TypeVar("T", bound=np.generic)
Votes = npt.NDArray[np.float64]
Rule = Callable[[LabelArray, Votes, LabelArray], LabelArray]
"""Corner labels (k, v), the score of each corner's label (k, v), nearest label (v) → chosen label (v)."""


def strongest(corners_kv: LabelArray, scores_kv: Votes, nearest_v: LabelArray) -> LabelArray:
    """Choose the label with the largest score; exact ties go to the nearest label, else the smallest.

    Source:
        Engine specification A 6.7.3.
    """
    best_v = scores_kv.max(axis=0)
    is_best_kv = scores_kv == best_v
    highest = np.iinfo(corners_kv.dtype).max
    smallest_v = np.where(is_best_kv, corners_kv, highest).min(axis=0)
    nearest_is_best_v = (is_best_kv & (corners_kv == nearest_v)).any(axis=0)
    return np.where(nearest_is_best_v, nearest_v, smallest_v)


def largest_with_majority(corners_kv: LabelArray, scores_kv: Votes, _nearest_v: LabelArray) -> LabelArray:
    """Choose the largest label whose score reaches one half; background where none does.

    Source:
        Engine specification A 0.2, the rule of batchgenerators up to 0.25.3.
    """
    lowest = np.iinfo(corners_kv.dtype).min
    largest_v = np.where(scores_kv >= MAJORITY, corners_kv, lowest).max(axis=0)
    return np.where((scores_kv >= MAJORITY).any(axis=0), largest_v, BACKGROUND).astype(corners_kv.dtype)


def vote(labels_zyx: LabelArray, shape: Sequence[int], rule: Rule = strongest) -> LabelArray:
    """Interpolate a label map linearly along each axis whose length changes.

    Where all corners of a cell agree, nothing needs to be computed. Elsewhere each corner's label is scored
    with the weights of the corners that share it.

    Args:
        labels_zyx: A label map; any integer is a label.
        shape: Voxel counts of the result.
        rule: Chooses among the labels of a cell.

    Source:
        Engine specification A 6.7. Scores are summed in C order of the corners, in float64, because ties
        are told by exact equality.
    """
    axes = [taps(n, m, LINEAR) for n, m in zip(labels_zyx.shape, shape, strict=True)]
    chosen_zyx = _gathered(labels_zyx, [nearest(n, m) for n, m in zip(labels_zyx.shape, shape, strict=True)])
    cells_zyx = mixed_cells(labels_zyx, [axis for axis, ends in enumerate(axes) if ends.is_pair])
    undecided = np.flatnonzero(_gathered(cells_zyx, [ends.indices[0] for ends in axes]))
    flat, chosen = labels_zyx.reshape(-1), chosen_zyx.reshape(-1)
    for start in range(0, undecided.size, VOXELS_PER_CHUNK):
        voxels = undecided[start : start + VOXELS_PER_CHUNK]
        indices_kv, weights_kv = _corners(voxels, axes, labels_zyx.shape, shape)
        corners_kv = flat[indices_kv]
        contested = np.flatnonzero(_scores(corners_kv, weights_kv, chosen[voxels][np.newaxis])[0] <= CLEAR)
        voxels, corners_kv = voxels[contested], corners_kv.take(contested, 1)
        scores_kv = _scores(corners_kv, weights_kv.take(contested, 1), corners_kv)
        chosen[voxels] = rule(corners_kv, scores_kv, chosen[voxels])
    return chosen_zyx


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
