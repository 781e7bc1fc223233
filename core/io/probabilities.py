"""What a prediction can leave beside its label map: probabilities part by part, properties of the case, a map of values."""

import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import numpy as np

from core.io.case_store import CaseProperties
from core.io.image import FloatArray, Geometry, LabelMap, orientation
from core.io.nifti import affine_of, write_nifti
from core.io.orientation import as_stored

MEMBER: Final = "probabilities.npy"
"""The one array of an npz file of probabilities; Engine specification B 6.8 (5)."""

COPIED_BYTES: Final = 1 << 24
"""Of a file, at a time."""

FLOAT_BYTES: Final = 4

KeepPart = Callable[[tuple[slice, slice, slice], FloatArray], None]
"""Told where a part lies, (z, y, x), and its probabilities (k, z, y, x)."""


@contextmanager
def probabilities_written(
    path: Path, shape_kzyx: tuple[int, int, int, int], *, has_background: bool
) -> Iterator[KeepPart]:
    """Write the probabilities of a case as they come; they are never in memory as a whole.

    They are stored as they are: their last digits are noise that hardly compresses, and who averages several models
    reads what is stored several times faster. The file appears when it is complete, and not if something fails.

    Args:
        path: CASE.npz.
        shape_kzyx: Heads and voxels of the image.
        has_background: Whether the first head is background, which is certain wherever nothing is told.
    """
    mark = f".writing-{token_hex(4)}-{path.name}"
    raw, partial = path.with_name(f"{mark}.raw"), path.with_name(mark)
    try:
        with raw.open("wb") as file:
            ones = np.ones(COPIED_BYTES // FLOAT_BYTES, "<f4")
            left = prod(shape_kzyx[1:]) if has_background else 0
            while left > 0:
                left -= file.write(ones[:left].data) // FLOAT_BYTES
            file.truncate(FLOAT_BYTES * prod(shape_kzyx))

        def keep(place_zyx: tuple[slice, slice, slice], values_kzyx: FloatArray) -> None:
            # Mapped anew for each part, so that what is written does not count as this process's memory.
            whole_kzyx = np.memmap(raw, "<f4", "r+", shape=shape_kzyx)
            whole_kzyx[(slice(None), *place_zyx)] = values_kzyx

        yield keep
        with (
            raw.open("rb") as written,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
            archive.open(MEMBER, "w", force_zip64=True) as member,
        ):
            header = {"descr": "<f4", "fortran_order": False, "shape": shape_kzyx}
            np.lib.format.write_array_header_1_0(member, header)
            while chunk := written.read(COPIED_BYTES):
                member.write(chunk)
        partial.replace(path)
    finally:
        for left_over in (raw, partial):
            left_over.unlink(missing_ok=True)


def write_properties(path: Path, properties: CaseProperties, reader: str) -> None:
    """Write what the reference keeps of a case, so that its tools can place what they make of the probabilities.

    Args:
        path: CASE.pkl.
        properties: What preprocessing left of the image.
        reader: Of the model's plan; each keeps an image's place in its own words.

    Source:
        Engine specification A 4.8, B 6.8 (5).
    """
    values: dict[str, Any] = {
        **_place(properties.geometry, reader),
        "spacing": list(properties.spacing),
        "shape_before_cropping": properties.shape_before_cropping,
        "bbox_used_for_cropping": [list(interval) for interval in properties.bbox_used_for_cropping],
        "shape_after_cropping_and_before_resampling": properties.shape_after_cropping_and_before_resampling,
    }
    path.write_bytes(pickle.dumps(values))


def _place(geometry: Geometry, reader: str) -> dict[str, Any]:
    """Say where an image lies, as the reference's reader of that name does; pictures have a spacing only."""
    stored = geometry if geometry.turn is None else geometry.turn.stored
    if reader.startswith("SimpleITK"):
        placed: dict[str, Any] = {
            "spacing": geometry.file_spacing_xyz,
            "origin": geometry.origin_xyz,
            "direction": geometry.direction,
        }
        if reader.endswith("WithReorient"):
            placed["original_orientation"] = orientation(stored)
        return {"sitk_stuff": placed}
    if reader.startswith("Nibabel"):
        affines = {"original_affine": affine_of(stored)}
        if reader.endswith("WithReorient"):
            affines["reoriented_affine"] = affine_of(geometry)
        return {"nibabel_stuff": affines}
    return {}


def write_map(values_zyx: FloatArray, geometry: Geometry, path: Path) -> None:
    """Write values of an image's voxels as NIfTI, 32-bit floats, where the image lies.

    Args:
        values_zyx: On the grid of the image.
        geometry: Of the image; one that was turned after reading is turned back.
        path: Ends in .nii.gz; appears when it is complete.
    """
    stored = as_stored(LabelMap(values_zyx, geometry))  # type: ignore[arg-type]
    partial = path.with_name(f".writing-{token_hex(4)}-{path.name}")
    try:
        write_nifti(stored.labels_zyx, stored.geometry, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
