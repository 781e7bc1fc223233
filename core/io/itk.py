"""What ITK says of a file, asked without decoding a voxel, and files that ITK writes."""

import math
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from core.errors import ImageError
from core.io.image import PLANE_AXES, Geometry, Header, LabelArray, array_spacing

IMAGE_IOS: Final = {
    ".nii.gz": "NiftiImageIO", ".nii": "NiftiImageIO", ".nrrd": "NrrdImageIO", ".mha": "MetaImageIO",
    ".gipl": "GiplImageIO",
}  # fmt: skip
"""Which of ITK's formats a file ending means; asking for it spares trying all."""

PIXEL_TYPES: Final = {
    "UInt8": "u1", "Int8": "i1", "UInt16": "u2", "Int16": "i2", "UInt32": "u4", "Int32": "i4", "UInt64": "u8",
    "Int64": "i8", "Float32": "f4", "Float64": "f8",
}  # fmt: skip
"""Pixels of one or several numbers as numpy names; complex ones are left out."""

VOLUME_AXES: Final = 3

SHEARED: Final = "orthonormal"
"""The word by which ITK's error is known."""


class ShearedError(ImageError):
    """ITK refuses the file because its axes do not meet at right angles."""


@cache
def _sitk() -> Any:
    """Return SimpleITK, whose types are incomplete, and which takes 70 ms to load: plain NIfTI files do without."""
    import SimpleITK

    sitk: Any = SimpleITK
    sitk.ProcessObject.GlobalWarningDisplayOff()  # They would go to the console; what matters is raised.
    return sitk


@cache
def _stored_types() -> dict[int, str]:
    """Return ITK's types of pixels, single numbers or vectors, as numpy names."""
    sitk, kinds = _sitk(), ("sitk", "sitkVector")
    return {getattr(sitk, f"{kind}{name}"): stored for kind in kinds for name, stored in PIXEL_TYPES.items()}


def ask_itk(path: Path, name: str) -> Any:
    """Return ITK's reader with the header read.

    Args:
        path: Its ending must be in IMAGE_IOS.
        name: What to call the file in an error sentence.

    Raises:
        ShearedError: The axes do not meet at right angles.
        ImageError: The header cannot be read.
    """
    reader = _sitk().ImageFileReader()
    reader.SetImageIO(next(io for ending, io in IMAGE_IOS.items() if path.name.lower().endswith(ending)))
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if SHEARED in str(error):
            raise ShearedError(f"{name} has sheared axes", file=name) from error
        raise ImageError(
            f"{name} cannot be read; it is damaged or not what its ending says: copy or export it again",
            file=name,
        ) from error
    return reader


def itk_geometry(reader: Any) -> Geometry:
    """Return the place in space; of a series of volumes, that of one volume.

    A negative edge, which some headers have, is an axis that runs the other way, as for ITK when it reads
    the voxels.
    """
    dimensions = reader.GetDimension()
    axes = min(dimensions, VOLUME_AXES)
    edges_xyz = np.array(reader.GetSpacing()[:axes])
    spacing_xyz = tuple(np.abs(edges_xyz).tolist())
    direction = np.array(reader.GetDirection()).reshape(dimensions, dimensions)[:axes, :axes]
    direction = direction * np.where(edges_xyz < 0, -1.0, 1.0)
    return Geometry(
        spacing=array_spacing(spacing_xyz),
        file_spacing_xyz=spacing_xyz,
        origin_xyz=tuple(float(entry) for entry in reader.GetOrigin()[:axes]),
        direction=tuple(float(entry) for entry in direction.ravel()),
    )


def itk_header(reader: Any, name: str) -> Header:
    """Return size, type and geometry; a fourth axis is channels, and so are the components of vectors.

    Raises:
        ImageError: Voxels are neither numbers nor vectors, or there are more than four axes.

    Source:
        Engine specification A 4.3, which reads vectors as if they were volumes; here they are channels.
    """
    dimensions, components = reader.GetDimension(), reader.GetNumberOfComponents()
    stored = _stored_types().get(reader.GetPixelID())
    if stored is None or (components > 1 and dimensions > VOLUME_AXES):
        kind = _sitk().GetPixelIDValueAsString(reader.GetPixelID())
        raise ImageError(
            f"{name} holds {kind} voxels along {dimensions} axes; save each channel (of complex voxels the "
            "magnitude) as a volume of its own, with one number per voxel",
            file=name,
        )
    if not PLANE_AXES <= dimensions <= VOLUME_AXES + 1:
        raise ImageError(f"{name} has {dimensions} dimensions; give a 2D or 3D image", file=name)
    x, y, *further = (int(count) for count in reader.GetSize())
    z, *series = further or [1]
    return Header(
        shape=(z, y, x),
        channels=math.prod(series) * components,
        stored_type=np.dtype(stored),
        geometry=itk_geometry(reader),
    )


def write_by_itk(labels_zyx: LabelArray, geometry: Geometry, path: Path) -> None:
    """Write a label map, compressed where the format can, in exactly the geometry given.

    Raises:
        ImageError: The format cannot hold it.
    """
    sitk = _sitk()
    image = sitk.GetImageFromArray(labels_zyx[0] if geometry.is_2d else labels_zyx)
    try:
        image.SetSpacing(geometry.file_spacing_xyz)
        image.SetOrigin(geometry.origin_xyz)
        image.SetDirection(geometry.direction)
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        highest = int(labels_zyx.max(initial=0))
        raise ImageError(
            f"{path.name} cannot be written: its format does not hold labels up to {highest} in this geometry; "
            "choose .nii.gz",
            file=path.name,
        ) from error
