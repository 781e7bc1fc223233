"""Where NRRD, MetaImage and GIPL files keep their voxels, by their own headers."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from core.errors import ImageError
from core.io.compression import GZIP_WINDOW, ZLIB_WINDOW
from core.io.image import Geometry, Header, array_spacing
from core.io.payload import Payload

HEADER_BYTES: Final = 1 << 20
"""Longest header that is searched for its end; those of real files have a few hundred bytes."""

NRRD_AXES_OF_SPACE: Final = frozenset({"domain", "space", "time", "none", "unknown", "???"})
"""Kinds of axes along which voxels lie; all others are channels of one voxel."""

GIPL_BYTES: Final = 256
"""Length of a GIPL header, all big-endian; voxels follow."""

GIPL_MAGIC_AT: Final = 252
GIPL_MAGICS: Final = (0xEFFFE9B0, 0x2AE389B8)

GIPL_TYPES: Final = {
    1: "u1", 7: "i1", 8: "u1", 15: "i2", 16: "u2", 31: "u4", 32: "i4", 64: "f4", 65: "f8"
}  # fmt: skip
"""Scalar voxel types by GIPL code; 1 is a binary image of whole bytes."""

IDENTITY: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def locate_nrrd(path: Path) -> Payload:
    """Read what matters of a NRRD header.

    Raises:
        ImageError: It is no NRRD file, or keeps its voxels in a way that is not supported.

    Source:
        teem.sourceforge.net/nrrd/format.html
    """
    text, offset = _text_header(path, b"NRRD", lambda lines: lines[-1] == "")
    fields = _fields(text[1:], ":")
    if "data file" in fields or "datafile" in fields:
        raise ImageError(f"{path.name} keeps its voxels in another file; save it as one file", file=path.name)
    if any(fields.get(key, "0") != "0" for key in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise ImageError(f"{path.name} skips bytes before its voxels; save it again", file=path.name)
    encoding = fields.get("encoding", "")
    if encoding not in {"raw", "gzip", "gz"}:
        raise ImageError(
            f"{path.name} has encoding {encoding!r}; save it with encoding raw or gzip", file=path.name
        )
    kinds = fields.get("kinds", "").split()
    channel_axes = [axis for axis, kind in enumerate(kinds) if kind.strip('"') not in NRRD_AXES_OF_SPACE]
    if channel_axes not in ([], [0], [len(kinds) - 1]):
        raise ImageError(
            f"{path.name} has axes of the kinds {', '.join(kinds)}; save each channel as a volume of its own",
            file=path.name,
        )
    return Payload(
        offset=offset,
        big_endian=fields.get("endian") == "big",
        window_bits=None if encoding == "raw" else GZIP_WINDOW,
        channels_last=channel_axes == [0],
    )


def locate_metaimage(path: Path) -> Payload:
    """Read what matters of a MetaImage header.

    Raises:
        ImageError: It is no MetaImage file, or keeps its voxels in a way that is not supported.

    Source:
        itk.org/Wiki/ITK/MetaIO/Documentation
    """
    text, offset = _text_header(path, b"", lambda lines: lines[-1].startswith("elementdatafile"))
    fields = _fields(text, "=")
    if fields.get("elementdatafile") != "local":
        raise ImageError(f"{path.name} keeps its voxels in another file; save it as one .mha", file=path.name)
    if fields.get("binarydata", "true") != "true" or fields.get("headersize", "0") not in {"0", "-1"}:
        raise ImageError(f"{path.name} does not hold plain binary voxels; save it again", file=path.name)
    is_compressed = fields.get("compresseddata") == "true"
    size = fields.get("compresseddatasize", "")
    big_endian = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb"))
    return Payload(
        offset=offset,
        big_endian=big_endian == "true",
        window_bits=ZLIB_WINDOW if is_compressed else None,
        compressed_bytes=int(size) if is_compressed and size.isdecimal() else None,
        channels_last=fields.get("elementnumberofchannels", "1") != "1",
    )


def read_gipl_header(path: Path) -> tuple[Header, Payload]:
    """Read a GIPL header; the format knows spacing and origin, but no direction.

    Raises:
        ImageError: It is no GIPL file, or holds something else than one number per voxel.

    Source:
        Guy's Image Processing Lab format, as ITK and its users write it: sizes at byte 0 (4 x 16 bits), type
        at 8, spacing at 10 (4 x 32 bits), origin at 204 (4 x 64 bits), magic number at 252.
    """
    with path.open("rb") as file:
        head = file.read(GIPL_BYTES)
    if len(head) < GIPL_BYTES or struct.unpack_from(">I", head, GIPL_MAGIC_AT)[0] not in GIPL_MAGICS:
        raise ImageError(f"{path.name} is no GIPL image, whatever its name says; export it again")
    x, y, z, volumes, code = struct.unpack_from(">5H", head)
    spacing_xyz = tuple(float(edge) for edge in struct.unpack_from(">3f", head, 10))
    stored = GIPL_TYPES.get(code)
    if stored is None:
        raise ImageError(
            f"{path.name} holds voxels of GIPL's type {code}; save it with one number per voxel, for example as "
            ".nii.gz",
            file=path.name,
        )
    geometry = Geometry(
        spacing=array_spacing(spacing_xyz),
        file_spacing_xyz=spacing_xyz,
        origin_xyz=struct.unpack_from(">3d", head, 204),
        direction=IDENTITY,
    )
    header = Header(
        shape=(max(z, 1), y, x), channels=max(volumes, 1), stored_type=np.dtype(stored), geometry=geometry
    )
    return header, Payload(offset=GIPL_BYTES, big_endian=True)


def _text_header(path: Path, magic: bytes, ends: Callable[[list[str]], bool]) -> tuple[list[str], int]:
    """Read lines until the header ends; return them in lower case, and where the voxels begin."""
    lines: list[str] = []
    with path.open("rb") as file:
        if file.read(len(magic)) != magic:
            raise ImageError(f"{path.name} is not what its ending says; export it again", file=path.name)
        while file.tell() < HEADER_BYTES and (line := file.readline(HEADER_BYTES)):
            lines.append(line.decode("latin-1").strip().lower())
            if ends(lines):
                return lines, file.tell()
    raise ImageError(
        f"{path.name} is damaged or not what its ending says: its header has no end; export it again",
        file=path.name,
    )


def _fields(lines: list[str], separator: str) -> dict[str, str]:
    """Split header lines into names and values; comments and lines of another kind are left out."""
    pairs = (line.partition(separator) for line in lines if not line.startswith("#"))
    return {name.strip(): value.strip() for name, found, value in pairs if found}
