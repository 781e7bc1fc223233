"""Read images and label maps, and write label maps: one table of formats, one set of checks."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Final

import numpy as np

from core.domain.dataset import DatasetDescription
from core.errors import ImageError
from core.extensions import Group
from core.io.image import (
    Geometry,
    Header,
    Image,
    ImageFile,
    LabelArray,
    LabelMap,
    disagreement,
    require_believable,
)
from core.io.orientation import as_stored
from core.io.values import intensities_of, labels_of, narrowest_type
from core.io.volume import (
    VOLUME_ENDINGS,
    open_nifti,
    open_nifti_turned,
    open_volume,
    open_volume_turned,
    save_volume,
)
from core.registry import Registry

PICTURE_ENDINGS: Final = (".png", ".bmp", ".tif", ".tiff")
STACK_ENDINGS: Final = (".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Reader:
    """How one family of file formats is read and written; also what a package adds."""

    endings: tuple[str, ...]
    """In lower case, with the leading dot; a dataset with such an ending may be read by it."""
    open: Callable[[Path], ImageFile]
    """Read a header, and say how to decode the voxels; an ImageError says why a file cannot be read."""
    save: Callable[[LabelArray, Geometry, Path], tuple[Path, ...]]
    """Write a label map, and return the files that this made, the label map last."""
    formats: tuple[str, ...] = ()
    """Endings of all files that it can read, also such as no dataset is read by it for; none: `endings`."""
    is_flat: bool = False
    """Whether it reads 2D images only."""
    is_found: bool = True
    """Whether it is tried where a dataset does not name its reader."""


READERS: Registry[Reader] = Registry("reader", Group.READER, Reader)
"""In the order in which they are tried for a dataset, those of packages last; names as in plans.json; Engine
specification A 4.2."""


def _open_picture(path: Path) -> ImageFile:
    """Load the libraries for pictures, which takes 40 ms, and read the header of one."""
    from core.io.picture import open_picture

    return open_picture(path)


def _save_picture(labels_zyx: LabelArray, geometry: Geometry, path: Path) -> tuple[Path, ...]:
    """Write a label map as a picture."""
    from core.io.picture import save_picture

    return save_picture(labels_zyx, geometry, path)


def _open_stack(path: Path) -> ImageFile:
    """Read the header of a 3D TIFF."""
    from core.io.picture import open_stack

    return open_stack(path)


def _save_stack(labels_zyx: LabelArray, geometry: Geometry, path: Path) -> tuple[Path, ...]:
    """Write a label map as a 3D TIFF."""
    from core.io.picture import save_stack

    return save_stack(labels_zyx, geometry, path)


READERS.register("NaturalImage2DIO")(
    Reader(PICTURE_ENDINGS, _open_picture, _save_picture, PICTURE_ENDINGS, is_flat=True)
)
READERS.register("SimpleITKIO")(
    Reader((".nii.gz", ".nrrd", ".mha", ".gipl"), open_volume, save_volume, VOLUME_ENDINGS)
)
READERS.register("Tiff3DIO")(Reader(STACK_ENDINGS, _open_stack, _save_stack, STACK_ENDINGS))
READERS.register("NibabelIO")(Reader((".nii", ".nii.gz"), open_nifti, save_volume, VOLUME_ENDINGS))
READERS.register("NibabelIOWithReorient")(
    Reader((".nii", ".nii.gz"), open_nifti_turned, save_volume, VOLUME_ENDINGS)
)
READERS.register("SimpleITKIOWithReorient")(
    Reader(
        (".nii.gz", ".nrrd", ".mha", ".gipl"), open_volume_turned, save_volume, VOLUME_ENDINGS, is_found=False
    )
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
    files = [_open(path, reader) for path in paths]
    first = files[0].header
    for path, file in zip(paths[1:], files[1:], strict=True):
        difference = disagreement(first, file.header)
        if difference is not None:
            raise ImageError(
                f"{paths[0].name} and {path.name} are channels of one case, but {difference}; "
                "resample them to one grid",
                file=path.name,
            )
    channels = [intensities_of(file, path) for path, file in zip(paths, files, strict=True)]
    voxels_czyx = channels[0] if len(channels) == 1 else np.concatenate(channels)
    return Image(voxels_czyx, first.geometry)


def read_labels(path: Path, reader: str) -> LabelMap:
    """Read a reference or a segmentation.

    Returns:
        Labels as int16, or int32 where a value needs it.

    Raises:
        ImageError: The file is missing or damaged, has several channels, or values that are no integers.
    """
    file = _open(path, reader)
    channels = file.header.channels
    if channels != 1:
        raise ImageError(
            f"{path.name} has {channels} channels; save labels as one channel, each value one label",
            file=path.name,
        )
    return LabelMap(labels_of(file.load()[0], path), file.header.geometry)


def write_labels(labels: LabelMap, path: Path, reader: str) -> None:
    """Write a label map, compressed, in the type that its highest label needs.

    Where the image was turned after reading, the label map is turned back, and lies as its file does. It
    appears under its name only when it is complete.

    Raises:
        ImageError: A label is negative, or the format cannot hold it.
    """
    stored = as_stored(labels)
    labels_zyx = stored.labels_zyx.astype(narrowest_type(stored.labels_zyx, path), order="C", copy=False)
    prefix = f".writing-{token_hex(4)}-"
    try:
        written = READERS.get(reader).save(labels_zyx, stored.geometry, path.with_name(prefix + path.name))
        for file in written:
            file.replace(file.with_name(file.name.removeprefix(prefix)))
    except BaseException:
        for file in path.parent.glob(f"{prefix}*"):
            file.unlink()
        raise


def read_header(path: Path, reader: str | None = None) -> Header:
    """Read size, channels, type and geometry without decoding a voxel.

    Args:
        path: An image or label map.
        reader: A name in READERS; chosen by the file if not given.

    Raises:
        ImageError: The file cannot be read, claims more voxels than anybody could hold, or has no sensible
            spacing.
    """
    return _open(path, reader or reader_for_file(path)).header


def choose_reader(
    description: DatasetDescription,
    example: Path | None,
    *,
    permissive: bool = False,
    has_volumes: bool = False,
) -> str:
    """Choose the reader of a dataset.

    Args:
        description: Names a reader, or a file ending.
        example: The first image of the first case; None if there is none yet.
        permissive: Whether readers with other endings are tried as well, as for the plans of another dataset.
        has_volumes: Whether the images are known to be volumes; it matters where there is no example.

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
    names = [name for name in _found() if ending in READERS.get(name).endings]
    if permissive:
        names += [name for name in _found() if name not in names]
    if example is not None:
        return _first_that_reads(example, names)
    if has_volumes:
        names = [name for name in names if not READERS.get(name).is_flat]
    if not names:
        raise ImageError(
            f"files that end in {description.file_ending} cannot be read; give one of: {', '.join(known_endings())}"
        )
    return names[0]


def reader_for_file(path: Path, preferred: str | None = None) -> str:
    """Choose the reader of a single image by its ending and content.

    Args:
        path: An image or label map.
        preferred: Taken if it knows the format, for example because a model was trained with it.

    Raises:
        ImageError: No reader has the ending, or none can read the file; all reasons are given.
    """
    name = path.name.lower()
    if preferred is not None and preferred in READERS:
        reader = READERS.get(preferred)
        if name.endswith(reader.formats or reader.endings):
            return preferred
    return _first_that_reads(path, [key for key in _found() if name.endswith(READERS.get(key).endings)])


def known_endings() -> tuple[str, ...]:
    """Return all file endings that can be read, longest first."""
    endings = {ending for name in READERS for ending in READERS.get(name).endings}
    return tuple(sorted(endings, key=lambda ending: (-len(ending), ending)))


def _found() -> list[str]:
    """Return the readers that are tried, in their order."""
    return [name for name in READERS if READERS.get(name).is_found]


def _first_that_reads(path: Path, names: Iterable[str]) -> str:
    """Return the first reader that understands the file's header."""
    reasons: list[str] = []
    for name in names:
        try:
            READERS.get(name).open(path)
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


def _open(path: Path, reader: str) -> ImageFile:
    """Read a header and check what it says, before memory is reserved for what it claims.

    Raises:
        ImageError: As `read_header`.
    """
    if not path.is_file():
        raise ImageError(f"{path.name} does not exist", file=path.name)
    file = READERS.get(reader).open(path)
    require_believable(file.header, path.name)
    return file
