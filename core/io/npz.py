"""npz files whose arrays lie in them as in memory, so that they are mapped in place and nothing is unpacked."""

import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

ALIGNMENT: Final = 64
"""Bytes; arrays begin at multiples of it, as long as cache lines and as the headers inside npy files are."""

PADDING_KIND: Final = 0xD935
"""Of the extra field that moves an array to its place; the number under which others align zip members too."""

LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
"""Of a zip member: signature, and the lengths of its name and extra fields; PKWARE APPNOTE 4.3.7."""

LOCAL_SIGNATURE: Final = b"PK\x03\x04"

LARGE_EXTRA: Final = struct.Struct("<HHQQ")
"""The extra field that zipfile adds to a member that needs 64-bit sizes."""

LARGE_BYTES: Final = 2**31 - 2**20
"""From this size on a member gets 64-bit sizes."""

ARRAY_START: Final = struct.Struct("<8sH")
"""Magic and version of an npy file, and the length of the text that follows."""

ARRAY_MAGIC: Final = b"\x93NUMPY\x01\x00"

ARRAY_TEXT: Final = re.compile(
    rb"\{'descr': '([<|][fiu][1248])', 'fortran_order': False, 'shape': \(([0-9, ]*)\), \} *\n"
)
"""What numpy writes for an array of numbers in C order."""

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Contents:
    """The members of an npz file."""

    arrays: dict[str, AnyArray]
    """By name without `.npy`, in the order of the file; memory-mapped and read-only."""
    texts: dict[str, bytes]
    """Members that are no arrays."""


def write_npz(path: Path, arrays: Mapping[str, AnyArray], texts: Mapping[str, bytes]) -> None:
    """Write an uncompressed npz file that `map_npz` can map and `numpy.load` can read.

    The same content gives the same bytes, whenever it is written.

    Args:
        path: Replaced if it exists.
        arrays: By name; numbers of any shape.
        texts: Further members, by full name.
    """
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in texts.items():
            archive.writestr(zipfile.ZipInfo(name), content)
        for name, array in arrays.items():
            _write_array(file, archive, f"{name}.npy", np.ascontiguousarray(array).reshape(array.shape))


def map_npz(path: Path, *, is_checked: bool = False) -> Contents:
    """Map the arrays of a file that `write_npz` wrote.

    The whole file is one mapping, which keeps one file open as long as any of its arrays is in use.

    Args:
        path: The file.
        is_checked: Whether every byte is compared with its checksum, as for a file that may have been written
            just before a power cut: its name and texts can be there without its arrays.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is damaged: cut, or another file than its name says.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"{path.name} is no whole zip file") from error
    whole = np.memmap(path, np.uint8, "r")
    arrays: dict[str, AnyArray] = {}
    texts: dict[str, bytes] = {}
    for member in members:
        content = _content(whole, member)
        if is_checked and zlib.crc32(content.data) != member.CRC:
            raise ValueError(f"{member.filename} is damaged")
        if member.filename.endswith(".npy"):
            arrays[member.filename.removesuffix(".npy")] = _array(content)
        else:
            texts[member.filename] = _text(content, member)
    return Contents(arrays, texts)


def _write_array(file: BinaryIO, archive: zipfile.ZipFile, name: str, array: AnyArray) -> None:
    """Append an array, with so much padding before it that its numbers are aligned."""
    member = zipfile.ZipInfo(name)
    is_large = array.nbytes >= LARGE_BYTES
    padding = struct.calcsize("<HH")
    begins = file.tell() + LOCAL_HEADER.size + len(name.encode()) + padding + is_large * LARGE_EXTRA.size
    zeros = -begins % ALIGNMENT
    member.extra = struct.pack("<HH", PADDING_KIND, zeros) + bytes(zeros)
    with archive.open(member, "w", force_zip64=is_large) as target:
        np.lib.format.write_array_header_1_0(target, np.lib.format.header_data_from_array_1_0(array))
        target.write(array.reshape(-1).view(np.uint8).data)


def _content(whole: npt.NDArray[np.uint8], member: zipfile.ZipInfo) -> npt.NDArray[np.uint8]:
    """Return the bytes of a member."""
    header = bytes(whole[member.header_offset : member.header_offset + LOCAL_HEADER.size])
    if len(header) != LOCAL_HEADER.size or member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is not stored as it is")
    signature, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
    begin = member.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
    content = whole[begin : begin + member.file_size]
    if signature != LOCAL_SIGNATURE or len(content) != member.file_size:
        raise ValueError(f"{member.filename} is cut")
    return content


def _array(content: npt.NDArray[np.uint8]) -> AnyArray:
    """View the bytes of an npy file as the array that it is."""
    start = bytes(content[: ARRAY_START.size])
    if len(start) != ARRAY_START.size or not start.startswith(ARRAY_MAGIC):
        raise ValueError("a member is no npy file")
    _, text_bytes = ARRAY_START.unpack(start)
    begin = ARRAY_START.size + text_bytes
    described = ARRAY_TEXT.fullmatch(bytes(content[ARRAY_START.size : begin]))
    if described is None:
        raise ValueError("a member is no array of numbers in C order")
    shape = tuple(int(count) for count in described[2].split(b",") if count.strip())
    array: AnyArray = content[begin:].view(np.dtype(described[1].decode())).reshape(shape)
    return array


def _text(content: npt.NDArray[np.uint8], member: zipfile.ZipInfo) -> bytes:
    """Return a small member, checked."""
    text = content.tobytes()
    if zlib.crc32(text) != member.CRC:
        raise ValueError(f"{member.filename} is damaged")
    return text
