"""How tiles lie along an axis, and along which axis a prediction is finished slab by slab."""

from collections.abc import Sequence
from math import ceil
from typing import Final

STEP: Final = 0.5
"""Distance of neighbouring tiles as a share of the patch; Engine specification B 6.2."""

VOLUME_AXES: Final = 3
"""Of the patch of a 3D network; that of a 2D one has two."""

WORTH_TURNING: Final = 0.9
"""Share of the slab's memory that another axis must save, because slices of the first lie closest in memory."""


def tile_starts(size: int, tile: int, step: float) -> tuple[int, ...]:
    """Spread tiles evenly over one axis, first and last flush with its ends.

    Args:
        size: Voxels of the image, at least `tile`.
        tile: Voxels of the tile.
        step: Largest distance between neighbours, as a share of the tile.

    Raises:
        ValueError: The image is smaller than the tile, or the step is not in (0, 1].

    Source:
        Engine specification B 6.5; halves are rounded to even.
    """
    if size < tile or not 0 < step <= 1:
        raise ValueError(f"cannot lay tiles of {tile} with step {step} over {size} voxels")
    count = ceil((size - tile) / (tile * step)) + 1
    if count == 1:
        return (0,)
    distance = (size - tile) / (count - 1)
    return tuple(round(distance * index) for index in range(count))


def volume_patch(patch: Sequence[int]) -> tuple[int, int, int]:
    """Return the patch as it lies in a volume: that of a 2D network is one slice thick."""
    z, y, x = patch if len(patch) == VOLUME_AXES else (1, *patch)
    return (z, y, x)


def slab_axis(shape: Sequence[int], patch: Sequence[int]) -> int:
    """Choose the axis along which a prediction is finished slab by slab: where a patch is a smaller part of the image.

    Tiles are visited in the order of this axis. What no later tile touches is finished, so that sums are held
    for as many slices as a patch is thick. The last axis is left out: its slices lie scattered in memory.

    Args:
        shape: Voxels of the image on the network's grid, (z, y, x).
        patch: Of the network, three or two; a 2D network visits one slice after the other.

    Returns:
        0 or 1, for z or y.
    """
    if len(patch) != VOLUME_AXES:
        return 0
    along_z, along_y = (min(1.0, patch[axis] / shape[axis]) for axis in (0, 1))
    return int(along_y < WORTH_TURNING * along_z)


def slab_shape(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, int, int]:
    """Return the voxels for which sums of logits are held at a time; images smaller than the patch are padded to it."""
    z, y, x = volume_patch(patch)
    sizes = [max(size, edge) for size, edge in zip(shape, (z, y, x), strict=True)]
    axis = slab_axis(shape, patch)
    sizes[axis] = (z, y, x)[axis]
    return (sizes[0], sizes[1], sizes[2])
