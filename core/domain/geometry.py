"""Axis order, spacing and shape: triples ordered (z, y, x) unless their name says otherwise."""

from collections.abc import Sequence
from math import prod
from typing import Final, TypeVar

Spacing = tuple[float, float, float]
"""Distance between voxel centres in millimetres, (z, y, x)."""

Shape = tuple[int, int, int]
"""Voxel counts, (z, y, x); a 2D image has z = 1."""

Axes = tuple[int, int, int]
"""A permutation of (0, 1, 2)."""

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Half-open interval [low, high) per axis, (z, y, x)."""

FINEST_MM: Final = 1e-9
"""A thousandth of a nanometre; microscopes end at a tenth of one."""

COARSEST_MM: Final = 1e6
"""A kilometre; 2D images are given 999 mm between slices that do not exist."""

MOST_VOXELS: Final = 2**36
"""Of an image: 275 GB in 32-bit floats."""

N = TypeVar("N", int, float)


def permuted(triple: Sequence[N], axes: Sequence[int]) -> tuple[N, N, N]:
    """Reorder a triple: entry i of the result is entry axes[i] of the input."""
    first, second, third = (triple[axis] for axis in axes)
    return (first, second, third)


def inverse(axes: Sequence[int]) -> Axes:
    """Return the permutation that undoes `axes`."""
    first, second, third = (list(axes).index(axis) for axis in range(3))
    return (first, second, third)


def resampled_shape(shape: Sequence[int], source: Sequence[float], target: Sequence[float]) -> Shape:
    """Voxel counts of the same extent at another spacing, at least 1 per axis.

    Source:
        Engine specification A 6.1 (6): round half to even of source / target · count.
    """
    z, y, x = (
        max(1, round(before / after * count))
        for count, before, after in zip(shape, source, target, strict=True)
    )
    return (z, y, x)


def voxel_count(shape: Sequence[int]) -> int:
    """Return the number of voxels of a shape."""
    return prod(shape)
