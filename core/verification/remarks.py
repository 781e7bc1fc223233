"""What a header says that programs understand differently: units, signs, codes, two transforms, axes at odd angles."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from core.io.image import Geometry
from core.io.nibabel_view import both_transforms
from core.io.nifti import read_nifti
from core.io.nifti_entries import Entries
from core.io.volume import NIFTI_ENDINGS

MOST_AXES: Final = 7
"""That NIfTI knows; nifti1.h of nifti.nimh.nih.gov, as all below."""

OTHER_UNITS: Final = {1: "metres", 3: "micrometres"}
"""By the lower three bits of xyzt_units; 2 are millimetres, 0 is unknown."""

NOTED_DISTANCE_MM: Final = 0.1
"""Between two transforms of one header; rounding in 32 bits stays below it."""

NOTED_ANGLE: Final = 1e-3
"""Cosine of the angle between two axes. What lies below is rounding: 0.06 degrees."""

NOTED_LENGTH: Final = 1e-3
"""Relative difference of an edge by pixdim and by the transform."""

FLATTENED: Final = 1e-3
"""Volume of a voxel relative to its edges, below which the transform puts voxels on top of each other."""

FARTHEST_MM: Final = 1e8
"""From the origin of space: 100 km. What lies beyond comes of a damaged header."""

LONGEST_AXIS: Final = 1e6
"""Length of an axis by the transform, relative to the spacing."""

DISGUISES: Final = (
    (0, b"version https://git-lfs", "a pointer of Git LFS instead of the file; fetch it with git lfs pull"),
    (0, b"PK\x03\x04", "a zip archive; unpack it"),
    (0, b"\xff\xd8\xff", "a JPEG picture; export the original, because compression changed its intensities"),
    (128, b"DICM", "DICOM; convert its series to one volume, for example with dcm2niix"),
    (0, b"\x89HDF", "HDF5; convert it"),
)
"""What files are instead of images: where they say so, how, and what to do."""

WEB_PAGES: Final = (b"<!doctype html", b"<html", b"<?xml")
"""How web pages and answers of servers begin."""

FIRST_BYTES: Final = 256
"""Of a file, enough to see what it is."""


def header_remarks(path: Path) -> Iterator[str]:
    """Say what is odd about a NIfTI header that can be read; nothing of other formats.

    Raises:
        ImageError: The header cannot be read.
    """
    if not path.name.lower().endswith(NIFTI_ENDINGS):
        return
    entries = read_nifti(path).entries
    axes = int(entries["dim"][0])
    if axes > MOST_AXES:
        yield f"says that it has {axes} axes, of which NIfTI knows {MOST_AXES}; export it again"
    spacing = tuple(float(edge) for edge in entries["pixdim"][1:4])
    if min(spacing) < 0:
        yield f"has spacing {spacing} mm (x, y, z), of which the signs are left out; set pixdim"
    slope, intercept = float(entries["scl_slope"]), float(entries["scl_inter"])
    if math.isinf(slope) or (not math.isnan(slope) and not math.isfinite(intercept)):
        yield (
            f"scales its voxels by {slope} · x + {intercept}, which is left out of account; set scl_slope to 1 and "
            "scl_inter to 0, or export it again"
        )
    unit = OTHER_UNITS.get(int(entries["xyzt_units"]) & 7)
    if unit:
        yield f"gives its spacing in {unit}, which some programs take for millimetres; write millimetres"
    yield from _transform_remarks(entries)


def direction_remark(geometry: Geometry) -> str | None:
    """Say that the axes of an image meet at other than right angles, or have other lengths than the spacing."""
    matrix = _matrix(geometry)
    lengths = np.linalg.norm(matrix, axis=0)
    cosines = np.abs(matrix.T @ matrix / np.outer(lengths, lengths) - np.eye(len(matrix))).max()
    if cosines > NOTED_ANGLE:
        angle = 90 - math.degrees(math.asin(min(1.0, float(cosines))))
        return (
            f"has axes that meet at {angle:.3g} degrees instead of 90, while the network takes voxels for boxes; "
            "resample it to a rectangular grid"
        )
    if np.abs(lengths - 1).max() > NOTED_LENGTH:
        spacing = tuple(round(float(edge), 6) for edge in lengths * np.array(geometry.file_spacing_xyz))
        return (
            f"has spacing {geometry.file_spacing_xyz} mm by its pixdim but {spacing} mm (x, y, z) by its transform, "
            "and the first counts; correct the one that is wrong"
        )
    return None


def misplacement(geometry: Geometry) -> str | None:
    """Say that a header puts an image nowhere: voxels on top of each other, or beyond any scanner."""
    matrix, origin_xyz = _matrix(geometry), np.array(geometry.origin_xyz)
    is_near = np.abs(origin_xyz).max() <= FARTHEST_MM and np.abs(matrix).max() <= LONGEST_AXIS
    if not is_near:  # also where they are not finite
        return "lies beyond any scanner by its transform to space; correct its origin, sform or qform"
    if abs(float(np.linalg.det(matrix))) < FLATTENED:
        return "has a transform to space that puts voxels on top of each other; correct its sform or qform"
    return None


def disguise(path: Path) -> str | None:
    """Say what a file is, and what to do, where it is something else than an image; None if it cannot be told.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(FIRST_BYTES)
    if not head:
        return "empty; copy or export it again"
    if head.lstrip().lower().startswith(WEB_PAGES):
        return "a web page; download it again, logged in if need be"
    return next((what for offset, magic, what in DISGUISES if head.startswith(magic, offset)), None)


def _matrix(geometry: Geometry) -> npt.NDArray[np.float64]:
    """Return the direction matrix."""
    axes = len(geometry.file_spacing_xyz)
    return np.array(geometry.direction).reshape(axes, axes)


def _transform_remarks(entries: Entries) -> Iterator[str]:
    """Say that a header has no transform to space, or two that differ."""
    qform, sform = int(entries["qform_code"]), int(entries["sform_code"])
    if qform <= 0 and sform <= 0:
        yield (
            "does not say how it lies in space (the codes of qform and sform are 0); set one of them if the "
            "orientation of the images differs"
        )
    if qform <= 0 or sform <= 0 or entries["pixdim"][1:4].min() <= 0:
        return
    try:
        by_qform, by_sform = both_transforms(entries)
    except ValueError as error:
        yield f"has a qform that is no rotation ({error}); copy the sform to it"
        return
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=np.float64)
    corners[:, :3] *= np.maximum(entries["dim"][1:4] - 1, 0)
    distance = float(np.linalg.norm(corners @ (by_qform - by_sform).T, axis=1).max())
    if not distance <= NOTED_DISTANCE_MM:
        yield (
            f"has a qform and an sform that differ by up to {distance:.3g} mm, and programs take one or the other; "
            "copy the right one to the other"
        )
