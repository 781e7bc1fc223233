"""Image: voxels with the place in space that they came from."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import isclose

import numpy as np
import numpy.typing as npt

from core.domain.geometry import Axes, Shape, Spacing
from core.domain.record import Record
from core.errors import ImageError

FloatArray = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.integer]

StoredArray = npt.NDArray[np.number]
"""Voxels in the type that their file has."""

PATIENT_AXES = ("LR", "PA", "SI")
"""Where x, y and z of patient space grow, and the opposite: left, posterior, superior (ITK's convention)."""

SPACING_TOLERANCE = 1e-5
"""Relative difference of spacings that is taken for rounding; Engine specification A 2 (14)."""

FLAT_SPACING_FACTOR = 999.0
"""A 2D image counts as one slice this many times thicker than its pixels; Engine specification A 4.3."""

VALUE_LIMIT = 2**30
"""Voxels times channels of one file: 4000 slices of 512 x 512, 4 GiB in 32-bit floats. Headers that claim
more are refused before memory is reserved."""

SPACING_LIMITS = (1e-6, 1e6)
"""Millimetres. Everything between a nanometre and a kilometre is believed."""

PLANE_AXES = 2
"""Of a 2D image."""

POSITION_TOLERANCE = 0.1
"""How far apart, in voxels, the corners of two grids may lie. Rounding of origins and directions in 32-bit
headers stays below it even on long oblique axes; a label map that is shifted by more misses its image."""


class Geometry(Record):
    """Where an array lies in space, so that a segmentation can lie there too.

    It is what the file says, or follows from that where the array was turned after reading.
    """

    spacing: Spacing
    """Millimetres in array order (z, y, x), as the method uses it; a 2D image gets a large first entry."""

    file_spacing_xyz: tuple[float, ...]
    """As in the file; two entries for a 2D image."""

    origin_xyz: tuple[float, ...]
    direction: tuple[float, ...]
    """Row-major direction matrix, 4 or 9 entries. Its columns times the spacing are the steps from voxel to
    voxel; they are of length 1 and at right angles except in the headers that only nibabel reads."""

    turn: "Turn | None" = None
    """How the array differs from the file's; None where voxels lie as in the file."""

    @property
    def is_2d(self) -> bool:
        """Whether the file holds one slice without a third axis."""
        return len(self.file_spacing_xyz) == PLANE_AXES


class Turn(Record):
    """How an array was turned after reading: axes permuted, then some reversed; both to be undone on writing."""

    axes: Axes
    """Axis i of the array is axis axes[i] of the file, (z, y, x)."""

    reversed_axes: tuple[bool, bool, bool]
    """Of the array: whether it runs against the file's axis."""

    stored: Geometry
    """Of the file."""


Geometry.model_rebuild()


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself, before any voxel is decoded."""

    shape: Shape
    """Voxel counts (z, y, x)."""

    channels: int
    stored_type: np.dtype[np.number]
    geometry: Geometry

    is_indexed: bool = False
    """Whether values are entries of a color table: fit for labels, meaningless as intensities."""

    has_spacing: bool = True
    """Whether the spacing comes from the file; otherwise it is 1 mm for want of anything better."""

    @property
    def values(self) -> int:
        """How many numbers the voxels of all channels are."""
        z, y, x = self.shape
        return z * y * x * self.channels


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file whose header was read."""

    header: Header
    load: Callable[[], StoredArray]
    """Decode the voxels, (c, z, y, x), in the stored type."""


@dataclass(frozen=True, slots=True)
class Image:
    """One case as the network's channels see it."""

    voxels_czyx: FloatArray
    """Channels first; a 2D image has z = 1."""

    geometry: Geometry

    @property
    def shape(self) -> Shape:
        """Voxel counts (z, y, x)."""
        _, z, y, x = self.voxels_czyx.shape
        return (z, y, x)


@dataclass(frozen=True, slots=True)
class LabelMap:
    """A segmentation or a reference, with its place in space."""

    labels_zyx: LabelArray
    geometry: Geometry


def array_spacing(spacing_xyz: tuple[float, ...]) -> Spacing:
    """Return the spacing (z, y, x) that the method uses."""
    x, y = (abs(edge) for edge in spacing_xyz[:PLANE_AXES])
    is_flat = len(spacing_xyz) == PLANE_AXES
    return (FLAT_SPACING_FACTOR * max(x, y) if is_flat else abs(spacing_xyz[PLANE_AXES]), y, x)


def require_believable(header: Header, name: str) -> None:
    """Refuse what no image can be, before memory is reserved for what a header claims.

    Raises:
        ImageError: It claims no voxels or more than anybody could hold, or has no sensible spacing or place.
    """
    if min(header.shape) < 1 or header.values > VALUE_LIMIT:
        raise ImageError(
            f"{name} says that it has {header.values} voxels; at most {VALUE_LIMIT} can be read. "
            "Crop it, or export it again if its header is wrong",
            file=name,
        )
    low, high = SPACING_LIMITS
    if not all(low <= edge <= high for edge in header.geometry.file_spacing_xyz):
        raise ImageError(
            f"{name} has spacing {header.geometry.file_spacing_xyz} mm (x, y, z); each must be a positive "
            "number of millimetres: correct the header",
            file=name,
        )
    if not np.isfinite((*header.geometry.origin_xyz, *header.geometry.direction)).all():
        raise ImageError(
            f"{name} says that its voxels lie at places that are not finite numbers; correct its origin and "
            "direction (in NIfTI its sform and qform)",
            file=name,
        )


def disagreement(first: Header, second: Header) -> str | None:
    """Say how the grids of two files differ, with numbers, or return None where they agree.

    Differences that rounding in a header explains are none.
    """
    if first.shape != second.shape:
        return f"their shapes (z, y, x) differ: {_triple(first.shape)} and {_triple(second.shape)} voxels"
    ours, theirs = first.geometry, second.geometry
    if not all(
        isclose(one, other, rel_tol=SPACING_TOLERANCE)
        for one, other in zip(ours.spacing, theirs.spacing, strict=True)
    ):
        return f"their spacings (z, y, x) differ: {_triple(ours.spacing)} and {_triple(theirs.spacing)} mm"
    if ours.is_2d != theirs.is_2d:
        return "one is a 2D image and the other a volume with one slice"
    if corner_distance(first, second) <= POSITION_TOLERANCE * min(ours.file_spacing_xyz):
        return None
    if any(
        abs(one - other) > SPACING_TOLERANCE
        for one, other in zip(ours.direction, theirs.direction, strict=True)
    ):
        return f"their directions differ: {_triple(ours.direction)} and {_triple(theirs.direction)}"
    return f"their origins (x, y, z) differ: {_triple(ours.origin_xyz)} and {_triple(theirs.origin_xyz)} mm"


def corner_distance(first: Header, second: Header) -> float:
    """Return the largest distance between corresponding corners of two grids, in millimetres."""
    sizes_xyz = first.shape[::-1][: len(first.geometry.file_spacing_xyz)]
    corners_xyz = np.array(list(product(*((0, size - 1) for size in sizes_xyz))), dtype=np.float64)
    apart = _positions(corners_xyz, first.geometry) - _positions(corners_xyz, second.geometry)
    return float(np.linalg.norm(apart, axis=1).max())


def _positions(indices_xyz: npt.NDArray[np.float64], geometry: Geometry) -> npt.NDArray[np.float64]:
    """Return where voxels lie, in millimetres, (x, y, z)."""
    spacing_xyz = np.array(geometry.file_spacing_xyz)
    direction = np.array(geometry.direction).reshape(len(spacing_xyz), len(spacing_xyz))
    positions: npt.NDArray[np.float64] = indices_xyz * spacing_xyz @ direction.T + geometry.origin_xyz
    return positions


def _triple(numbers: tuple[float, ...]) -> str:
    """Write numbers for a person."""
    return "(" + ", ".join(f"{number:.6g}" for number in numbers) + ")"


def orientation(geometry: Geometry) -> str:
    """Name the directions in which x, y and z grow, for example LPS; empty for a 2D image.

    Oblique axes count as the nearest straight one.
    """
    if geometry.is_2d:
        return ""
    rows, signs = nearest_axes(np.array(geometry.direction).reshape(3, 3))
    return "".join(
        PATIENT_AXES[row][int(sign < 0)] for row, sign in zip(rows.tolist(), signs.tolist(), strict=True)
    )


def nearest_axes(direction: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Find the straight axis nearest to each column of a direction matrix, no two columns the same.

    Returns:
        Per column the row of that axis, and the sign of the entry there.

    Source:
        The rule of ITK's DICOM orientation: the largest entry first, then the largest of what is left; of
        equal ones the last in row-major order. Compared with ITK on 4000 matrices, ties among them.
    """
    size = len(direction)
    left = np.abs(direction)
    rows, signs = np.zeros(size, np.intp), np.zeros(size)
    for _ in range(size):
        last = left.size - 1 - int(left.ravel()[::-1].argmax())
        row, column = divmod(last, size)
        rows[column], signs[column] = row, np.copysign(1.0, direction[row, column])
        left[row, :] = left[:, column] = -1.0
    return rows, signs
