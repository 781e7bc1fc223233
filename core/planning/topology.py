"""The shape of a U-Net: patch size, pooling and kernels, for a grid and a limit on the patch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod

from core.errors import PlanningError

SMALLEST_EDGE = 4
"""Voxels that an axis of the deepest feature map keeps at least, where it is pooled."""

LONELY_EDGE = 3 * SMALLEST_EDGE
"""Voxels below which the last axis that could still be pooled is not worth a stage of its own."""

SPACING_RATIO = 2.0
"""Axes within this ratio of the finest one are pooled, and convolved, together with it."""

STRIDE = 2
"""Factor by which a stage shrinks a pooled axis."""

KERNEL = 3
"""Edge of a convolution kernel, in voxels, along an axis that is not too coarse."""

INITIAL_VOXELS = {2: 2048**2, 3: 256**3}
"""Voxels of the patch to start from, by the number of dimensions; larger than any usual memory allows."""


@dataclass(frozen=True, slots=True)
class Topology:
    """A patch and how the encoder halves it; the first stage keeps the full resolution."""

    patch_size: tuple[int, ...]
    """Voxels; every axis a multiple of its divisor."""
    strides: tuple[tuple[int, ...], ...]
    """Per stage and axis."""
    kernel_sizes: tuple[tuple[int, ...], ...]
    """Per stage and axis."""
    divisors: tuple[int, ...]
    """Total pooling factor per axis."""


def initial_patch(spacing: Sequence[float], median_shape: Sequence[float]) -> tuple[float, ...]:
    """Return the patch to start from: as near to a cube in millimetres as the median image allows.

    Args:
        spacing: Millimetres, two or three axes.
        median_shape: Median voxel counts of the resampled cases, same axes.

    Returns:
        Voxels; halves occur where the median has them.

    Source:
        Engine specification A 5.6 (1).
    """
    resolution = [1 / edge for edge in spacing]
    dimensions = len(spacing)
    side_mm = (INITIAL_VOXELS[dimensions] / prod(resolution)) ** (1 / dimensions)
    return tuple(
        min(round(per_mm * side_mm), count) for per_mm, count in zip(resolution, median_shape, strict=True)
    )


def pooled_axes(spacing: Sequence[float], size: Sequence[float]) -> tuple[int, ...]:
    """Return the axes that the next stage halves; none when the encoder is deep enough.

    Args:
        spacing: Current millimetres per voxel.
        size: Current voxels of the feature map.

    Source:
        Engine specification A 5.8 (1) to (3).
    """
    divisible = [axis for axis, count in enumerate(size) if count >= STRIDE * SMALLEST_EDGE]
    if not divisible:
        return ()
    finest = min(spacing[axis] for axis in divisible)
    chosen = tuple(axis for axis in divisible if spacing[axis] / finest < SPACING_RATIO)
    is_lonely = len(chosen) == 1 and size[chosen[0]] < LONELY_EDGE
    return () if is_lonely else chosen


def topology(spacing: Sequence[float], patch: Sequence[float]) -> Topology:
    """Pool until nothing can be pooled, then pad the patch to what that pooling divides.

    Kernels along a coarse axis are flat until pooling of the others has caught up with it.

    Args:
        spacing: Millimetres, two or three axes.
        patch: Voxels wanted; fractions are rounded up with the padding.

    Source:
        Engine specification A 5.8.
    """
    edges, size = list(spacing), list(patch)
    axes = range(len(edges))
    kernel = [1 for _ in axes]
    divisors = [1 for _ in axes]
    strides, kernels = [(1,) * len(edges)], []
    while pooled := pooled_axes(edges, size):
        finest = min(edges)
        kernel = [
            KERNEL if edge / finest < SPACING_RATIO else before
            for edge, before in zip(edges, kernel, strict=True)
        ]
        kernels.append(tuple(kernel))
        stride = tuple(STRIDE if axis in pooled else 1 for axis in axes)
        strides.append(stride)
        divisors = [divisor * factor for divisor, factor in zip(divisors, stride, strict=True)]
        edges = [edge * factor for edge, factor in zip(edges, stride, strict=True)]
        size = [
            ceil(count / factor) if factor > 1 else count for count, factor in zip(size, stride, strict=True)
        ]
    return Topology(
        patch_size=tuple(ceil(n / divisor) * divisor for n, divisor in zip(patch, divisors, strict=True)),
        strides=tuple(strides),
        kernel_sizes=(*kernels, (KERNEL,) * len(edges)),
        divisors=tuple(divisors),
    )


def shrunk(current: Topology, spacing: Sequence[float], median_shape: Sequence[float]) -> Topology:
    """Shorten the axis that covers the most of the median image, by the smallest step that counts.

    The step is the divisor of the patch that is one full divisor shorter, so that a deep pooling
    gives way (256 → 224) before a whole block of voxels is lost (256 → 192).
    An axis of a single voxel is left alone.

    Raises:
        PlanningError: There is no voxel left to give.

    Source:
        Engine specification A 5.6 (5).
    """
    patch = current.patch_size
    reducible = [i for i, count in enumerate(patch) if count > 1]
    if not reducible:
        raise _too_little_memory()
    axis = max(reducible, key=lambda i: (patch[i] / median_shape[i], i))
    shorter = _shortened(patch, axis, current.divisors[axis])
    step = topology(spacing, shorter).divisors[axis]
    return topology(spacing, _shortened(patch, axis, step))


def _shortened(patch: tuple[int, ...], axis: int, step: int) -> tuple[int, ...]:
    """Return the patch with one axis shorter by a step; pooling leaves every axis longer than its divisor."""
    return (*patch[:axis], patch[axis] - step, *patch[axis + 1 :])


def fitted(
    start: Topology,
    spacing: Sequence[float],
    median_shape: Sequence[float],
    is_too_large: Callable[[Topology], bool],
) -> Topology:
    """Shrink the patch until it is small enough.

    Args:
        start: Where to begin.
        spacing: Millimetres, two or three axes.
        median_shape: Median voxel counts of the resampled cases, same axes.
        is_too_large: Says whether the network for a topology costs too much.

    Raises:
        PlanningError: Nothing that is left of the patch is small enough.
    """
    current, seen = start, {start.patch_size}
    while is_too_large(current):
        current = shrunk(current, spacing, median_shape)
        if current.patch_size in seen:  # Padding undoes the step; it would do so for ever.
            raise _too_little_memory()
        seen.add(current.patch_size)
    return current


def _too_little_memory() -> PlanningError:
    """Return the error for a memory target below the smallest network."""
    return PlanningError(
        "the GPU memory target is too small for any patch of this dataset; raise gpu_memory_gb"
    )
