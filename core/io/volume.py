"""Volumes (NIfTI, NRRD, MetaImage, GIPL), placed in space by ITK's rules or by nibabel's, turned or as they are."""

from pathlib import Path
from typing import Final

import numpy as np

from core.errors import ImageError
from core.io.containers import locate_metaimage, locate_nrrd, read_gipl_header
from core.io.image import Geometry, Header, ImageFile, LabelArray, require_believable
from core.io.itk import ask_itk, itk_header, write_by_itk
from core.io.nifti import affine_of, as_itk_reads, as_nibabel_reads, read_nifti, write_nifti
from core.io.orientation import turned_by_itk, turned_by_nibabel
from core.io.payload import Payload, load_voxels

NIFTI_ENDINGS: Final = (".nii", ".nii.gz")
VOLUME_ENDINGS: Final = (*NIFTI_ENDINGS, ".nrrd", ".mha", ".gipl")


def open_volume(path: Path) -> ImageFile:
    """Read a header; the place in space is what ITK makes of it.

    Raises:
        ImageError: The header cannot be read, or places voxels where ITK refuses to see them.

    Source:
        Engine specification A 4.3.
    """
    name = path.name.lower()
    if name.endswith(NIFTI_ENDINGS):
        return _file(path, *as_itk_reads(read_nifti(path)))
    if name.endswith(".gipl"):
        return _file(path, *read_gipl_header(path))
    if name.endswith((".nrrd", ".mha")):
        payload = locate_nrrd(path) if name.endswith(".nrrd") else locate_metaimage(path)
        return _file(path, itk_header(ask_itk(path, path.name), path.name), payload)
    raise ImageError(f"{path.name} is no volume; give one of: {', '.join(VOLUME_ENDINGS)}", file=path.name)


def open_volume_turned(path: Path) -> ImageFile:
    """Read a header, and turn the image to right, front and up by ITK's rule."""
    return turned_by_itk(open_volume(path), path)


def open_nifti(path: Path) -> ImageFile:
    """Read a header; the place in space is what nibabel makes of it, also where ITK refuses.

    Other formats than NIfTI are read by ITK's rules, so that a model that was trained on NIfTI can be used on
    them.

    Source:
        Engine specification A 4.5, which reads 3D images only; here 2D images and series are read as
        SimpleITKIO reads them.
    """
    if not path.name.lower().endswith(NIFTI_ENDINGS):
        return open_volume(path)
    header, payload, _ = as_nibabel_reads(read_nifti(path))
    return _file(path, header, payload)


def open_nifti_turned(path: Path) -> ImageFile:
    """Read a header, and turn the image to right, front and up by nibabel's rule."""
    if not path.name.lower().endswith(NIFTI_ENDINGS):
        file = open_volume(path)
        return turned_by_nibabel(file, path, affine_of(file.header.geometry))
    nifti = read_nifti(path)
    header, payload, affine = as_nibabel_reads(nifti)
    precision = np.float64 if nifti.is_version_2 else np.float32
    return turned_by_nibabel(_file(path, header, payload), path, affine, precision)


def save_volume(labels_zyx: LabelArray, geometry: Geometry, path: Path) -> tuple[Path, ...]:
    """Write a label map, compressed where the format can, exactly where the geometry says.

    Returns:
        The file.

    Raises:
        ImageError: The format cannot hold it.
    """
    name = path.name.lower()
    if name.endswith(NIFTI_ENDINGS):
        write_nifti(labels_zyx, geometry, path)
        return (path,)
    straight = np.eye(len(geometry.origin_xyz)).ravel().tolist()
    if name.endswith(".gipl") and list(geometry.direction) != straight:
        raise ImageError(
            f"{path.name} cannot be written: GIPL knows no direction of axes; choose .nii.gz", file=path.name
        )
    write_by_itk(labels_zyx, geometry, path)
    return (path,)


def _file(path: Path, header: Header, payload: Payload) -> ImageFile:
    require_believable(header, path.name)
    return ImageFile(header, lambda: load_voxels(path, header, payload))
