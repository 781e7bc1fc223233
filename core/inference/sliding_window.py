"""Tiles, weights, mirroring and stitching: a network that sees patches, applied to a whole image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import combinations, groupby, islice, product
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional

from core.domain.tiling import STEP, tile_starts
from core.io.image import FloatArray

SIGMA_PER_TILE = 1 / 8
"""Standard deviation of the weights, as a share of the tile. Source: Engine specification B 6.5."""

PEAK_WEIGHT = 10.0
"""Weight of the central voxel: keeps the corners above zero in 16 bits. Source: as above."""

HEADS_AT_ONCE = 16
"""Heads that are copied at a time on their way from one array to another; of a hundred, a copy would take a gigabyte."""

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
    step: float = STEP
    """Distance of neighbouring tiles as a share of the patch, at most; in (0, 1]."""
    mirror_axes: tuple[int, ...] = ()
    """Axes of the patch along which tiles are mirrored as well."""
    has_gaussian: bool = True
    """Whether a tile counts most at its centre; otherwise it counts the same everywhere."""
    tiles_per_batch: int = 1
    """Tiles in one forward pass."""
    passes_per_batch: int = 1
    """Mirrorings in one forward pass."""


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


def tile_rows(shape: Sequence[int], window: Window, axis: int) -> list[list[Corner]]:
    """Sort all tiles into groups that follow each other along an axis, each large enough for a forward pass.

    Args:
        shape: Voxels of the padded image, (z, y, x).
        window: How tiles lie, and how many share a forward pass.
        axis: 0, 1 or 2; all tiles of a group begin before those of the next.

    Returns:
        Corners by group.
    """
    rows: list[list[Corner]] = []
    ordered = sorted(tile_corners(shape, window.patch, window.step), key=itemgetter(axis))
    for _, same in groupby(ordered, key=itemgetter(axis)):
        if rows and len(rows[-1]) < window.tiles_per_batch:
            rows[-1] += same
        else:
            rows.append(list(same))
    return rows


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


def _span(starts: Sequence[int], patch: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices of a tile along the axes of the patch."""
    return tuple(slice(start, start + size) for start, size in zip(starts, patch, strict=True))


def tile_index(corner: Corner, patch: Sequence[int]) -> tuple[int | slice, ...]:
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
        logits_bkzyx, mirrored back; in single precision, or as the network gives them where it is not mirrored.

    Source:
        Engine specification B 6.6.
    """
    passes = mirror_passes([axis + 2 for axis in window.mirror_axes])
    remaining, total = iter(passes), None
    while group := list(islice(remaining, window.passes_per_batch)):
        logits_bkzyx = network(torch.cat([_flip(tiles_bczyx, axes) for axes in group]))
        for axes, part_bkzyx in zip(group, logits_bkzyx.chunk(len(group)), strict=True):
            if total is None:
                total = (
                    part_bkzyx.float() if len(passes) > 1 else part_bkzyx
                )  # The first pass mirrors nothing.
                continue
            for heads in range(0, total.shape[1], HEADS_AT_ONCE):
                few = slice(heads, heads + HEADS_AT_ONCE)
                total[:, few].add_(_flip(part_bkzyx[:, few], axes))
        del logits_bkzyx, part_bkzyx  # Of many heads gigabytes, which the next pass needs.
    if total is None:
        raise AssertionError("there is always the pass without mirroring")
    return total.div_(len(passes)) if len(passes) > 1 else total


def _flip(batch: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mirror, or return the same tensor for no axes (torch would copy it)."""
    return batch.flip(axes) if axes else batch
