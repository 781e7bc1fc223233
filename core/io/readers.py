"""Read images and label maps, and write label maps: one table of formats, one set of checks."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from core.domain.dataset import DatasetDescription
from core.errors import ImageError
from core.io.image import (
    FloatArray,
    Geometry,
    Header,
    Image,
    LabelArray,
    LabelMap,
    StoredArray,
    disagreement,
)
from core.io.picture import (
    load_picture,
    load_stack,
    read_picture_header,
    read_stack_header,
    save_picture,
    save_stack,
)
from core.io.volume import load_volume, read_volume_header, save_volume
from core.registry import Registry

VALUE_LIMIT: Final = 2**30
"""Voxels times channels of one file: 4000 slices of 512 x 512, 4 GiB in 32-bit floats. Headers that claim
more are refused before memory is reserved."""

SPACING_LIMITS: Final = (1e-6, 1e6)
"""Millimetres. Everything between a nanometre and a kilometre is believed."""

LARGEST_UINT8_LABEL: Final = 254
"""Higher labels are written with 16 bits; Engine specification A 4.1."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How one family of file formats is read and written."""

    endings: tuple[str, ...]
    """In lower case, with the leading dot; a dataset with such an ending may be read by it."""
    read_header: Callable[[Path], Header]
    load: Callable[[Path, Header], StoredArray]
    """Voxels (c, z, y, x) in the stored type."""
    save: Callable[[LabelArray, Geometry, Path], None]


READERS: Registry[Reader] = Registry("reader")
"""In the order in which they are tried for a dataset; names as in plans.json; Engine specification A 4.2."""

READERS.register("NaturalImage2DIO")(
    Reader((".png", ".bmp", ".tif", ".tiff"), read_picture_header, load_picture, save_picture)
)
READERS.register("SimpleITKIO")(
    Reader((".nii.gz", ".nrrd", ".mha"), read_volume_header, load_volume, save_volume)
)
READERS.register("Tiff3DIO")(Reader((".tif", ".tiff"), read_stack_header, load_stack, save_stack))
READERS.register("NibabelIO")(
    Reader((".nii", ".nii.gz"), read_volume_header, load_volume, save_volume)  # same axis order, same voxels
)


def read_image(paths: Sequence[Path], reader: str) -> Image:
    """Read one case.

    Args:
        paths: One file per channel in channel order, or one file that holds all.
        reader: A name in READERS.

    Raises:
        ImageError: A file is missing or damaged, holds something else than finite numbers, or lies elsewhere
            than the first; the sentence names it.
    """
    if not paths:
        raise ImageError("there is no image file to read")
    headers = [read_header(path, reader) for path in paths]
    for path, header in zip(paths, headers, strict=True):
        difference = disagreement(headers[0], header)
        if difference is not None:
            raise ImageError(
                f"{paths[0].name} and {path.name} are channels of one case, but {difference}; "
                "resample them to one grid",
                file=path.name,
            )
    load = READERS.get(reader).load
    channels = [_intensities(load(path, h), path, h) for path, h in zip(paths, headers, strict=True)]
    voxels_czyx = channels[0] if len(channels) == 1 else np.concatenate(channels)
    return Image(voxels_czyx, headers[0].geometry)


def read_labels(path: Path, reader: str) -> LabelMap:
    """Read a reference or a segmentation.

    Returns:
        Labels as int16, or int32 where a value needs it.

    Raises:
        ImageError: The file is missing or damaged, has several channels, or values that are no integers.
    """
    header = read_header(path, reader)
    if header.channels != 1:
        raise ImageError(
            f"{path.name} has {header.channels} channels; save labels as one channel, each value one label",
            file=path.name,
        )
    stored_zyx = READERS.get(reader).load(path, header)[0]
    return LabelMap(_labels(stored_zyx, path), header.geometry)


def write_labels(labels: LabelMap, path: Path, reader: str) -> None:
    """Write a label map, compressed, in the type that its highest label needs.

    It appears under its name only when it is complete.

    Raises:
        ImageError: A label is negative, or the format cannot hold it.
    """
    labels_zyx = labels.labels_zyx.astype(_narrowest(labels.labels_zyx, path), copy=False)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        temporary = Path(folder) / path.name
        READERS.get(reader).save(labels_zyx, labels.geometry, temporary)
        for written in sorted(Path(folder).iterdir(), key=lambda file: file == temporary):
            written.replace(path.with_name(written.name))  # the image last, after its side-car


def read_header(path: Path, reader: str | None = None) -> Header:
    """Read size, channels, type and geometry without decoding a voxel.

    Args:
        path: An image or label map.
        reader: A name in READERS; chosen by the file if not given.

    Raises:
        ImageError: The file cannot be read, claims more voxels than anybody could hold, or has no sensible
            spacing.
    """
    if not path.is_file():
        raise ImageError(f"{path.name} does not exist", file=path.name)
    header = READERS.get(reader or reader_for_file(path)).read_header(path)
    if min(header.shape) < 1 or header.values > VALUE_LIMIT:
        raise ImageError(
            f"{path.name} says that it has {header.values} voxels; at most {VALUE_LIMIT} can be read. "
            "Crop it, or export it again if its header is wrong",
            file=path.name,
        )
    low, high = SPACING_LIMITS
    if not all(low <= edge <= high for edge in header.geometry.file_spacing_xyz):
        raise ImageError(
            f"{path.name} has spacing {header.geometry.file_spacing_xyz} mm (x, y, z); each must be a positive "
            "number of millimetres: correct the header",
            file=path.name,
        )
    return header


def choose_reader(description: DatasetDescription, example: Path) -> str:
    """Choose the reader of a dataset.

    Args:
        description: Names a reader, or a file ending.
        example: The first image of the first case.

    Returns:
        The first reader in READERS that has the ending and can read the example.

    Raises:
        ImageError: None has the ending, or none can read the example; all reasons are given.
        UnknownNameError: The dataset insists on a reader that does not exist.

    Source:
        Engine specification A 4.7.
    """
    if description.reader is not None:
        READERS.get(description.reader)
        return description.reader
    ending = description.file_ending.lower()
    return _first_that_reads(example, [name for name in READERS if ending in READERS.get(name).endings])


def reader_for_file(path: Path) -> str:
    """Choose the reader of a single image by its ending and content.

    Raises:
        ImageError: No reader has the ending, or none can read the file; all reasons are given.
    """
    name = path.name.lower()
    candidates = [key for key in READERS if name.endswith(READERS.get(key).endings)]
    return _first_that_reads(path, candidates)


def known_endings() -> tuple[str, ...]:
    """Return all file endings that can be read, longest first."""
    endings = {ending for name in READERS for ending in READERS.get(name).endings}
    return tuple(sorted(endings, key=lambda ending: (-len(ending), ending)))


def _first_that_reads(path: Path, names: Iterable[str]) -> str:
    """Return the first reader that understands the file's header."""
    reasons: list[str] = []
    for name in names:
        try:
            READERS.get(name).read_header(path)
        except ImageError as error:
            reasons.append(error.message)
        else:
            return name
    if not reasons:
        raise ImageError(
            f"{path.name} is of a kind that cannot be read; give one of: {', '.join(known_endings())}",
            file=path.name,
        )
    raise ImageError("; ".join(dict.fromkeys(reasons)), file=path.name)


def _intensities(stored_czyx: StoredArray, path: Path, header: Header) -> FloatArray:
    """Turn stored voxels into finite 32-bit floats."""
    if header.is_indexed:
        raise ImageError(
            f"{path.name} has a color table instead of intensities; save it as greyscale or RGB",
            file=path.name,
        )
    with np.errstate(over="ignore"):  # becomes infinite, which the next line refuses
        voxels_czyx = stored_czyx.astype(np.float32)
    if stored_czyx.dtype.kind == "f" and not np.isfinite(voxels_czyx).all():
        count = int(np.count_nonzero(~np.isfinite(voxels_czyx)))
        raise ImageError(
            f"{path.name} has {count} voxels that are NaN or infinite; replace them, for example by 0",
            file=path.name,
        )
    return voxels_czyx


def _labels(stored_zyx: StoredArray, path: Path) -> LabelArray:
    """Turn stored voxels into integers, without changing any."""
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
        return stored_zyx.astype(np.int16)
    low, high = stored_zyx.min(), stored_zyx.max()
    for wide in (np.int16, np.int32):
        if np.iinfo(wide).min <= low and high <= np.iinfo(wide).max:
            return stored_zyx.astype(wide)
    raise ImageError(f"{path.name} has labels from {low:g} to {high:g}; number them from 0", file=path.name)


def _narrowest(labels_zyx: LabelArray, path: Path) -> type[np.unsignedinteger]:
    """Return the unsigned type that holds all labels."""
    low, high = int(labels_zyx.min()), int(labels_zyx.max())
    if low < 0:
        raise ImageError(f"label {low} cannot be written to {path.name}: labels count from 0", file=path.name)
    if high <= LARGEST_UINT8_LABEL:
        return np.uint8
    return np.uint16 if high <= np.iinfo(np.uint16).max else np.uint32
