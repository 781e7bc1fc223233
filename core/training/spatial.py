"""Rotation and scaling of a patch: what its size decides, what is drawn, and which box of the image it needs."""

from dataclasses import dataclass
from math import cos, pi, radians, sin

import numpy as np
import numpy.typing as npt

from core.domain.geometry import Box, Shape
from core.domain.plan import Configuration
from core.domain.record import Record

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


@dataclass(frozen=True, slots=True)
class SpatialRule:
    """How often and how far patches are rotated and scaled."""

    rotation: float
    """Probability."""

    axis: float
    """Probability of each axis to be turned about, given that the patch is rotated."""

    scaling: float
    """Probability; drawn independently of the rotation."""

    scales: tuple[float, float]
    """Uniform; values above 1 zoom out."""

    is_uniform: bool
    """Whether all axes are scaled by the same value."""


class SpatialParameters(Record):
    """One drawn rotation and scaling."""

    angles: tuple[float, ...]
    """Radians: one about each of the three axes, or a single one within the plane."""

    scale: float | tuple[float, ...]
    """Distance of neighbouring samples in voxels, along all moving axes or each; above 1 objects shrink."""


def patch_geometry(
    configuration: Configuration, *, dummy_2d: bool | None = None, shrinkage: float = INITIAL_PATCH_SCALE
) -> PatchGeometry:
    """Derive rotation range and enlarged patch from the patch size.

    Args:
        configuration: Its patch size has two or three axes.
        dummy_2d: Whether a 3D patch is augmented slice by slice; None: if it has few slices.
        shrinkage: What the edges of the enlarged patch are divided by.

    Source:
        Engine specification A 5.14, B 2.1; B 5 for patches that are never augmented slice by slice.
    """
    patch = configuration.patch_size
    if configuration.is_2d:
        is_elongated = max(patch) / min(patch) > ELONGATED_RATIO
        rotation = ELONGATED_ROTATION if is_elongated else FULL_ROTATION
        y, x = initial_patch(patch, rotation, shrinkage)
        return PatchGeometry((1, patch[0], patch[1]), (1, y, x), rotation, 2, 2)
    is_dummy_2d = max(patch) / patch[0] > DUMMY_2D_RATIO if dummy_2d is None else dummy_2d
    rotation = FULL_ROTATION if is_dummy_2d else VOLUME_ROTATION
    z, y, x = initial_patch(patch, rotation, shrinkage)
    return PatchGeometry(
        patch=(patch[0], patch[1], patch[2]),
        initial=(patch[0] if is_dummy_2d else z, y, x),
        rotation=rotation,
        moving_axes=2 if is_dummy_2d else 3,
        dimensions=3,
    )


def initial_patch(
    patch: tuple[int, ...], rotation: float, shrinkage: float = INITIAL_PATCH_SCALE
) -> tuple[int, ...]:
    """Enlarge a patch so that most rotated samples stay within.

    Args:
        patch: Voxels of the final patch, two or three axes.
        rotation: Largest angle, radians.
        shrinkage: What the edges are divided by.

    Source:
        Engine specification B 2.2: a rule of thumb, not a bounding box, and not symmetric in the axes.
    """
    angle = min(INITIAL_PATCH_ROTATION, rotation)
    turns = [_rotation((angle,))] if len(patch) == 2 else _axis_rotations((angle, angle, angle))  # noqa: PLR2004 - 2D
    reach = np.max([np.asarray(patch, dtype=float), *(np.abs(patch @ turn) for turn in turns)], axis=0)
    return tuple(int(edge / shrinkage) for edge in reach)


def draw_spatial(
    rng: np.random.Generator, geometry: PatchGeometry, rule: SpatialRule
) -> SpatialParameters | None:
    """Draw whether and how a patch is rotated and scaled; None: it is merely cropped.

    Source:
        Engine specification B 2.4.1, B 2.7.
    """
    is_rotated = rng.random() < rule.rotation
    is_scaled = rng.random() < rule.scaling
    if not is_rotated and not is_scaled:
        return None
    count = 3 if geometry.moving_axes == 3 else 1  # noqa: PLR2004 - three axes
    span = geometry.rotation if is_rotated else 0.0
    angles = rng.uniform(-span, span, count)
    if rule.axis < 1:
        angles = np.where(rng.random(count) < rule.axis, angles, 0.0)
    return SpatialParameters(
        angles=tuple(angles.tolist()), scale=_draw_scale(rng, geometry, rule) if is_scaled else 1.0
    )


def _draw_scale(
    rng: np.random.Generator, geometry: PatchGeometry, rule: SpatialRule
) -> float | tuple[float, ...]:
    """Draw one scale, or one per moving axis."""
    if rule.is_uniform:
        return float(rng.uniform(*rule.scales))
    return tuple(rng.uniform(*rule.scales, geometry.moving_axes).tolist())


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
    scaling: npt.NDArray[np.float64] = np.asarray(spatial.scale, dtype=np.float64)
    return _rotation(spatial.angles) * scaling


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
