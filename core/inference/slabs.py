"""Logits of all folds, slab by slab: what no later tile touches is finished, handed on and forgotten."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from core.domain.tiling import volume_patch
from core.errors import ModelError
from core.inference.sliding_window import (
    HEADS_AT_ONCE,
    Corner,
    OnTiles,
    TileNetwork,
    Window,
    mirrored_mean,
    pad_to_patch,
    tile_corners,
    tile_index,
    tile_rows,
    weight_map,
)

BLOCK_VALUES = 1 << 21
"""Logits that are weighted at a time. Networks leave heads side by side, sums lie head by head; small blocks stay in
the cache. Own measurement, one thread, 118 heads of 128 x 128 x 128: 1.2 s, in one piece per 16 heads 2.4 s."""


@dataclass(frozen=True, slots=True)
class Accumulator:
    """Where and how widely logits are summed, and in which order they are finished."""

    heads: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    """The reference sums in float16, which rounds logits to whole numbers where tiles weigh least."""
    axis: int = 0
    """Along which slabs follow each other: 0 or 1 of (z, y, x); always 0 for a 2D network."""


@dataclass(frozen=True, slots=True)
class Slab:
    """Finished logits of some slices."""

    start: int
    """First slice, along the axis on which slabs follow each other."""
    logits_kspq: Tensor
    """Heads, slices along that axis, then the other two axes in their order. Overwritten when the next slab is
    asked for."""

    @property
    def stop(self) -> int:
        """One past the last slice."""
        return self.start + self.logits_kspq.shape[1]


@torch.inference_mode()
def logit_slabs(
    networks: Sequence[TileNetwork],
    voxels_czyx: Tensor,
    window: Window,
    accumulator: Accumulator,
    on_tiles: OnTiles,
) -> Iterator[Slab]:
    """Slide every fold's network over an image and average their logits, not their probabilities.

    Sums are held for as many slices as tiles of one group touch, not for the whole image: all folds visit a
    group of tiles before the next one begins.

    Args:
        networks: One per fold, at least one.
        voxels_czyx: A preprocessed image of any size.
        window: How tiles lie and what they weigh.
        accumulator: Where sums live, and along which axis slabs follow each other.
        on_tiles: Told how many tiles are done, of `tile_count` in all; raises to stop.

    Yields:
        Slabs of the image's grid, ascending, without gaps.

    Raises:
        ModelError: A logit is not finite.

    Source:
        Engine specification B 6.5 and 6.7.
    """
    padded_czyx, inner = pad_to_patch(voxels_czyx, window.patch)
    axis, shape = accumulator.axis, padded_czyx.shape[1:]
    groups = tile_rows(shape, window, axis)
    ends = [*(group[0][axis] for group in groups[1:]), shape[axis]]
    sums = _Sums(accumulator, shape, window, groups)
    done = 0
    for group, end in zip(groups, ends, strict=True):
        for fold, network in enumerate(networks):
            for begin in range(0, len(group), window.tiles_per_batch):
                on_tiles(done)
                corners = group[begin : begin + window.tiles_per_batch]
                tiles_bczyx = torch.stack(
                    [padded_czyx[tile_index(corner, window.patch)] for corner in corners]
                )
                logits_bkzyx = mirrored_mean(network, tiles_bczyx, window).to(accumulator.device)
                for corner, logits_kzyx in zip(corners, logits_bkzyx, strict=True):
                    sums.add(corner, logits_kzyx, is_first_fold=fold == 0)
                del tiles_bczyx, logits_bkzyx
                done += len(corners)
        if group is groups[-1]:
            on_tiles(done)
        yield from _inner(sums.finished(group[0][axis], end, len(networks)), inner[1:], axis)


def fold_mean_logits(
    networks: Sequence[TileNetwork],
    voxels_czyx: Tensor,
    window: Window,
    accumulator: Accumulator,
    on_tiles: OnTiles,
) -> Tensor:
    """Return all slabs of `logit_slabs` as one array, for whoever needs them side by side.

    Returns:
        logits_kzyx on the grid of the image.

    Raises:
        ModelError: A logit is not finite.
    """
    shape = (accumulator.heads, *voxels_czyx.shape[1:])
    whole_kzyx = torch.empty(shape, dtype=accumulator.dtype, device=accumulator.device)
    whole_kspq = whole_kzyx.movedim(1 + accumulator.axis, 1)
    for slab in logit_slabs(networks, voxels_czyx, window, accumulator, on_tiles):
        whole_kspq[:, slab.start : slab.stop] = slab.logits_kspq
    return whole_kzyx


def tile_count(voxels_czyx: Tensor, window: Window, *, folds: int) -> int:
    """Return how many tiles a prediction goes through."""
    patch = volume_patch(window.patch)
    padded = [max(size, tile) for size, tile in zip(voxels_czyx.shape[1:], patch, strict=True)]
    return folds * len(tile_corners(padded, window.patch, window.step))


def slab_values(shape: Sequence[int], window: Window, heads: int, axis: int) -> int:
    """Return how many sums are held at a time, those of the weights among them.

    Args:
        shape: Voxels of the image, (z, y, x).
        window: How tiles lie.
        heads: Per voxel.
        axis: Along which slabs follow each other.
    """
    patch = volume_patch(window.patch)
    padded = [max(size, tile) for size, tile in zip(shape, patch, strict=True)]
    padded[axis] = _depth(tile_rows(padded, window, axis), axis, patch[axis])
    return (heads + 1) * prod(padded)


def _depth(groups: Sequence[Sequence[Corner]], axis: int, edge: int) -> int:
    """Return how many slices the tiles of one group touch at most."""
    return max(group[-1][axis] - group[0][axis] for group in groups) + edge


class _Sums:
    """Sums of weighted logits and of weights; slices that are finished make room for later ones.

    Slice i lies at i modulo the depth, so that nothing is ever moved.
    """

    def __init__(
        self,
        accumulator: Accumulator,
        shape: Sequence[int],
        window: Window,
        groups: Sequence[Sequence[Corner]],
    ) -> None:
        self._axis = accumulator.axis
        self._patch = volume_patch(window.patch)
        self._depth = _depth(groups, self._axis, self._patch[self._axis])
        sizes = [*shape]
        sizes[self._axis] = self._depth
        dtype, device = accumulator.dtype, accumulator.device
        self._logits_kzyx = torch.zeros((accumulator.heads, *sizes), dtype=dtype, device=device)
        self._weights_zyx = torch.zeros(sizes, dtype=dtype, device=device)
        self._tile_zyx = weight_map(window).to(device).reshape(self._patch)

    def add(self, corner: Corner, logits_kzyx: Tensor, *, is_first_fold: bool) -> None:
        """Add what a network says of a tile; its logits are overwritten."""
        tile_kzyx = logits_kzyx.reshape(len(logits_kzyx), *self._patch)
        spans = [slice(start, start + edge) for start, edge in zip(corner, self._patch, strict=True)]
        for place, part in self._pieces(corner[self._axis], spans[self._axis].stop):
            spans[self._axis] = place
            index = (spans[0], spans[1], spans[2])
            of_tile = (slice(None),) * self._axis + (part,)
            weights_zyx = self._tile_zyx[of_tile]
            part_kzyx, into_kzyx = (
                tile_kzyx[(slice(None), *of_tile)],
                self._logits_kzyx[(slice(None), *index)],
            )
            for heads, slices in _blocks(part_kzyx):
                into_kzyx[heads, slices] += part_kzyx[heads, slices].float().mul_(weights_zyx[slices])
            if is_first_fold:
                self._weights_zyx[index] += weights_zyx.to(self._weights_zyx.dtype)

    def finished(self, start: int, stop: int, folds: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the means of slices that no later tile touches, and forget them afterwards.

        Yields:
            The first slice, and logits_kzyx of so many as lie side by side.

        Raises:
            ModelError: A logit is not finite.
        """
        for place, part in self._pieces(start, stop):
            count = place.stop - place.start
            logits_kzyx = self._logits_kzyx.narrow(1 + self._axis, place.start, count)
            weights_zyx = self._weights_zyx.narrow(self._axis, place.start, count)
            shares_zyx = weights_zyx * folds
            extremes = [
                torch.stack(logits_kzyx[heads, slices].div_(shares_zyx[slices]).aminmax())
                for heads, slices in _blocks(logits_kzyx)
            ]
            if not torch.isfinite(torch.stack(extremes)).all():
                raise ModelError(
                    "the network's logits are not finite; predict with precision fp32, and if that does not help, "
                    "the weights are spoilt"
                )
            yield start + part.start, logits_kzyx
            logits_kzyx.zero_()
            weights_zyx.zero_()

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Yield where slices lie in the sums, and which of them these are; two pieces where they go round."""
        done = 0
        while start + done < stop:
            place = (start + done) % self._depth
            count = min(self._depth - place, stop - start - done)
            yield slice(place, place + count), slice(done, done + count)
            done += count


def _blocks(logits_kzyx: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut logits into few heads of few slices z, so that what is computed of them between two arrays stays small."""
    heads, depth, *plane = logits_kzyx.shape
    count = max(1, BLOCK_VALUES // (HEADS_AT_ONCE * prod(plane)))
    for head in range(0, heads, HEADS_AT_ONCE):
        for begin in range(0, depth, count):
            yield slice(head, head + HEADS_AT_ONCE), slice(begin, begin + count)


def _inner(pieces: Iterator[tuple[int, Tensor]], inner: Sequence[slice], axis: int) -> Iterator[Slab]:
    """Leave out the padding, and put the axis along which slabs follow each other first."""
    along = inner[axis]
    for start, logits_kzyx in pieces:
        first, last = max(start, along.start), min(start + logits_kzyx.shape[1 + axis], along.stop)
        if first >= last:
            continue
        index = [slice(None), *inner]
        index[1 + axis] = slice(first - start, last - start)
        yield Slab(first - along.start, logits_kzyx[tuple(index)].movedim(1 + axis, 1))
