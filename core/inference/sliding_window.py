"""Tiles, weights, mirroring and stitching: a network that sees patches, applied to a whole image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import combinations, islice, product
from math import ceil

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional

from core.io.image import FloatArray

SIGMA_PER_TILE = 1 / 8
"""Standard deviation of the weights, as a share of the tile. Source: Engine specification B 6.5."""

PEAK_WEIGHT = 10.0
"""Weight of the central voxel: keeps the corners above zero in 16 bits. Source: as above."""

Corner = tuple[int, int, int]
"""Where a tile begins, (z, y, x); tiles of a 2D network are one slice thick."""

TileNetwork = Callable[[Tensor], Tensor]
"""tiles_bczyx → logits_bkzyx of the same extent; (b, c, y, x) for a 2D network."""

OnTiles = Callable[[int], None]
"""Told before each step how many tiles are done; raises to stop there."""


@dataclass(frozen=True, slots=True)
class Window:
    """How a network is slid over an image; the defaults are the method's."""

    patch: tuple[int, ...]
    """Voxels that the network sees: three, or two for a 2D network."""
    step: float = 0.5
    """Distance of neighbouring tiles as a share of the patch, at most; in (0, 1]."""
    mirror_axes: tuple[int, ...] = ()
    """Axes of the patch along which tiles are mirrored as well."""
    has_gaussian: bool = True
    """Whether a tile counts most at its centre; otherwise it counts the same everywhere."""
    tiles_per_batch: int = 1
    """Tiles in one forward pass."""
    passes_per_batch: int = 1
    """Mirrorings in one forward pass."""


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


def tile_corners(shape: Sequence[int], patch: Sequence[int], step: float) -> list[Corner]:
    """Return the corners of all tiles, the first axis outermost; a 2D patch visits every slice.

    Args:
        shape: Voxels of the (padded) image, (z, y, x).
        patch: Voxels of a tile, three or two.
        step: As in `tile_starts`.
    """
    flat = len(shape) - len(patch)
    slices = [range(size) for size in shape[:flat]]
    starts = [tile_starts(size, tile, step) for size, tile in zip(shape[flat:], patch, strict=True)]
    return [(z, y, x) for z, y, x in product(*slices, *starts)]


@lru_cache(maxsize=8)
def gaussian_map(patch: tuple[int, ...]) -> FloatArray:
    """Weigh the voxels of a tile by how far they are from its border, where the network sees least.

    The values are those of the reference, which keeps them in 16 bits; nothing is lost by the sums
    being wider. They are not symmetric for an even size, whose centre lies in the upper half.

    Returns:
        Weights in (0, 10], shaped like the patch, read-only.

    Source:
        Engine specification B 6.5.
    """
    axes = [_impulse_response(size) for size in patch]
    weights: npt.NDArray[np.float64] = reduce(np.multiply.outer, axes)
    halves: npt.NDArray[np.float16] = (weights / weights.max() * PEAK_WEIGHT).astype(np.float16)
    halves[halves == 0] = halves[halves > 0].min()
    smooth: FloatArray = halves.astype(np.float32)
    smooth.flags.writeable = False
    return smooth


def _impulse_response(size: int) -> npt.NDArray[np.float64]:
    """Return the Gaussian of one axis, centred as the method centres it."""
    impulse = np.zeros(size)
    impulse[size // 2] = 1
    return np.asarray(gaussian_filter1d(impulse, size * SIGMA_PER_TILE, mode="constant"))


def weight_map(window: Window) -> Tensor:
    """Return the weight of every voxel of a tile."""
    return torch.tensor(gaussian_map(window.patch)) if window.has_gaussian else torch.ones(window.patch)


def weight_sum(shape: Sequence[int], window: Window, dtype: torch.dtype = torch.float32) -> Tensor:
    """Add up the weights that each voxel gets from all tiles.

    Args:
        shape: Voxels of the (padded) image, (z, y, x).
        window: How tiles lie.
        dtype: Of the sum.

    Returns:
        Positive weights over the axes of the patch: (z, y, x), or (y, x) since all slices are alike.
    """
    extent = shape[len(shape) - len(window.patch) :]
    weights, total = weight_map(window).to(dtype), torch.zeros(tuple(extent), dtype=dtype)
    axes = [tile_starts(size, tile, window.step) for size, tile in zip(extent, window.patch, strict=True)]
    for starts in product(*axes):
        total[_span(starts, window.patch)] += weights
    return total


def _span(starts: Sequence[int], patch: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices of a tile along the axes of the patch."""
    return tuple(slice(start, start + size) for start, size in zip(starts, patch, strict=True))


def _tile(corner: Corner, patch: Sequence[int]) -> tuple[int | slice, ...]:
    """Return the index of a tile in an array (c, z, y, x); a slice of a 2D network loses its axis z."""
    flat = len(corner) - len(patch)
    return (slice(None), *corner[:flat], *_span(corner[flat:], patch))


def pad_to_patch(voxels_czyx: Tensor, patch: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad with zeros to at least one tile, centred, an odd voxel at the end.

    Args:
        voxels_czyx: The image.
        patch: Voxels of a tile; two leave the slices as many as they are.

    Returns:
        The padded image (the same tensor if it is large enough), and the index (c, z, y, x) that undoes
        the padding.
    """
    wanted = (*voxels_czyx.shape[1 : 4 - len(patch)], *patch)
    shape = voxels_czyx.shape[1:]
    missing = [max(0, size - have) for size, have in zip(wanted, shape, strict=True)]
    inner = tuple(slice(gap // 2, gap // 2 + have) for gap, have in zip(missing, shape, strict=True))
    if any(missing):
        widths = [width for gap in reversed(missing) for width in (gap // 2, gap - gap // 2)]
        voxels_czyx = functional.pad(voxels_czyx, widths)
    return voxels_czyx, (slice(None), *inner)


def mirror_passes(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return every combination of axes to mirror: none first, then by number, then in order."""
    return [chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)]


def mirrored_mean(network: TileNetwork, tiles_bczyx: Tensor, window: Window) -> Tensor:
    """Average the logits of tiles over all mirrorings.

    Args:
        network: Sees one batch at a time.
        tiles_bczyx: Tiles, (b, c, y, x) for a 2D network.
        window: Its mirror axes, and how many mirrorings share a forward pass.

    Returns:
        logits_bkzyx in single precision, mirrored back.

    Source:
        Engine specification B 6.6.
    """
    passes = mirror_passes([axis + 2 for axis in window.mirror_axes])
    remaining, total = iter(passes), None
    while group := list(islice(remaining, window.passes_per_batch)):
        logits_bkzyx = network(torch.cat([_flip(tiles_bczyx, axes) for axes in group]))
        for axes, part_bkzyx in zip(group, logits_bkzyx.chunk(len(group)), strict=True):
            upright = _flip(part_bkzyx.float(), axes)
            total = upright if total is None else total.add_(upright)
    if total is None:
        raise AssertionError("there is always the pass without mirroring")
    return total.div_(len(passes)) if len(passes) > 1 else total


def _flip(batch: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mirror, or return the same tensor for no axes (torch would copy it)."""
    return batch.flip(axes) if axes else batch


@torch.inference_mode()
def add_logits(
    total_kzyx: Tensor, network: TileNetwork, voxels_czyx: Tensor, window: Window, on_tiles: OnTiles
) -> None:
    """Add the weighted logits of every tile to a running sum; dividing by `weight_sum` is the caller's.

    Args:
        total_kzyx: The sum, changed in place; it may live elsewhere than the network.
        network: Sees one batch of tiles at a time, on its own device.
        voxels_czyx: The image, at least as large as the patch.
        window: How tiles lie and what they weigh.
        on_tiles: Told before each batch, and at the end, how many tiles are done.
    """
    corners = tile_corners(voxels_czyx.shape[1:], window.patch, window.step)
    weights = weight_map(window).to(total_kzyx.device)
    for begin in range(0, len(corners), window.tiles_per_batch):
        on_tiles(begin)
        batch = [_tile(corner, window.patch) for corner in corners[begin : begin + window.tiles_per_batch]]
        tiles_bczyx = torch.stack([voxels_czyx[index] for index in batch])
        logits_bkzyx = mirrored_mean(network, tiles_bczyx, window).to(total_kzyx.device)
        for index, logits_kzyx in zip(batch, logits_bkzyx, strict=True):
            total_kzyx[index] += logits_kzyx.mul_(weights)
    on_tiles(len(corners))
