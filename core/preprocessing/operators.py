"""Interpolation along one axis as a banded matrix: what to multiply with, and how."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import scipy

from core.io.image import FloatArray

NEGLIGIBLE = 1e-10
"""Spline tails below this are dropped: in float32 they become denormals, on which a product of
matrices ran 14 times slower (measured on 220 x 256, one thread)."""

ROWS_PER_BLOCK = 32
"""Rows multiplied at once, each block with the columns of its band only; measured, 32 is best of 32 to 256."""

CACHED_OPERATORS = 128
"""Pairs of lengths to remember; a case needs three."""

LINEAR: Final = 1
"""Order of the spline that has two neighbours."""

TENSOR_LINEAR: Final = -1
"""Order 1 with positions and weights in 32 bits, as PyTorch interpolates."""

TENSOR_NEAREST_EXACT: Final = -2
"""Order 0 with positions in 32 bits: PyTorch's mode `nearest-exact`."""

TENSOR_NEAREST: Final = -3
"""PyTorch's mode `nearest`: positions in 32 bits, of the samples' beginnings instead of their centres."""

COPYING: Final = frozenset({0, TENSOR_NEAREST_EXACT, TENSOR_NEAREST})
"""Orders of which each sample is a copy of one sample before."""

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Operator:
    """Interpolation from n to m samples."""

    weights: npt.NDArray[np.float32]
    """m rows, n columns; each row sums to 1."""
    first: Indices
    """First column that is not zero, per row."""
    end: Indices
    """One past the last column that is not zero, per row."""

    def band(self, rows: slice) -> slice:
        """Return the columns that some of the rows need."""
        return slice(int(self.first[rows].min()), int(self.end[rows].max()))


@dataclass(frozen=True, slots=True)
class Taps:
    """Interpolation of order 0 or 1, or of PyTorch's kinds, from n to m samples, as one or two neighbours and their weights."""

    indices: Indices
    """Neighbours (1, m) or (2, m), ascending; the second repeats the first where one is enough."""
    weights: Matrix
    """Of the same shape; each column sums to 1."""

    @property
    def is_pair(self) -> bool:
        """Whether there are two neighbours: the axis is interpolated, not copied."""
        return len(self.indices) > 1


@dataclass(frozen=True, slots=True)
class Line:
    """An interpolation from n to m samples, or the part of it that concerns a slab."""

    before: int
    after: int
    order: int
    """Of the spline, or one of PyTorch's kinds."""
    wanted: slice
    """Samples of the result."""
    given: slice
    """Samples that the array at hand begins and ends with."""

    @classmethod
    def whole(cls, before: int, after: int, order: int) -> Self:
        """Return the interpolation of everything."""
        return cls(before, after, order, slice(0, after), slice(0, before))

    @property
    def is_identity(self) -> bool:
        """Whether the samples that are wanted are those that are given."""
        return self.before == self.after and self.wanted == self.given

    @property
    def is_copy(self) -> bool:
        """Whether each sample of the result is one of the samples before."""
        return self.before == self.after or self.order in COPYING

    def slab(self, wanted: slice) -> Self:
        """Return the part that computes some samples, given no more than they need."""
        if self.is_copy:
            indices = copied(self.before, self.after, self.order)[wanted]
            given = slice(int(indices[0]), int(indices[-1]) + 1)
        else:
            given = operator(self.before, self.after, self.order).band(wanted)
        return replace(self, wanted=wanted, given=given)


def axis_operator(n: int, m: int, order: int) -> Matrix:
    """Tabulate spline interpolation from n to m samples of the same extent.

    Sample centres lie at half-pixel positions, the ends are replicated, nothing is smoothed.

    Args:
        n: Samples before.
        m: Samples after.
        order: Of the spline, 0 to 5, or TENSOR_LINEAR.

    Returns:
        A matrix of m rows and n columns.

    Source:
        Engine specification A 6.6. Interpolation is linear in the samples, so that its action on each
        unit vector is all there is to know.
    """
    if order == TENSOR_LINEAR:
        return _tensor_operator(n, m)
    zoom = scipy.ndimage.zoom  # Loaded by the first who asks: images that keep their grid need none of it.
    return np.stack(
        [zoom(unit, m / n, order=order, mode="nearest", grid_mode=True) for unit in np.eye(n)], axis=1
    )


def _tensor_operator(n: int, m: int) -> Matrix:
    """Tabulate linear interpolation with positions in 32 bits.

    Source:
        Engine specification A 6.8; agrees with PyTorch 2.13 to the last bit of each weight (own comparison).
    """
    positions = np.maximum(_tensor_positions(n, m), np.float32(0))
    lower = np.minimum(positions.astype(np.intp), n - 1)
    share = np.clip(positions - lower.astype(np.float32), np.float32(0), np.float32(1))
    weights = np.zeros((m, n))
    rows = np.arange(m)
    weights[rows, np.minimum(lower + 1, n - 1)] = share
    weights[rows, lower] += np.float32(1) - share
    return weights


def _tensor_positions(n: int, m: int) -> FloatArray:
    """Return where the samples after lie among those before, rounded once to 32 bits."""
    centres = np.arange(m) + 0.5
    return (np.float64(np.float32(n) / np.float32(m)) * centres - 0.5).astype(np.float32)


@lru_cache(maxsize=CACHED_OPERATORS)
def operator(n: int, m: int, order: int) -> Operator:
    """Return the axis operator, cleaned and in float32, with its band."""
    weights = axis_operator(n, m, order)
    weights[np.abs(weights) < NEGLIGIBLE] = 0
    occupied = weights != 0
    first = occupied.argmax(axis=1)
    end = n - occupied[:, ::-1].argmax(axis=1)
    return Operator(weights.astype(np.float32), first, end)


@lru_cache(maxsize=CACHED_OPERATORS)
def nearest(n: int, m: int) -> Indices:
    """Return the sample of n that lies nearest to each of m; halfway, the later one.

    Source:
        Engine specification A 6.6. The order of the operations decides ties and is part of the rule.
    """
    positions = (np.arange(m) + 0.5) * (n / m) - 0.5
    indices: Indices = np.clip(np.floor(positions + 0.5), 0, n - 1).astype(np.intp)
    return indices


@lru_cache(maxsize=CACHED_OPERATORS)
def copied(n: int, m: int, order: int) -> Indices:
    """Return which sample of n each of m copies.

    Args:
        n: Samples before.
        m: Samples after.
        order: One of COPYING; of any other, only that nothing changes where the lengths are equal.

    Source:
        Engine specification A 6.8 for those of PyTorch; equal to PyTorch 2.13 for all lengths below 260.
    """
    if order == TENSOR_NEAREST_EXACT:
        samples: Indices = np.floor(_tensor_positions(n, m) + np.float32(0.5)).astype(np.intp)
    elif order == TENSOR_NEAREST:
        samples = (np.arange(m, dtype=np.float32) * (np.float32(n) / np.float32(m))).astype(np.intp)
    else:
        samples = nearest(n, m)
    return np.minimum(samples, n - 1)


@lru_cache(maxsize=CACHED_OPERATORS)
def taps(n: int, m: int, order: int) -> Taps:
    """Return the neighbours of an interpolation of order 0 or 1.

    The weights are those of `axis_operator` to the last bit, because equal scores are told apart by them.

    Raises:
        ValueError: The order is higher; a spline has no few neighbours.
    """
    if order > LINEAR:
        raise ValueError(f"interpolation of order {order} has more than two neighbours")
    if order in COPYING or n == m:
        return Taps(copied(n, m, order)[np.newaxis], np.ones((1, m)))
    weights = axis_operator(n, m, order)
    lower = (weights != 0).argmax(axis=1)
    upper = np.minimum(lower + 1, n - 1)
    rows = np.arange(m)
    upper_weights = np.where(upper > lower, weights[rows, upper], 0.0)
    return Taps(np.stack([lower, upper]), np.stack([weights[rows, lower], upper_weights]))


def interpolate_axis(voxels_czyx: FloatArray, axis: int, line: Line) -> FloatArray:
    """Interpolate along one spatial axis.

    Args:
        voxels_czyx: Channels, each interpolated alike; along the axis, the samples that are given.
        axis: 0, 1 or 2 for z, y or x.
        line: What is interpolated along the axis.

    Returns:
        float32, along the axis the samples that are wanted.
    """
    if line.is_identity:
        return voxels_czyx
    if line.is_copy:
        indices = copied(line.before, line.after, line.order)[line.wanted] - line.given.start
        copied_czyx: FloatArray = voxels_czyx.take(indices, axis + 1)
        return copied_czyx
    c, z, y, x = voxels_czyx.shape
    count = line.wanted.stop - line.wanted.start
    if axis == 2:  # noqa: PLR2004 - x
        product_bm = np.empty((c * z * y, count), dtype=np.float32)
        for into, band, weights in _blocks(line):
            np.matmul(voxels_czyx.reshape(-1, x)[:, band], weights.T, out=product_bm[:, into])
        return product_bm.reshape(c, z, y, count)
    stack_bnx = voxels_czyx.reshape((c, z, y * x) if axis == 0 else (c * z, y, x))
    product_bmx = np.empty((len(stack_bnx), count, stack_bnx.shape[2]), dtype=np.float32)
    for into, band, weights in _blocks(line):
        np.matmul(weights, stack_bnx[:, band], out=product_bmx[:, into])
    return product_bmx.reshape((c, count, y, x) if axis == 0 else (c, z, count, x))


def _blocks(line: Line) -> Iterator[tuple[slice, slice, FloatArray]]:
    """Cut the operator into blocks: where rows go, which given samples they need, and their weights."""
    along = operator(line.before, line.after, line.order)
    for start in range(line.wanted.start, line.wanted.stop, ROWS_PER_BLOCK):
        rows = slice(start, min(start + ROWS_PER_BLOCK, line.wanted.stop))
        band = along.band(rows)
        yield (
            _shifted(rows, -line.wanted.start),
            _shifted(band, -line.given.start),
            along.weights[rows, band],
        )


def _shifted(part: slice, by: int) -> slice:
    """Move a range."""
    return slice(part.start + by, part.stop + by)
