"""What stored voxels become, finite intensities or whole labels, and the type in which labels are stored."""

from pathlib import Path
from typing import Final

import numpy as np

from core.errors import ImageError
from core.io.image import FloatArray, ImageFile, LabelArray, StoredArray

LARGEST_UINT8_LABEL: Final = 254
"""Higher labels are written with 16 bits; Engine specification A 4.1."""


def intensities_of(file: ImageFile, path: Path) -> FloatArray:
    """Decode voxels to finite 32-bit floats.

    Raises:
        ImageError: They index colors, or some are not finite; the sentence names the file.
    """
    if file.header.is_indexed:
        raise ImageError(
            f"{path.name} has a color table instead of intensities; save it as greyscale or RGB",
            file=path.name,
        )
    stored_czyx = file.load()
    with np.errstate(over="ignore"):  # becomes infinite, which the next line refuses
        voxels_czyx = np.ascontiguousarray(stored_czyx, np.float32)
    if stored_czyx.dtype.kind == "f" and not np.isfinite(voxels_czyx).all():
        count = int(np.count_nonzero(~np.isfinite(voxels_czyx)))
        raise ImageError(
            f"{path.name} has {count} voxels that are NaN or infinite; replace them, for example by 0",
            file=path.name,
        )
    return voxels_czyx


def labels_of(stored_zyx: StoredArray, path: Path) -> LabelArray:
    """Turn stored voxels into integers, without changing any.

    Returns:
        Labels as int16, or int32 where a value needs it.

    Raises:
        ImageError: Values are no integers, or larger than labels can be; the sentence names the file.
    """
    if (
        stored_zyx.dtype.kind == "f"
        and not (np.isfinite(stored_zyx) & (stored_zyx == np.rint(stored_zyx))).all()
    ):
        raise ImageError(
            f"{path.name} has labels that are no integers; save labels as integers, without interpolation or "
            "smoothed edges",
            file=path.name,
        )
    if stored_zyx.dtype.kind in "ui" and np.can_cast(stored_zyx.dtype, np.int16):
        return stored_zyx.astype(np.int16, order="C")
    low, high = stored_zyx.min(), stored_zyx.max()
    for wide in (np.int16, np.int32):
        if np.iinfo(wide).min <= low and high <= np.iinfo(wide).max:
            return stored_zyx.astype(wide, order="C")
    raise ImageError(f"{path.name} has labels from {low:g} to {high:g}; number them from 0", file=path.name)


def narrowest_type(labels_zyx: LabelArray, path: Path) -> type[np.unsignedinteger]:
    """Return the unsigned type that holds all labels.

    Raises:
        ImageError: A label is negative; the sentence names the file to write.
    """
    low, high = int(labels_zyx.min()), int(labels_zyx.max())
    if low < 0:
        raise ImageError(f"label {low} cannot be written to {path.name}: labels count from 0", file=path.name)
    if high <= LARGEST_UINT8_LABEL:
        return np.uint8
    return np.uint16 if high <= np.iinfo(np.uint16).max else np.uint32
