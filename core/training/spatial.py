"""Rotation and scaling of a patch: which box it needs, and how its voxels and labels are sampled."""

from dataclasses import dataclass
from itertools import product
from math import cos, pi, prod, radians, sin

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.domain.geometry import Box, Shape
from core.domain.plan import Configuration
from core.domain.record import Record

ROTATION_PROBABILITY = 0.2
"""Engine specification B 2.4."""

SCALING_PROBABILITY = 0.2
"""Drawn independently of the rotation; engine specification B 2.4."""

SCALING_RANGE = (0.7, 1.4)
"""Uniform; values above 1 zoom out; engine specification B 2.4."""

FULL_ROTATION = pi
"""Radians to either side, where in-plane orientation carries no meaning; engine specification B 2.1."""

ELONGATED_ROTATION = radians(15)
"""Radians to either side for an elongated 2D patch; engine specification B 2.1."""

VOLUME_ROTATION = radians(30)
"""Radians to either side about each axis of a 3D patch; engine specification B 2.1."""

ELONGATED_RATIO = 1.5
"""A 2D patch is elongated when one edge is longer than the other by more; engine specification B 2.1."""

DUMMY_2D_RATIO = 3
"""A 3D patch whose first edge is shorter than the longest by more is augmented slice by slice.

Source:
    Engine specification A 5.14, B 2.1: only the first axis is looked at.
"""

INITIAL_PATCH_ROTATION = pi / 2
"""The enlarged patch grows with the angle up to here, radians; engine specification B 2.2."""

INITIAL_PATCH_SCALE = 0.85
"""The enlarged patch's edge is divided by this, whatever the scaling range; engine specification B 2.2."""

VOTE_UNIT = 1000
"""What a label's weights around a point add up to; halves of it then lie 0.25 apart in float16.

Source:
    Engine specification B 2.4.2: the number format decides what counts as a tie.
"""

LARGEST_LABEL = 2**15 - 1
"""What int16, the type of label maps, can hold."""


@dataclass(frozen=True, slots=True)
class PatchGeometry:
    """What the patch size alone decides, once per training."""

    patch: Shape
    """Voxels that the network sees, (z, y, x); z = 1 for a 2D network."""

    initial: Shape
    """Voxels that may contribute to a transformed patch; its centre is the centre of the transform.

    Beyond it a sample is padding, even where the image goes on: rotated and zoomed-out patches
    have empty corners, as in the published method, so that networks meet the same distribution.
    """

    rotation: float
    """Largest angle to either side in radians."""

    moving_axes: int
    """How many of the last axes rotate and scale: 2 where slices stay slices, else 3."""

    dimensions: int
    """Axes of the network's patch: 2 or 3."""


class SpatialParameters(Record):
    """One drawn rotation and scaling."""

    angles: tuple[float, ...]
    """Radians: one about each of the three axes, or a single one within the plane."""

    scale: float
    """Distance of neighbouring samples in voxels; above 1 objects shrink."""


def mirror_axes(configuration: Configuration) -> tuple[int, ...]:
    """Return the axes of the network's patch along which training mirrors, so that prediction may too.

    Source:
        Engine specification B 2.1.
    """
    return tuple(range(len(configuration.patch_size)))


def patch_geometry(configuration: Configuration) -> PatchGeometry:
    """Derive rotation range, enlarged patch and mirror axes from the patch size.

    Source:
        Engine specification A 5.14, B 2.1.
    """
    patch = configuration.patch_size
    if configuration.is_2d:
        is_elongated = max(patch) / min(patch) > ELONGATED_RATIO
        rotation = ELONGATED_ROTATION if is_elongated else FULL_ROTATION
        y, x = initial_patch(patch, rotation)
        return PatchGeometry((1, patch[0], patch[1]), (1, y, x), rotation, 2, 2)
    is_dummy_2d = max(patch) / patch[0] > DUMMY_2D_RATIO
    rotation = FULL_ROTATION if is_dummy_2d else VOLUME_ROTATION
    z, y, x = initial_patch(patch, rotation)
    return PatchGeometry(
        patch=(patch[0], patch[1], patch[2]),
        initial=(patch[0] if is_dummy_2d else z, y, x),
        rotation=rotation,
        moving_axes=2 if is_dummy_2d else 3,
        dimensions=3,
    )


def initial_patch(patch: tuple[int, ...], rotation: float) -> tuple[int, ...]:
    """Enlarge a patch so that most rotated samples stay within.

    Args:
        patch: Voxels of the final patch, two or three axes.
        rotation: Largest angle, radians.

    Source:
        Engine specification B 2.2: a rule of thumb, not a bounding box, and not symmetric in the axes.
    """
    angle = min(INITIAL_PATCH_ROTATION, rotation)
    turns = [_rotation((angle,))] if len(patch) == 2 else _axis_rotations((angle, angle, angle))  # noqa: PLR2004 - 2D
    reach = np.max([np.asarray(patch, dtype=float), *(np.abs(patch @ turn) for turn in turns)], axis=0)
    return tuple(int(edge / INITIAL_PATCH_SCALE) for edge in reach)


def draw_spatial(rng: np.random.Generator, geometry: PatchGeometry) -> SpatialParameters | None:
    """Draw whether and how a patch is rotated and scaled; None: it is merely cropped.

    Source:
        Engine specification B 2.4.1.
    """
    is_rotated = rng.random() < ROTATION_PROBABILITY
    is_scaled = rng.random() < SCALING_PROBABILITY
    if not is_rotated and not is_scaled:
        return None
    count = 3 if geometry.moving_axes == 3 else 1  # noqa: PLR2004 - three axes
    span = geometry.rotation if is_rotated else 0.0
    angles = tuple(float(angle) for angle in rng.uniform(-span, span, count))
    return SpatialParameters(angles=angles, scale=float(rng.uniform(*SCALING_RANGE)) if is_scaled else 1.0)


def needed_box(geometry: PatchGeometry, spatial: SpatialParameters | None) -> Box:
    """Find which part of the initial patch a transform looks at.

    Without rotation and scaling that is the patch itself. Else it is the bounding box of all voxels
    around a sampled point; it may reach one voxel beyond the initial patch, where padding lies.

    Returns:
        Voxels relative to the start of the initial patch, (z, y, x).
    """
    low = np.asarray(geometry.initial) // 2 - np.asarray(geometry.patch) // 2
    high = low + geometry.patch
    if spatial is not None:
        moving = slice(3 - geometry.moving_axes, 3)
        edges = np.asarray(geometry.patch[moving])
        size = np.asarray(geometry.initial[moving])
        reach = np.abs(affine(spatial)) @ ((edges - 1) / 2)
        low[moving] = np.maximum(np.floor((size - 1) / 2 - reach), -1)
        high[moving] = np.minimum(np.floor((size - 1) / 2 + reach) + 2, size + 1)
    z, y, x = ((int(first), int(end)) for first, end in zip(low, high, strict=True))
    return (z, y, x)


def affine(spatial: SpatialParameters) -> npt.NDArray[np.float64]:
    """Return the matrix from offsets in the patch to offsets in the initial patch, voxels.

    Source:
        Engine specification B 2.4.1 (3).
    """
    return _rotation(spatial.angles) * spatial.scale


def _rotation(angles: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Turn about x, then y, then z axis of the array; or by a single angle within the plane."""
    if len(angles) == 1:
        c, s = cos(angles[0]), sin(angles[0])
        return np.array([[c, -s], [s, c]])
    first, second, third = _axis_rotations(angles)
    return third @ second @ first


def _axis_rotations(angles: tuple[float, ...]) -> list[npt.NDArray[np.float64]]:
    """Return the rotations about axes 0, 1 and 2."""
    c, s = np.cos(angles), np.sin(angles)
    return [
        np.array([[1, 0, 0], [0, c[0], -s[0]], [0, s[0], c[0]]]),
        np.array([[c[1], 0, s[1]], [0, 1, 0], [-s[1], 0, c[1]]]),
        np.array([[c[2], -s[2], 0], [s[2], c[2], 0], [0, 0, 1]]),
    ]


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
    voxels_czyx: Tensor, labels_zyx: Tensor, geometry: PatchGeometry, spatial: SpatialParameters
) -> tuple[Tensor, Tensor]:
    """Rotate and scale a crop into a patch: voxels linearly, labels by vote.

    Args:
        voxels_czyx: What `needed_box` asked for, padded with 0 where there is no image.
        labels_zyx: The same box, padded with -1.
        geometry: Size of patch and initial patch.
        spatial: The transform.

    Returns:
        Voxels (c, z, y, x) and labels (z, y, x) of the patch.

    Source:
        Engine specification B 2.4.1, B 2.4.2.
    """
    channels = voxels_czyx.shape[0]
    box = needed_box(geometry, spatial)[3 - geometry.moving_axes :]
    neighbours = _neighbours(geometry, spatial, box, voxels_czyx.device)
    size = prod(high - low for low, high in box)
    sampled_rn = _interpolated(voxels_czyx.reshape(-1, size), neighbours)
    voted_rn = _voted(labels_zyx.reshape(-1, size).int(), neighbours)
    return sampled_rn.view(channels, *geometry.patch), voted_rn.view(geometry.patch).to(labels_zyx.dtype)


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
