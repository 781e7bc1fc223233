"""Volumes (NIfTI, NRRD, MetaImage) through ITK: geometry by ITK, voxels checked to the last byte."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import SimpleITK

from core.domain.geometry import Shape, Spacing
from core.errors import ImageError
from core.io.image import Geometry, Header, LabelArray, StoredArray
from core.io.payload import locate_payload, read_payload

sitk: Any = SimpleITK
"""Its types are incomplete."""

sitk.ProcessObject.GlobalWarningDisplayOff()  # They would go to the console; what matters is raised.

FLAT_SPACING_FACTOR: Final = 999.0
"""A 2D image counts as one slice this many times thicker than its pixels; Engine specification A 4.3."""

STORED_TYPES: Final = {
    sitk.sitkUInt8: "u1", sitk.sitkInt8: "i1", sitk.sitkUInt16: "u2", sitk.sitkInt16: "i2",
    sitk.sitkUInt32: "u4", sitk.sitkInt32: "i4", sitk.sitkUInt64: "u8", sitk.sitkInt64: "i8",
    sitk.sitkFloat32: "f4", sitk.sitkFloat64: "f8",
}  # fmt: skip
"""Scalar pixel types of ITK as numpy names."""

PLANE, VOLUME, VOLUME_SERIES = 2, 3, 4
"""Dimensions of files: of a fourth, each entry is a channel."""


def read_volume_header(path: Path) -> Header:
    """Read size, type and geometry.

    Raises:
        ImageError: The file cannot be read, or holds something else than scalar voxels.

    Source:
        Engine specification A 4.3.
    """
    payload = locate_payload(path)
    reader = _open(path)
    dimensions = reader.GetDimension()
    if reader.GetNumberOfComponents() != 1 or reader.GetPixelID() not in STORED_TYPES:
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise ImageError(
            f"{path.name} holds {kind} voxels; save each channel as a volume of its own, with one number per "
            "voxel",
            file=path.name,
        )
    if dimensions not in {PLANE, VOLUME, VOLUME_SERIES}:
        raise ImageError(f"{path.name} has {dimensions} dimensions; give a 2D or 3D image", file=path.name)
    size = tuple(int(count) for count in reader.GetSize())
    stored = np.dtype(STORED_TYPES[reader.GetPixelID()])
    return Header(
        shape=_shape(size),
        channels=size[VOLUME] if dimensions == VOLUME_SERIES else 1,
        stored_type=stored if payload.stored_type is None else payload.stored_type,
        geometry=_geometry(reader, dimensions),
    )


def load_volume(path: Path, header: Header) -> StoredArray:
    """Read the voxels, (c, z, y, x), in the stored type.

    Raises:
        ImageError: The file is damaged.
    """
    payload = locate_payload(path)
    values = read_payload(path, payload, header.values, header.stored_type)
    voxels_czyx = values.reshape(header.channels, *header.shape)
    if payload.scale is None:
        return voxels_czyx
    slope, intercept = payload.scale
    scaled: StoredArray = voxels_czyx * np.float64(slope) + np.float64(intercept)
    return scaled


def save_volume(labels_zyx: LabelArray, geometry: Geometry, path: Path) -> None:
    """Write a label map, compressed, in exactly the geometry given."""
    flat = geometry.is_2d
    image = sitk.GetImageFromArray(labels_zyx[0] if flat else labels_zyx)
    image.SetSpacing(geometry.file_spacing_xyz)
    image.SetOrigin(geometry.origin_xyz)
    image.SetDirection(geometry.direction)
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise ImageError(f"{path.name} cannot be written", file=path.name) from error


def _open(path: Path) -> Any:
    """Return ITK's reader with the header read; no voxel is decoded."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise ImageError(
                f"{path.name} has sheared axes: its direction matrix is not orthonormal; resample it to a "
                "rectangular grid, or copy the qform of its header to the sform",
                file=path.name,
            ) from error
        raise ImageError(
            f"{path.name} cannot be read; it is damaged or not what its ending says", file=path.name
        ) from error
    return reader


def _shape(size_xyz: tuple[int, ...]) -> Shape:
    """Return voxel counts (z, y, x) of a 2D, 3D or 4D size."""
    x, y = size_xyz[:PLANE]
    return (1 if len(size_xyz) == PLANE else size_xyz[PLANE], y, x)


def _geometry(reader: Any, dimensions: int) -> Geometry:
    """Return the place in space; of a series of volumes, that of one volume."""
    axes = min(dimensions, VOLUME)
    spacing_xyz = tuple(float(edge) for edge in reader.GetSpacing()[:axes])
    direction = np.array(reader.GetDirection()).reshape(dimensions, dimensions)[:axes, :axes]
    return Geometry(
        spacing=array_spacing(spacing_xyz),
        file_spacing_xyz=spacing_xyz,
        origin_xyz=tuple(float(entry) for entry in reader.GetOrigin()[:axes]),
        direction=tuple(float(entry) for entry in direction.ravel()),
    )


def array_spacing(spacing_xyz: tuple[float, ...]) -> Spacing:
    """Return the spacing (z, y, x) that the method uses."""
    x, y = (abs(edge) for edge in spacing_xyz[:PLANE])
    z = FLAT_SPACING_FACTOR * max(x, y) if len(spacing_xyz) == PLANE else abs(spacing_xyz[PLANE])
    return (z, y, x)
