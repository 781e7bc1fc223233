"""The grid that a case is brought to, and whether on it anything sensible, that memory can hold, is left of the image."""

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Final

from core.domain.geometry import resampled_shape
from core.domain.names import UNCHANGED_GRID
from core.domain.plan import Configuration
from core.errors import ImageError
from core.preprocessing.budget import total_bytes
from core.preprocessing.resample import Grid

LEAST_VOXELS: Final = 0.5
"""Of an axis of the whole image; less than half a voxel is rounded to none."""

FEWEST_VOXELS: Final = 1.5
"""Of the longest axis of the whole image; what is less is rounded to a single voxel."""

FLOAT_BYTES: Final = 4

GIB: Final = 2**30


def target_grid(
    image: Grid, source: Grid, configuration: Configuration, channels: int, memory_bytes: int | None = None
) -> Grid:
    """Return the grid of a case after resampling.

    A small box of what is not zero may shrink to a single voxel; the image around it must not.

    Args:
        image: Of the whole image, axes in the plan's order.
        source: Of what cropping left of it.
        configuration: Says the spacing.
        channels: Of the image.
        memory_bytes: What the machine has; measured if not given.

    Raises:
        ImageError: Nothing is left of the image along an axis, or more than the machine's memory could hold.

    Source:
        Engine specification A 6.1 (5) and (6); deviation: an image that would vanish is refused.
    """
    spacing = configuration.target_spacing(source.spacing)
    if configuration.resampling_fn_data == UNCHANGED_GRID:
        return Grid(source.shape, spacing)
    whole, left = _counts(image, spacing), _counts(source, spacing)
    many = [axis for axis, count in enumerate(image.shape) if count > 1]
    vanished = [axis for axis in many if whole[axis] <= LEAST_VOXELS]
    if vanished or (many and all(whole[axis] < FEWEST_VOXELS for axis in many)):
        raise ImageError(
            f"{_change(image, whole, spacing)}, of which nothing could be learnt; {_cure(image)}"
        )
    # The result and, for one channel at a time, what it is computed in.
    needed = FLOAT_BYTES * (channels + 1) * prod(max(1, count) for count in left)
    if needed > (_machine_bytes() if memory_bytes is None else memory_bytes):
        raise ImageError(
            f"{_change(image, whole, spacing)}; the {needed / GIB:.3g} GiB that this takes are more than the machine "
            f"has; {_cure(image)}"
        )
    return Grid(resampled_shape(source.shape, source.spacing, spacing), spacing)


@cache
def _machine_bytes() -> int:
    """Return how much memory there is, asked once instead of for every case."""
    return total_bytes()


def _counts(grid: Grid, spacing: Sequence[float]) -> list[float]:
    """Return how many voxels of a spacing a grid covers, unrounded."""
    return [
        before / after * count for count, before, after in zip(grid.shape, grid.spacing, spacing, strict=True)
    ]


def _change(image: Grid, whole: Sequence[float], spacing: Sequence[float]) -> str:
    """Say what becomes of an image."""
    return (
        f"at the spacing {_list(spacing)} mm of the plan, the {_times(image.shape)} voxels of {_list(image.spacing)} mm "
        f"would become {_times(whole)}"
    )


def _cure(image: Grid) -> str:
    """Say what to do."""
    return (
        f"write a spacing nearer to {_list(image.spacing)} mm into plans.json, or correct the image's header"
    )


def _times(counts: Sequence[float]) -> str:
    return " x ".join(f"{count:.3g}" if isinstance(count, float) else str(count) for count in counts)


def _list(spacing: Sequence[float]) -> str:
    return f"[{', '.join(f'{edge:g}' for edge in spacing)}]"
