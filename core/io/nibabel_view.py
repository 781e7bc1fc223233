"""NIfTI headers as nibabel understands them, and new ones; the library is loaded when it is first asked."""

import logging
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from core.io.nifti_entries import NIFTI_2, Entries, is_big_endian

Matrix = npt.NDArray[np.float64]
"""From voxels (x, y, z) to millimetres (right, front, up), 4 x 4."""

_SILENT: Final = logging.getLogger(__name__)
_SILENT.disabled = True  # nibabel would tell the console what it mended; what matters is raised.


@cache
def _nibabel() -> Any:
    """Return nibabel, which takes 40 ms to load: datasets that are read by ITK's rules do without."""
    import nibabel

    return nibabel


def new_header(*, is_version_2: bool) -> Any:
    """Return nibabel's header of an image that is still to be described."""
    return _nibabel().Nifti2Header() if is_version_2 else _nibabel().Nifti1Header()


def mended_header(entries: Entries) -> tuple[Any, Matrix]:
    """Return nibabel's header, in which it has corrected what it can, and the transform that it prefers.

    Raises:
        ValueError: The header contradicts itself.
    """
    header = _header(entries)
    try:
        header.check_fix(logger=_SILENT, error_level=40)
        return header, header.get_best_affine()
    except _nibabel().spatialimages.HeaderDataError as error:
        raise ValueError(str(error)) from error


def both_transforms(entries: Entries) -> tuple[Matrix, Matrix]:
    """Return the transforms of qform and sform.

    Raises:
        ValueError: The qform is no rotation.
    """
    header = _header(entries)
    try:
        return header.get_qform(), header.get_sform()
    except _nibabel().spatialimages.HeaderDataError as error:
        raise ValueError(str(error)) from error


def closest_axes(affine: Matrix) -> npt.NDArray[np.float64]:
    """Return per axis of a file (x, y, z) which of right, front and up it runs along, and 1, or -1 if it runs back.

    NaN stands for an axis that runs nowhere, or where another runs.
    """
    axes: npt.NDArray[np.float64] = _nibabel().orientations.io_orientation(affine)
    return axes


def _header(entries: Entries) -> Any:
    """Give entries to nibabel as they are."""
    kind = _nibabel().Nifti2Header if entries.itemsize == NIFTI_2.itemsize else _nibabel().Nifti1Header
    return kind(entries.tobytes(), endianness=">" if is_big_endian(entries) else "<", check=False)
