"""Where a NIfTI, NRRD or MetaImage file keeps its voxels, and how to read all of them or none."""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from core.errors import ImageError
from core.io.image import StoredArray

GZIP_MAGIC: Final = b"\x1f\x8b"
GZIP_WINDOW: Final = zlib.MAX_WBITS | 16
"""zlib then expects gzip members and checks length and CRC-32 of each; RFC 1952."""

MOST_EXPANSION: Final = 1032
"""No deflate stream becomes longer by more than this factor; zlib.net/zlib_tech.html."""

CHUNK_BYTES: Final = 1 << 16
"""Read at once; decompressed, one chunk never becomes more than 65 MiB."""

HEADER_BYTES: Final = 1 << 20
"""Longest header that is searched for its end; those of real files have a few hundred bytes."""

NIFTI_TYPES: Final = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"
}  # fmt: skip
"""Scalar data types by NIfTI code; colors, complex numbers and 128-bit floats are left out."""


@dataclass(frozen=True, slots=True)
class Payload:
    """The bytes of an image file that are voxels."""

    offset: int
    """Bytes before them, counted after decompression where the whole file is compressed."""
    big_endian: bool = False
    window_bits: int | None = None
    """zlib's, None where nothing is compressed."""
    whole_file: bool = False
    """Whether the compression covers the header too."""
    compressed_bytes: int | None = None
    """Length of the compressed stream, where the header states it."""
    scale: tuple[float, float] | None = None
    """Slope and intercept to apply to stored values."""
    stored_type: np.dtype[np.number] | None = None
    """Where it must be told apart from the type that ITK announces, namely that of scaled values."""


def locate_payload(path: Path) -> Payload:
    """Find the voxels of a file by its own header.

    Raises:
        ImageError: It is no such file, or keeps its voxels in a way that is not supported.
    """
    for ending, locate in _LOCATORS.items():
        if path.name.lower().endswith(ending):
            return locate(path)
    raise ImageError(f"{path.name} is no volume; give one of: {', '.join(_LOCATORS)}", file=path.name)


def read_payload(path: Path, payload: Payload, count: int, stored_type: np.dtype[np.number]) -> StoredArray:
    """Read exactly `count` values.

    Compressed streams are followed to their end, so that their checksums are verified: a file that was cut
    or changed on its way raises, instead of yielding made-up voxels.

    Raises:
        ImageError: The file holds fewer or more bytes than its header announces, or a checksum is wrong.

    Source:
        Own measurement: ITK reads cut and bit-flipped gzip streams without an error.
    """
    skipped = payload.offset if payload.whole_file else 0
    expected = skipped + count * stored_type.itemsize
    if expected > path.stat().st_size * (1 if payload.window_bits is None else MOST_EXPANSION):
        raise ImageError(
            f"{path.name} is damaged: it is too short for the {count} voxels that its header announces; copy "
            "or export it again",
            file=path.name,
        )
    with path.open("rb") as file:
        file.seek(0 if payload.whole_file else payload.offset)
        chunks = _plain(file) if payload.window_bits is None else _inflated(file, payload, path)
        filled = _filled(chunks, expected, path)
    stored = stored_type.newbyteorder(">" if payload.big_endian else "<")
    return np.frombuffer(filled, dtype=stored, count=count, offset=skipped)


def _filled(chunks: Iterator[bytes], expected: int, path: Path) -> npt.NDArray[np.uint8]:
    """Collect `expected` bytes; fewer or more are an error."""
    array = np.empty(expected, np.uint8)
    buffer = memoryview(array.data)
    done = 0
    for chunk in chunks:
        if done + len(chunk) > expected:
            raise ImageError(
                f"{path.name} is damaged: it holds more voxels than its header announces; export it again",
                file=path.name,
            )
        buffer[done : done + len(chunk)] = chunk
        done += len(chunk)
    if done < expected:
        raise ImageError(
            f"{path.name} is damaged: it ends after {done} of {expected} bytes; copy or export it again",
            file=path.name,
        )
    return array


def _plain(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file."""
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _inflated(file: BinaryIO, payload: Payload, path: Path) -> Iterator[bytes]:
    """Decompress the rest of a file, member by member, verifying every checksum."""
    window_bits = payload.window_bits or zlib.MAX_WBITS
    decoder = zlib.decompressobj(window_bits)
    left = payload.compressed_bytes
    try:
        while chunk := file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left)):
            left = None if left is None else left - len(chunk)
            while chunk:
                if decoder.eof:
                    decoder = zlib.decompressobj(window_bits)
                yield decoder.decompress(chunk)
                chunk = decoder.unused_data
    except zlib.error as error:
        raise ImageError(
            f"{path.name} is damaged: its compressed data contradict their checksum; copy or export it again",
            file=path.name,
        ) from error
    if not decoder.eof:
        raise ImageError(
            f"{path.name} is damaged: its compressed data end early; copy or export it again", file=path.name
        )


# --- NIfTI ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _NiftiLayout:
    """Where a NIfTI version keeps the entries that matter here: struct formats and byte offsets."""

    header_bytes: int
    dimensions: tuple[str, int]
    data_type: int
    spacing: tuple[str, int]
    voxels_at: tuple[str, int]
    scale: tuple[str, int]


NIFTI_LAYOUTS: Final = (
    _NiftiLayout(348, ("8h", 40), 70, ("8f", 76), ("f", 108), ("2f", 112)),
    _NiftiLayout(540, ("8q", 16), 12, ("8d", 104), ("q", 168), ("2d", 176)),
)
"""NIfTI-1 and NIfTI-2; nifti1.h and nifti2.h of nifti.nimh.nih.gov."""

NIFTI_HEADER_BYTES: Final = 540
"""Enough for either version."""


def _locate_nifti(path: Path) -> Payload:
    """Read what matters of a NIfTI header: place and type of the voxels, scaling, spacing."""
    head, is_compressed = _nifti_head(path)
    layout, order = _nifti_layout(head, path)

    def entries(form: str, offset: int) -> tuple[float, ...]:
        return struct.unpack_from(order + form, head, offset)

    dimensions = entries(*layout.dimensions)
    axes = min(int(dimensions[0]), 3)
    if axes < 2 or any(size < 1 for size in dimensions[1 : axes + 1]):  # noqa: PLR2004 - an image has 2 axes
        raise ImageError(f"{path.name} has no voxels: its header says size {dimensions[1:4]}", file=path.name)
    spacing = entries(*layout.spacing)[1 : axes + 1]
    if not all(np.isfinite(edge) and edge > 0 for edge in spacing):
        raise ImageError(
            f"{path.name} has spacing {spacing} mm (x, y, z); each must be a positive number: set pixdim",
            file=path.name,
        )
    stored = NIFTI_TYPES.get(int(entries("h", layout.data_type)[0]))
    if stored is None:
        raise ImageError(
            f"{path.name} holds colors, complex or other non-scalar voxels; save each channel as a volume of "
            "its own",
            file=path.name,
        )
    return Payload(
        offset=_nifti_offset(entries(*layout.voxels_at)[0], layout, path),
        big_endian=order == ">",
        window_bits=GZIP_WINDOW if is_compressed else None,
        whole_file=is_compressed,
        scale=_nifti_scale(entries(*layout.scale), path),
        stored_type=np.dtype(stored),
    )


def _nifti_head(path: Path) -> tuple[bytes, bool]:
    """Return the first bytes, decompressed, and whether they were compressed."""
    with path.open("rb") as file:
        head = file.read(CHUNK_BYTES)
    is_compressed = head.startswith(GZIP_MAGIC)
    if is_compressed and not path.name.lower().endswith(".gz"):
        raise ImageError(f"{path.name} is compressed; rename it to {path.name}.gz", file=path.name)
    if is_compressed:
        try:
            head = zlib.decompressobj(GZIP_WINDOW).decompress(head, NIFTI_HEADER_BYTES)
        except zlib.error as error:
            raise ImageError(f"{path.name} is damaged: it cannot be decompressed", file=path.name) from error
    return head[:NIFTI_HEADER_BYTES].ljust(NIFTI_HEADER_BYTES, b"\0"), is_compressed


def _nifti_layout(head: bytes, path: Path) -> tuple[_NiftiLayout, str]:
    """Tell version and byte order from the first entry, which is the header's own length."""
    for layout in NIFTI_LAYOUTS:
        for order in "<>":
            if struct.unpack_from(order + "i", head)[0] == layout.header_bytes:
                return layout, order
    raise ImageError(
        f"{path.name} is no NIfTI image, whatever its name says; export it again", file=path.name
    )


def _nifti_offset(voxels_at: float, layout: _NiftiLayout, path: Path) -> int:
    """Return where voxels begin: after the header and its extensions."""
    if not layout.header_bytes <= voxels_at <= layout.header_bytes + HEADER_BYTES:
        raise ImageError(f"{path.name} is damaged: its header says that voxels begin at byte {voxels_at:g}")
    return int(voxels_at)


def _nifti_scale(scaling: tuple[float, ...], path: Path) -> tuple[float, float] | None:
    """Return slope and intercept, None where there is no scaling; a slope of 0 means none."""
    slope, intercept = scaling
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise ImageError(
            f"{path.name} scales its voxels by {slope} · x + {intercept}; set scl_slope to 1 and scl_inter to 0",
            file=path.name,
        )
    return None if slope == 0 or (slope, intercept) == (1, 0) else (slope, intercept)


# --- NRRD and MetaImage --------------------------------------------------------------------------------------


def _locate_nrrd(path: Path) -> Payload:
    """Read what matters of a NRRD header.

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
    return Payload(
        offset=offset,
        big_endian=fields.get("endian") == "big",
        window_bits=None if encoding == "raw" else GZIP_WINDOW,
    )


def _locate_metaimage(path: Path) -> Payload:
    """Read what matters of a MetaImage header.

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
        window_bits=zlib.MAX_WBITS if is_compressed else None,
        compressed_bytes=int(size) if is_compressed and size.isdecimal() else None,
    )


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


_LOCATORS: Final = {
    ".nii.gz": _locate_nifti,
    ".nii": _locate_nifti,
    ".nrrd": _locate_nrrd,
    ".mha": _locate_metaimage,
}
