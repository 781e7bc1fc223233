"""Voxels and labels of a rotated and scaled patch: voxels linearly, labels by vote or the nearest."""

from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor

from core.training.spatial import PatchGeometry, SpatialParameters, affine, needed_box

VOTE_UNIT = 1000
"""What a label's weights around a point add up to; halves of it then lie 0.25 apart in float16.

Source:
    Engine specification B 2.4.2: the number format decides what counts as a tie.
"""

LARGEST_LABEL = 2**15 - 1
"""What int16, the type of label maps, can hold."""


@dataclass(frozen=True, slots=True)
class _Neighbours:
    """The 4 or 8 voxels around each sampled point; corner k, point n."""

    first_n: Tensor
    """Flat index of each point's lowest corner."""
    offsets: tuple[int, ...]
    """What to add to it for each corner."""
    weights_kn: Tensor
    """Linear weights; each point's add up to 1."""
    nearest_n: Tensor
    """Which corner is nearest; halfway, the one with even coordinates."""


def transformed(
    voxels_czyx: Tensor,
    labels_lzyx: Tensor,
    geometry: PatchGeometry,
    spatial: SpatialParameters,
    *,
    is_voted: bool = True,
) -> tuple[Tensor, Tensor]:
    """Rotate and scale a crop into a patch.

    Args:
        voxels_czyx: What `needed_box` asked for, padded with 0 where there is no image.
        labels_lzyx: Label maps of the same box, padded with -1.
        geometry: Size of patch and initial patch.
        spatial: The transform.
        is_voted: Whether all labels around a point vote for its own; else it is the nearest one.

    Returns:
        Voxels (c, z, y, x) and labels (l, z, y, x) of the patch.

    Source:
        Engine specification B 2.4.1, B 2.4.2; B 2.8 for the nearest label.
    """
    channels = voxels_czyx.shape[0]
    box = needed_box(geometry, spatial)[3 - geometry.moving_axes :]
    neighbours = _neighbours(geometry, spatial, box, voxels_czyx.device)
    size = prod(high - low for low, high in box)
    sampled_rn = _interpolated(voxels_czyx.reshape(-1, size), neighbours)
    sample = _voted if is_voted else _nearest
    labels_rn = sample(labels_lzyx.reshape(-1, size).int(), neighbours)
    shape = (labels_lzyx.shape[0], *geometry.patch)
    return sampled_rn.view(channels, *geometry.patch), labels_rn.view(shape).to(labels_lzyx.dtype)


def _neighbours(
    geometry: PatchGeometry,
    spatial: SpatialParameters,
    box: tuple[tuple[int, int], ...],
    device: torch.device,
) -> _Neighbours:
    """Locate every point of the patch among the voxels of the box."""
    axes = geometry.moving_axes
    edges, sizes = geometry.patch[3 - axes :], geometry.initial[3 - axes :]
    matrix = affine(spatial).tolist()
    offsets = [
        (torch.arange(edge, dtype=torch.float32, device=device) - (edge - 1) / 2).view(
            [-1 if axis == other else 1 for other in range(axes)]
        )
        for axis, edge in enumerate(edges)
    ]
    strides = [prod(high - low for low, high in box[axis + 1 :]) for axis in range(axes)]
    first_n = torch.zeros(prod(edges), dtype=torch.int64, device=device)
    nearest_n = torch.zeros_like(first_n)
    weights_kn = torch.ones(1, prod(edges), device=device)
    for axis, (low, high) in enumerate(box):
        terms = [offset * factor for offset, factor in zip(offsets, matrix[axis], strict=True)]
        terms[-1] = terms[-1] + (sizes[axis] - 1) / 2
        position_n = sum(terms[1:], terms[0]).flatten().clamp_(low, high - 1)
        lower_n = position_n.floor().clamp_(max=high - 2)
        first_n.add_((lower_n - low).long(), alpha=strides[axis])
        nearest_n.mul_(2).add_((position_n.round() - lower_n).long())
        share_n = position_n - lower_n
        weights_kn = (weights_kn[:, None] * torch.stack((1 - share_n, share_n))).flatten(0, 1)
    corners = product((0, 1), repeat=axes)
    jumps = tuple(sum(map(int.__mul__, strides, corner)) for corner in corners)
    return _Neighbours(first_n, jumps, weights_kn, nearest_n)


def _interpolated(source_rv: Tensor, neighbours: _Neighbours) -> Tensor:
    """Average the corners of each point; rows r are channels, or channels by slices."""
    sampled_rn = torch.zeros(
        source_rv.shape[0], neighbours.first_n.numel(), dtype=source_rv.dtype, device=source_rv.device
    )
    for offset, weight_n in zip(neighbours.offsets, neighbours.weights_kn, strict=True):
        sampled_rn.addcmul_(source_rv[:, offset:].index_select(1, neighbours.first_n), weight_n)
    return sampled_rn


def _nearest(labels_rv: Tensor, neighbours: _Neighbours) -> Tensor:
    """Give each point the label of its nearest voxel."""
    offsets_k = torch.tensor(neighbours.offsets, device=labels_rv.device)
    return labels_rv.index_select(1, neighbours.first_n + offsets_k[neighbours.nearest_n])


def _voted(labels_rv: Tensor, neighbours: _Neighbours) -> Tensor:
    """Give each point the label with the largest share of its surroundings.

    Only the labels at its corners can win, so the cost does not depend on how many labels there are;
    and where the corners agree, which is nearly everywhere, there is nothing to count.
    """
    corners_krn = torch.stack(
        [labels_rv[:, offset:].index_select(1, neighbours.first_n) for offset in neighbours.offsets]
    )
    labels_rn = corners_krn.amin(0)
    rows_m, points_m = (labels_rn != corners_krn.amax(0)).nonzero(as_tuple=True)
    labels_rn[rows_m, points_m] = _winners(
        corners_krn[:, rows_m, points_m],
        neighbours.weights_kn.index_select(1, points_m) * VOTE_UNIT,
        neighbours.nearest_n[points_m],
    )
    return labels_rn


def _winners(corners_km: Tensor, weights_km: Tensor, nearest_m: Tensor) -> Tensor:
    """Count the votes of points whose corners disagree, one candidate after the other, lowest label first.

    Shares are compared in float16, where near ties are ties: the nearest voxel's label decides if it is
    among the best, else the lowest of them wins.

    Source:
        Engine specification B 2.4.2 (3).
    """
    nearest_m = corners_km.gather(0, nearest_m.unsqueeze(0))[0]
    winners_m = corners_km.amin(0)
    best_m = torch.full_like(winners_m, -1, dtype=torch.float16)
    open_q = torch.arange(nearest_m.numel(), device=nearest_m.device)
    candidates_q = winners_m.clone()
    while open_q.numel() > 0:
        score_q = (weights_km * (corners_km == candidates_q)).sum(0).half()
        is_better_q = score_q > best_m[open_q]
        is_better_q |= (score_q == best_m[open_q]) & (candidates_q == nearest_m[open_q])
        winners_m[open_q] = torch.where(is_better_q, candidates_q, winners_m[open_q])
        best_m[open_q] = torch.maximum(score_q, best_m[open_q])
        # Lift the labels that had their turn out of the search; a masked fill takes four times as long.
        candidates_q = corners_km.add(corners_km <= candidates_q, alpha=2 * LARGEST_LABEL).amin(0)
        left_p = (candidates_q <= LARGEST_LABEL).nonzero()[:, 0]
        open_q, candidates_q = open_q[left_p], candidates_q[left_p]
        corners_km, weights_km = corners_km.index_select(1, left_p), weights_km.index_select(1, left_p)
    return winners_m
