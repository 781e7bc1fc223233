"""Labels on the image's grid without its logits: decided where neighbours agree, interpolated only elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation
from torch import Tensor

from core.domain.labels import LabelSet
from core.inference.decision import codes
from core.inference.rows import LINEAR, Slices
from core.preprocessing.operators import taps
from core.preprocessing.resample import Regridding


@dataclass(frozen=True, slots=True)
class Ends:
    """The neighbours that positions of the image's grid have on the network's, and their weights."""

    indices: Tensor
    """(m, 1) where samples are copied, (m, 2) where they are interpolated along one axis, (m, 4) two."""
    weights: Tensor
    """float32, of the same shape."""

    @property
    def is_pair(self) -> bool:
        """Whether there is interpolation at all."""
        return self.indices.shape[1] > 1


def decided_rows(
    slices: Slices, change: Regridding, labels: LabelSet, device: torch.device
) -> Iterator[Tensor]:
    """Decide each voxel, row by row, interpolating within a row only where its neighbours disagree.

    An interpolated value is a weighted mean of its neighbours. Where one class wins at all of them, it wins
    in between; only the other cells are interpolated. The result is the same, and the logits of the image's
    grid, often gigabytes, are never computed.

    Args:
        slices: Logits on the grid before.
        change: From grid to grid, linear, in the order of the slices.
        labels: What the heads stand for.
        device: Where the logits are.

    Yields:
        Codes of `core.inference.decision`, (p, q) of one row after the other.

    Source:
        Engine specification A 8.3, B 6.8. Equal to interpolating everything but for the rounding of ties.
    """
    across, *within = (_ends(change, axis, device) for axis in range(3))
    plane = _plane(change.source[2], *within)
    held: dict[int, Tensor] = {}
    for indices, weights in zip(across.indices.tolist(), across.weights.tolist(), strict=True):
        held = {index: held[index] if index in held else _pixels(slices, index) for index in sorted(indices)}
        logits_vk = held[indices[0]]
        if len(indices) > 1:
            logits_vk = torch.lerp(logits_vk, held[indices[1]], weights[1])
        codes_pq = codes(logits_vk, labels, 1).reshape(change.source[1:])
        decided_pq = _at_first_ends(codes_pq, within)
        undecided = _at_first_ends(_disagreeing(codes_pq, within), within).reshape(-1).nonzero()[:, 0]
        neighbours, shares = (
            plane.indices.index_select(0, undecided),
            plane.weights.index_select(0, undecided),
        )
        values_vk = F.embedding_bag(neighbours, logits_vk, mode="sum", per_sample_weights=shares)
        decided_pq.view(-1)[undecided] = codes(values_vk, labels, 1)
        yield decided_pq


def _pixels(slices: Slices, index: int) -> Tensor:
    """Return one slice with the logits of each pixel side by side, float32 (v, k)."""
    slice_kpq = slices.take(slice(index, index + 1))[:, 0]
    return slice_kpq.flatten(1).t().contiguous().float()


def _ends(change: Regridding, axis: int, device: torch.device) -> Ends:
    """Return the neighbours along one axis as tensors."""
    line = change.line(axis)
    known = taps(line.before, line.after, min(line.order, LINEAR))
    indices, weights = np.ascontiguousarray(known.indices.T), np.ascontiguousarray(known.weights.T)
    return Ends(torch.from_numpy(indices).to(device), torch.from_numpy(weights).to(device, torch.float32))


def _plane(columns: int, along_p: Ends, along_q: Ends) -> Ends:
    """Combine two axes: flat indices into a slice of so many columns, and the products of the weights."""
    indices = along_p.indices[:, None, :, None] * columns + along_q.indices[None, :, None, :]
    weights = along_p.weights[:, None, :, None] * along_q.weights[None, :, None, :]
    return Ends(indices.flatten(2).flatten(0, 1), weights.flatten(2).flatten(0, 1))


def _disagreeing(codes_pq: Tensor, within: Sequence[Ends]) -> Tensor:
    """Mark pixels that do not all agree with the next ones along the interpolated axes."""
    lowest = highest = codes_pq
    for axis, ends in enumerate(within):
        if ends.is_pair:
            count = codes_pq.shape[axis]
            following = torch.arange(1, count + 1, device=codes_pq.device).clamp_(max=count - 1)
            lowest = torch.minimum(lowest, lowest.index_select(axis, following))
            highest = torch.maximum(highest, highest.index_select(axis, following))
    return lowest != highest


def _at_first_ends(values_pq: Tensor, within: Sequence[Ends]) -> Tensor:
    """Copy the value at the first neighbour to every pixel of the image's grid."""
    for axis, ends in enumerate(within):
        values_pq = values_pq.index_select(axis, ends.indices[:, 0])
    return values_pq
