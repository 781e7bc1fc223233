"""One set of logits from the networks of several folds, in one running sum."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from core.errors import ModelError
from core.inference.sliding_window import (
    OnTiles,
    TileNetwork,
    Window,
    add_logits,
    pad_to_patch,
    tile_corners,
    weight_sum,
)


@dataclass(frozen=True, slots=True)
class Accumulator:
    """Where and how widely logits are summed."""

    heads: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    """The reference sums in float16, which rounds logits to whole numbers where tiles weigh least."""


@torch.inference_mode()
def fold_mean_logits(
    networks: Sequence[TileNetwork],
    voxels_czyx: Tensor,
    window: Window,
    accumulator: Accumulator,
    on_tiles: OnTiles,
) -> Tensor:
    """Slide every fold's network over an image and average their logits, not their probabilities.

    Args:
        networks: One per fold, at least one.
        voxels_czyx: A preprocessed image of any size.
        window: How tiles lie and what they weigh.
        accumulator: Holds the only array of the size heads x image.
        on_tiles: Told how many tiles are done, of `tile_count` in all; raises to stop.

    Returns:
        logits_kzyx on the grid of the image.

    Raises:
        ModelError: A logit is not finite.

    Source:
        Engine specification B 6.5 and 6.7.
    """
    padded_czyx, inner = pad_to_patch(voxels_czyx, window.patch)
    shape = (accumulator.heads, *padded_czyx.shape[1:])
    total_kzyx = torch.zeros(shape, dtype=accumulator.dtype, device=accumulator.device)
    tiles = tile_count(voxels_czyx, window, folds=1)
    for fold, network in enumerate(networks):
        add_logits(total_kzyx, network, padded_czyx, window, partial(_offset, on_tiles, fold * tiles))
    weights = weight_sum(padded_czyx.shape[1:], window, accumulator.dtype)
    total_kzyx /= weights.to(total_kzyx.device) * len(networks)
    low, high = total_kzyx.aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ModelError(
            "the network's logits are not finite; predict with precision fp32, and if that does not help, "
            "the weights are spoilt"
        )
    return total_kzyx[inner]


def _offset(on_tiles: OnTiles, before: int, done: int) -> None:
    """Count the tiles of earlier folds too."""
    on_tiles(before + done)


def tile_count(voxels_czyx: Tensor, window: Window, *, folds: int) -> int:
    """Return how many tiles a prediction goes through."""
    padded = [
        max(size, tile)
        for size, tile in zip(voxels_czyx.shape[-len(window.patch) :], window.patch, strict=True)
    ]
    slices = voxels_czyx.shape[1 : 4 - len(window.patch)]
    return folds * len(tile_corners((*slices, *padded), window.patch, window.step))
