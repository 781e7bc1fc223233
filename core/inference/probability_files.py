"""Probabilities of cases in files (CASE.npz), averaged over several models, and the labels that they decide for."""

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, Final

import numpy as np

from core.domain.geometry import Shape
from core.domain.labels import FEWEST_FOR_16_BITS, REGION_THRESHOLD, LabelSet
from core.errors import ImageError
from core.io.image import VALUE_LIMIT, FloatArray, LabelArray

MEMBER: Final = "probabilities.npy"
"""What an npz file of probabilities holds."""

MOST_HEADS: Final = 1 << 16
"""Of a file; more labels than can be written."""

ROUNDING: Final = 1e-3
"""How much a probability may exceed 1, having been computed in 16 bits."""

KZYX_AXES: Final = 4


@dataclass(frozen=True, slots=True)
class Heads:
    """Probabilities of a case, head by head, so that never all are in memory."""

    shape: Shape
    """Voxels (z, y, x)."""
    count: int
    each: Iterator[FloatArray]
    """float32 (z, y, x), in the order of the heads."""


def average_case(files: Sequence[Path], labels: LabelSet, keep: Path | None = None) -> LabelArray:
    """Average the probabilities that several models gave for a case, and decide on a label for each voxel.

    Memory is that of a few label maps, however many classes there are.

    Args:
        files: npz files with `probabilities`, float (k, z, y, x) on the grid of the image; one per model.
        labels: What the heads stand for.
        keep: Where the mean goes, a file of the same kind; nowhere if not given.

    Returns:
        Labels (z, y, x), uint8, or uint16 from 255 foreground labels on.

    Raises:
        ImageError: A file cannot be read, or has other heads or another grid; the sentence names it.

    Source:
        Engine specification B 7.1: the sum in float32, in the order of the files, by their number.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(opened_heads(path)) for path in files]
        _require_agreement(files, opened, labels)
        means = _means([heads.each for heads in opened])
        if keep is not None:
            means = stack.enter_context(_kept(means, (opened[0].count, *opened[0].shape), keep))
        return _decided(means, opened[0].shape, labels)


@contextmanager
def opened_heads(path: Path) -> Iterator[Heads]:
    """Open an npz file of probabilities; what it says of its size is compared with what it has.

    Raises:
        ImageError: It is missing, damaged, or holds something else; also while heads are read.
    """
    with ExitStack() as stack:
        with _about(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            stream = stack.enter_context(archive.open(MEMBER))
            shape, dtype = _described(stream, archive.getinfo(MEMBER).file_size)
        count, z, y, x = shape
        yield Heads((z, y, x), count, _read(path, stream, shape, dtype))


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Say which file cannot be read, and why.

    Raises:
        ImageError: Something failed.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(f"{_named(path)} does not exist", file=path.name) from error
    except KeyError as error:
        raise ImageError(
            f"{_named(path)} holds no array `probabilities`; predict again, and save probabilities",
            file=path.name,
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise ImageError(
            f"{_named(path)} cannot be read as probabilities: {error}; predict again, and save probabilities",
            file=path.name,
        ) from error


def _named(path: Path) -> str:
    """Name a file by its folder and name, since every model has one of the same name."""
    return f"{path.parent.name}/{path.name}"


def _described(stream: IO[bytes], size_bytes: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of an npy file.

    Raises:
        ValueError: It holds something else than probabilities of heads, or not as many as it says.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_columnwise, dtype = read(stream)
    if (
        len(shape) != KZYX_AXES
        or min(shape) < 1
        or shape[0] > MOST_HEADS
        or dtype.kind != "f"
        or is_columnwise
    ):
        raise ValueError(f"it holds {dtype} of shape {shape}, not floats (heads, z, y, x) row by row")
    if prod(shape[1:]) > VALUE_LIMIT or size_bytes != stream.tell() + prod(shape) * dtype.itemsize:
        raise ValueError("its size is not that of its array")
    return shape, dtype


def _read(
    path: Path, stream: IO[bytes], shape_kzyx: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[FloatArray]:
    """Read head by head.

    Raises:
        ImageError: Something is no probability, or missing.
    """
    count, *shape = shape_kzyx
    for _ in range(count):
        with _about(path):
            content = stream.read(prod(shape) * dtype.itemsize)
            head_zyx = np.frombuffer(content, dtype).reshape(shape).astype(np.float32, copy=False)
            _require_probabilities(head_zyx)
        yield head_zyx


def _require_probabilities(head_zyx: FloatArray) -> None:
    """Refuse what is no probability, such as logits, or NaN.

    Raises:
        ValueError: Something is.
    """
    if not (head_zyx.min() >= 0 and head_zyx.max() <= 1 + ROUNDING):
        raise ValueError("it holds something else than numbers from 0 to 1")


def _require_agreement(files: Sequence[Path], opened: Sequence[Heads], labels: LabelSet) -> None:
    """Refuse to average what does not belong together.

    Raises:
        ImageError: A file has another number of heads than there are labels, or another grid than the first.
    """
    for path, heads in zip(files, opened, strict=True):
        if heads.count != len(labels.heads):
            raise ImageError(
                f"{_named(path)} has probabilities of {heads.count} classes, but dataset.json declares "
                f"{len(labels.heads)}: {', '.join(labels.names)}; all must come from models of one dataset",
                file=path.name,
            )
        if heads.shape != opened[0].shape:
            raise ImageError(
                f"{_named(path)} has probabilities of {_times(heads.shape)} voxels, {_named(files[0])} of "
                f"{_times(opened[0].shape)}; all must come from one image",
                file=path.name,
            )


def _times(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _means(models: Sequence[Iterator[FloatArray]]) -> Iterator[FloatArray]:
    """Average models, head by head."""
    for first_zyx, *others in zip(*models, strict=True):
        if not others:
            yield first_zyx
            continue
        sum_zyx = first_zyx.copy()
        for other_zyx in others:
            sum_zyx += other_zyx
        sum_zyx /= np.float32(len(models))
        yield sum_zyx


def _decided(means: Iterable[FloatArray], shape: Shape, labels: LabelSet) -> LabelArray:
    """Take the first label with the highest probability, or paint each region that is more likely than not.

    Source:
        Engine specification A 8.3.
    """
    is_small = len(labels.foreground) < FEWEST_FOR_16_BITS
    labels_zyx: LabelArray = np.zeros(shape, np.uint8 if is_small else np.uint16)
    if labels.region_labels is not None:
        for value, mean_zyx in zip(labels.region_labels, means, strict=True):
            labels_zyx[mean_zyx > REGION_THRESHOLD] = value
        return labels_zyx
    best_zyx = np.full(shape, -1, np.float32)
    for value, mean_zyx in enumerate(means):
        is_better_zyx = mean_zyx > best_zyx
        labels_zyx[is_better_zyx] = value
        np.maximum(best_zyx, mean_zyx, out=best_zyx)
    return labels_zyx


@contextmanager
def _kept(
    means: Iterator[FloatArray], shape_kzyx: tuple[int, ...], path: Path
) -> Iterator[Iterator[FloatArray]]:
    """Write what passes by; the file appears when all has passed, and not if something fails."""
    partial = path.with_name(f".writing-{token_hex(4)}-{path.name}")
    try:
        with (
            zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
            archive.open(MEMBER, "w", force_zip64=True) as stream,
        ):
            header = {"descr": "<f4", "fortran_order": False, "shape": shape_kzyx}
            np.lib.format.write_array_header_1_0(stream, header)
            yield _written(means, stream)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _written(means: Iterator[FloatArray], stream: IO[bytes]) -> Iterator[FloatArray]:
    for mean_zyx in means:
        stream.write(np.ascontiguousarray(mean_zyx, "<f4").data)
        yield mean_zyx
