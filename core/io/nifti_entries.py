"""The entries of NIfTI headers, by the names and in the places that the standard gives them."""

from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Entries = npt.NDArray[np.void]
"""A header: an array without axes, to be read like a mapping by the names of the standard."""

NIFTI_1: Final = np.dtype(
    [
        ("sizeof_hdr", "i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "i4"),
        ("session_error", "i2"), ("regular", "S1"), ("dim_info", "u1"), ("dim", "i2", 8), ("intent_p1", "f4"),
        ("intent_p2", "f4"), ("intent_p3", "f4"), ("intent_code", "i2"), ("datatype", "i2"), ("bitpix", "i2"),
        ("slice_start", "i2"), ("pixdim", "f4", 8), ("vox_offset", "f4"), ("scl_slope", "f4"),
        ("scl_inter", "f4"), ("slice_end", "i2"), ("slice_code", "u1"), ("xyzt_units", "u1"),
        ("cal_max", "f4"), ("cal_min", "f4"), ("slice_duration", "f4"), ("toffset", "f4"), ("glmax", "i4"),
        ("glmin", "i4"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i2"), ("sform_code", "i2"),
        ("quatern_b", "f4"), ("quatern_c", "f4"), ("quatern_d", "f4"), ("qoffset_x", "f4"),
        ("qoffset_y", "f4"), ("qoffset_z", "f4"), ("srow_x", "f4", 4), ("srow_y", "f4", 4),
        ("srow_z", "f4", 4), ("intent_name", "S16"), ("magic", "S4"),
    ]
)  # fmt: skip
"""nifti1.h of nifti.nimh.nih.gov."""

NIFTI_2: Final = np.dtype(
    [
        ("sizeof_hdr", "i4"), ("magic", "S8"), ("datatype", "i2"), ("bitpix", "i2"), ("dim", "i8", 8),
        ("intent_p1", "f8"), ("intent_p2", "f8"), ("intent_p3", "f8"), ("pixdim", "f8", 8),
        ("vox_offset", "i8"), ("scl_slope", "f8"), ("scl_inter", "f8"), ("cal_max", "f8"), ("cal_min", "f8"),
        ("slice_duration", "f8"), ("toffset", "f8"), ("slice_start", "i8"), ("slice_end", "i8"),
        ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i4"), ("sform_code", "i4"),
        ("quatern_b", "f8"), ("quatern_c", "f8"), ("quatern_d", "f8"), ("qoffset_x", "f8"),
        ("qoffset_y", "f8"), ("qoffset_z", "f8"), ("srow_x", "f8", 4), ("srow_y", "f8", 4),
        ("srow_z", "f8", 4), ("slice_code", "i4"), ("xyzt_units", "i4"), ("intent_code", "i4"),
        ("intent_name", "S16"), ("dim_info", "u1"), ("unused_str", "S15"),
    ]
)  # fmt: skip
"""nifti2.h of nifti.nimh.nih.gov."""

ORDERS: Final[tuple[Literal["little"], Literal["big"]]] = ("little", "big")

LAYOUTS: Final = {
    layout.itemsize.to_bytes(4, order): layout.newbyteorder(order)
    for layout in (NIFTI_1, NIFTI_2)
    for order in ORDERS
}
"""By the first four bytes of a header, its own length in its own byte order."""

UINT8: Final = (2, 8)
"""Datatype and bitpix of unsigned bytes."""


def parse_entries(block: bytes) -> Entries | None:
    """Return the entries of a header, which cannot be written to; None where it is no header.

    Args:
        block: The header, whole, and whatever follows it.
    """
    layout = LAYOUTS.get(block[:4])
    return None if layout is None else np.ndarray((), layout, block)


def is_big_endian(entries: Entries) -> bool:
    """Return whether the numbers of a header, and of the voxels that follow it, begin with the highest byte."""
    return entries.tobytes()[:4] == entries.itemsize.to_bytes(4, "big")
