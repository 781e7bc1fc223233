"""NIfTI: headers as ITK and as nibabel understand them, and label maps written."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from core.errors import ImageError
from core.io.compression import (
    GZIP_MAGIC,
    GZIP_WINDOW,
    CompressionError,
    first_bytes,
    gzipped,
)
from core.io.image import Geometry, Header, LabelArray, array_spacing
from core.io.nibabel_view import Matrix, mended_header, new_header
from core.io.nifti_entries import NIFTI_1, NIFTI_2, Entries, is_big_endian, parse_entries
from core.io.payload import Payload
from core.io.transforms import LPS_SIGNS, SCANNER, placed_by_itk

SCALAR_TYPES: Final = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"
}  # fmt: skip
"""By NIfTI code; complex numbers and 128-bit floats are left out."""

COLOR_CHANNELS: Final = {128: 3, 2304: 4}
"""RGB and RGBA by NIfTI code: 8 bits per channel, side by side."""

SINGLE_FILE: Final = {NIFTI_1.itemsize: b"n+1", NIFTI_2.itemsize: b"n+2"}
"""How a header says that its voxels follow in the same file, by its length."""

LONGEST_HEADER: Final = NIFTI_2.itemsize

FIRST_BYTES: Final = 1 << 13
"""Of a file, enough for its header even if a long name or comment precedes it in the gzip stream."""

EXTENSION_BYTES: Final = 1 << 20
"""Most that may lie between header and voxels; those of real files have a few hundred bytes."""

PLANE, VOLUME, SERIES, VECTORS = 2, 3, 4, 5
"""Axes of files: along a fourth or fifth lie channels."""

ORTHONORMAL: Final = 1e-4
"""As ITK's limit: a header is written with a qform if its axes meet at right angles."""

LARGEST_NIFTI1_SIZE: Final = 2**15 - 1

LPS_OF_RAS: Final = np.array(LPS_SIGNS)
"""nibabel's x and y grow to right and front, ITK's to left and back."""


@dataclass(frozen=True, slots=True)
class Nifti:
    """A NIfTI header, checked as far as ITK and nibabel agree on it."""

    path: Path
    entries: Entries
    is_version_2: bool
    is_compressed: bool
    sizes_xyz: tuple[int, ...]
    """Two of a plane, else three."""
    channels: int
    channels_last: bool
    stored_type: np.dtype[np.number]


def read_nifti(path: Path) -> Nifti:
    """Read a NIfTI-1 or NIfTI-2 header.

    Raises:
        ImageError: It is none, or what it says cannot be.
    """
    block, is_compressed = _head(path)
    entries = parse_entries(block)
    if entries is None:
        raise ImageError(
            f"{path.name} is no NIfTI image, whatever its name says; export it again", file=path.name
        )
    if not entries["magic"].tobytes().startswith(SINGLE_FILE[entries.itemsize]):
        raise ImageError(
            f"{path.name} is a header without voxels, as in pairs of .hdr and .img; save it as one file",
            file=path.name,
        )
    sizes = _sizes(entries, path)
    is_plane = len(sizes) == PLANE or (len(sizes) == VECTORS and sizes[PLANE] == 1)  # as ITK sees it
    axes = PLANE if is_plane else VOLUME
    spacing = entries["pixdim"][1 : axes + 1]
    if not (np.isfinite(spacing).all() and spacing.all()):
        raise ImageError(
            f"{path.name} has spacing {tuple(map(float, spacing))} mm (x, y, z); each must be a positive number: "
            "set pixdim",
            file=path.name,
        )
    code = int(entries["datatype"])
    colors = COLOR_CHANNELS.get(code, 1)
    series = math.prod(sizes[VOLUME:])
    stored = "u1" if colors > 1 else SCALAR_TYPES.get(code)
    if stored is None or (colors > 1 and series > 1):
        raise ImageError(
            f"{path.name} holds complex or other voxels that are not one number each; save each channel (of "
            "complex voxels the magnitude) as a volume of its own",
            file=path.name,
        )
    return Nifti(
        path=path,
        entries=entries,
        is_version_2=entries.itemsize == NIFTI_2.itemsize,
        is_compressed=is_compressed,
        sizes_xyz=sizes[:axes],
        channels=max(colors, series),
        channels_last=colors > 1,
        stored_type=np.dtype(stored),
    )


def as_itk_reads(nifti: Nifti) -> tuple[Header, Payload]:
    """Return what ITK makes of a header.

    Raises:
        ShearedError: The axes do not meet at right angles, which ITK refuses.
        ImageError: It is NIfTI-2, which ITK does not read, or scaling is not finite.
    """
    if nifti.is_version_2:
        name = nifti.path.name
        raise ImageError(
            f'{name} is NIfTI-2, which only the reader NibabelIO knows: set "overwrite_image_reader_writer": '
            '"NibabelIO" in dataset.json, or save it as NIfTI-1',
            file=name,
        )
    slope, intercept = float(nifti.entries["scl_slope"]), float(nifti.entries["scl_inter"])
    usable = slope if math.isfinite(slope) and slope != 0 else 1.0
    return _header(nifti, placed_by_itk(nifti.entries, len(nifti.sizes_xyz), nifti.path.name)), _payload(
        nifti, (usable, intercept)
    )


def as_nibabel_reads(nifti: Nifti) -> tuple[Header, Payload, Matrix]:
    """Return what nibabel makes of a header, sheared axes included, and its affine.

    Raises:
        ImageError: The header places voxels nowhere, or scaling is not finite.
    """
    try:
        entries, affine = mended_header(nifti.entries)
    except ValueError as error:
        raise ImageError(
            f"{nifti.path.name} has a header that contradicts itself: {error}; export it again",
            file=nifti.path.name,
        ) from error
    if not np.isfinite(affine).all():
        raise ImageError(
            f"{nifti.path.name} has a transform to space that is not finite; correct its sform or qform",
            file=nifti.path.name,
        )
    axes = len(nifti.sizes_xyz)
    zooms = tuple(float(edge) for edge in entries["pixdim"][1 : axes + 1])
    slope, intercept = float(entries["scl_slope"]), float(entries["scl_inter"])
    is_scaled = math.isfinite(slope) and slope != 0
    scale = (slope, intercept) if is_scaled else (1.0, 0.0)
    return _header(nifti, geometry_of_affine(affine, zooms)), _payload(nifti, scale), affine


def geometry_of_affine(affine: Matrix, spacing_xyz: tuple[float, ...]) -> Geometry:
    """Turn nibabel's place in space into ours, without losing a bit of it.

    Args:
        affine: 4 x 4, from voxels (x, y, z) to millimetres (right, front, up).
        spacing_xyz: What the header says of the voxels' edges; the lengths of the affine's columns may differ.
    """
    axes = len(spacing_xyz)
    direction = LPS_OF_RAS[:axes, None] * affine[:axes, :axes] / np.array(spacing_xyz)
    return Geometry(
        spacing=array_spacing(spacing_xyz),
        file_spacing_xyz=spacing_xyz,
        origin_xyz=tuple((LPS_OF_RAS[:axes] * affine[:axes, 3]).tolist()),
        direction=tuple(direction.ravel().tolist()),
    )


def affine_of(geometry: Geometry) -> Matrix:
    """Return nibabel's affine, 4 x 4; of a plane, the third axis is a straight one."""
    axes = len(geometry.file_spacing_xyz)
    steps = np.array(geometry.direction).reshape(axes, axes) * np.array(geometry.file_spacing_xyz)
    affine = np.eye(4)
    affine[:axes, :axes] = LPS_OF_RAS[:axes, None] * steps
    affine[:axes, 3] = LPS_OF_RAS[:axes] * np.array(geometry.origin_xyz)
    return affine


def write_nifti(labels_zyx: LabelArray, geometry: Geometry, path: Path) -> None:
    """Write a label map, compressed if its name ends in .gz, exactly where the geometry says.

    The transform stands in the sform, and in the qform too if its axes meet at right angles, as a qform's do.
    The axes of a plane that was cut obliquely from a volume do not, in two dimensions; there both become the
    nearest ones that do, as when ITK writes such a plane.
    """
    sizes_xyz = labels_zyx.shape[:0:-1] if geometry.is_2d else labels_zyx.shape[::-1]
    entries = new_header(is_version_2=max(sizes_xyz) > LARGEST_NIFTI1_SIZE)
    entries.set_data_dtype(labels_zyx.dtype)
    entries.set_data_shape(sizes_xyz)
    entries.set_xyzt_units("mm")
    affine = affine_of(geometry)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    unit = affine[:3, :3] / np.where(lengths > 0, lengths, 1)
    is_rectangular = np.abs(unit.T @ unit - np.eye(3)).max() < ORTHONORMAL
    if is_rectangular or (geometry.is_2d and lengths.all()):
        entries.set_qform(affine, SCANNER)
    entries.set_sform(affine if is_rectangular or not entries["qform_code"] else entries.get_qform(), SCANNER)
    entries["pixdim"][1 : len(sizes_xyz) + 1] = geometry.file_spacing_xyz
    entries["scl_slope"], entries["scl_inter"] = 1, 0
    entries["magic"] = SINGLE_FILE[len(entries.binaryblock)]
    entries["vox_offset"] = len(entries.binaryblock) + 4  # four zeros say that there are no extensions
    voxels = np.ascontiguousarray(labels_zyx, labels_zyx.dtype.newbyteorder("<"))
    parts = (entries.binaryblock + bytes(4), voxels.data.cast("B"))
    path.write_bytes(gzipped(*parts) if path.name.lower().endswith(".gz") else b"".join(parts))


def _head(path: Path) -> tuple[bytes, bool]:
    """Return the first bytes, decompressed, and whether they were compressed."""
    with path.open("rb") as file:
        head = file.read(FIRST_BYTES)
        is_compressed = head.startswith(GZIP_MAGIC)
        if is_compressed and not path.name.lower().endswith(".gz"):
            raise ImageError(f"{path.name} is compressed; rename it to {path.name}.gz", file=path.name)
        if is_compressed:
            try:
                head = first_bytes(head, LONGEST_HEADER)
            except CompressionError as error:
                raise ImageError(
                    f"{path.name} is damaged: it cannot be decompressed", file=path.name
                ) from error
    return head[:LONGEST_HEADER].ljust(LONGEST_HEADER, b"\0"), is_compressed


def _sizes(entries: Entries, path: Path) -> tuple[int, ...]:
    """Return how long the axes are, without trailing ones beyond the third.

    Along a fourth axis lie volumes; where it has length 1, along a fifth the components of vectors.
    """
    count, *dims = entries["dim"].tolist()
    sizes = dims[: min(max(count, 0), len(dims))]
    if len(sizes) < PLANE or min(sizes) < 1:
        raise ImageError(
            f"{path.name} has no voxels: its header says size {tuple(dims[:VOLUME])}; export it again",
            file=path.name,
        )
    while len(sizes) > VOLUME and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) > VECTORS or (len(sizes) == VECTORS and sizes[SERIES - 1] > 1):
        raise ImageError(
            f"{path.name} has {len(sizes)} dimensions; save each channel as a volume of its own",
            file=path.name,
        )
    return tuple(sizes)


def _header(nifti: Nifti, geometry: Geometry) -> Header:
    x, y, *z = nifti.sizes_xyz
    return Header(
        shape=(z[0] if z else 1, y, x),
        channels=nifti.channels,
        stored_type=nifti.stored_type,
        geometry=geometry,
    )


def _payload(nifti: Nifti, scale: tuple[float, float]) -> Payload:
    """Say where the voxels are: after the header and its extensions."""
    name = nifti.path.name
    if not all(map(math.isfinite, scale)):
        raise ImageError(
            f"{name} scales its voxels by {scale[0]} · x + {scale[1]}; set scl_slope to 1 and scl_inter to 0",
            file=name,
        )
    header_bytes = nifti.entries.itemsize
    offset = float(nifti.entries["vox_offset"])
    if not header_bytes <= offset <= header_bytes + EXTENSION_BYTES:
        raise ImageError(
            f"{name} is damaged: its header says that voxels begin at byte {offset:g}; export it again",
            file=name,
        )
    return Payload(
        offset=int(offset),
        big_endian=is_big_endian(nifti.entries),
        window_bits=GZIP_WINDOW if nifti.is_compressed else None,
        whole_file=nifti.is_compressed,
        channels_last=nifti.channels_last,
        scale=None if scale == (1, 0) or nifti.channels_last else scale,
    )
