"""The bytes of an image file that are voxels: all of them are read, checked to the last, or none."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from core.errors import ImageError
from core.io.compression import CHUNK_BYTES, MOST_EXPANSION, CompressionError, inflated
from core.io.image import Header, StoredArray


@dataclass(frozen=True, slots=True)
class Payload:
    """Where and how a file keeps its voxels."""

    offset: int
    """Bytes before them, counted after decompression where the whole file is compressed."""
    big_endian: bool = False
    window_bits: int | None = None
    """Of the compression, None where nothing is compressed."""
    whole_file: bool = False
    """Whether the compression covers the header too."""
    compressed_bytes: int | None = None
    """Length of the compressed stream, where the header states it."""
    channels_last: bool = False
    """Whether the channels of a voxel lie side by side, instead of one volume after the other."""
    scale: tuple[float, float] | None = None
    """Slope and intercept to apply to stored values."""


def load_voxels(path: Path, header: Header, payload: Payload) -> StoredArray:
    """Read the voxels, (c, z, y, x), in the stored type; in 64-bit floats where the file scales them.

    Raises:
        ImageError: The file is damaged.
    """
    values = read_payload(path, payload, header.values, header.stored_type)
    if payload.channels_last:
        voxels_czyx = np.moveaxis(values.reshape(*header.shape, header.channels), -1, 0)
    else:
        voxels_czyx = values.reshape(header.channels, *header.shape)
    if payload.scale is None:
        return voxels_czyx
    slope, intercept = payload.scale
    scaled: StoredArray = voxels_czyx * np.float64(slope) + np.float64(intercept)
    return scaled


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
        try:
            filled = _filled(_chunks(file, payload, expected), expected, path)
        except CompressionError as error:
            raise ImageError(
                f"{path.name} is damaged: {error}; copy or export it again", file=path.name
            ) from error
    stored = stored_type.newbyteorder(">" if payload.big_endian else "<")
    return np.frombuffer(filled, dtype=stored, count=count, offset=skipped)


def _chunks(file: BinaryIO, payload: Payload, expected: int) -> Iterator[bytes]:
    """Yield the rest of a file, decompressed."""
    if payload.window_bits is not None:
        yield from inflated(file, payload.window_bits, length=payload.compressed_bytes, limit=expected)
        return
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


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
