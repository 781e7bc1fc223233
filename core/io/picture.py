"""Photographs and microscopy: PNG, BMP, 2D TIFF and 3D TIFF stacks, which know no place in space."""

import json
import logging
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import tifffile
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from core.domain.geometry import Spacing
from core.errors import ImageError
from core.io.image import Geometry, Header, ImageFile, LabelArray, StoredArray, array_spacing

Pillow.MAX_IMAGE_PIXELS = None  # Sizes are checked before decoding, for all formats alike.

logging.getLogger("tifffile").disabled = True  # It would log file names; what matters is raised.

TIFF_ENDINGS: Final = (".tif", ".tiff")

PIXEL_TYPES: Final = {
    "1": "u1", "L": "u1", "P": "u1", "I;16": "u2", "I;16B": "u2", "I": "i4", "F": "f4", "RGB": "u1", "RGBA": "u1"
}  # fmt: skip
"""Pillow's modes that hold one number per channel and pixel."""

DEEP_COLOR: Final = (b"\x10\x02", b"\x10\x06")
"""Bit depth and color type of PNG files with 16-bit colors, which Pillow would silently cut to 8 bits."""

PNG_DEPTH_AT: Final = 24
"""Where the header of a PNG file states them; PNG specification 11.2.1."""

TIFF_ERRORS: Final = (
    ArithmeticError, AssertionError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError, struct.error,
    zlib.error,
)  # fmt: skip
"""What tifffile raises on damaged files and on compressions that need further packages; own measurement."""

TIFF_LAYOUTS: Final = {42: ("I", 4, "H", 12), 43: ("Q", 8, "Q", 20)}
"""TIFF and BigTIFF by their magic number: form of offsets, where the first stands, form of the number of
entries in a directory, bytes per entry; TIFF 6.0 section 2."""

COLOR_CHANNELS: Final = (3, 4)
"""RGB and RGBA."""

LARGEST_BMP_LABEL: Final = 255
"""BMP holds 8 bits per pixel."""


def open_picture(path: Path) -> ImageFile:
    """Read size, channels and type of a 2D image.

    Raises:
        ImageError: The file cannot be read, or is no 2D image with 1, 3 or 4 channels.

    Source:
        Engine specification A 4.6.
    """
    if path.suffix.lower() in TIFF_ENDINGS:
        return _open_tiff_picture(path)
    with _open(path) as picture:
        if picture.mode not in PIXEL_TYPES:
            raise ImageError(
                f"{path.name} has color mode {picture.mode}; save it as greyscale, RGB or RGBA",
                file=path.name,
            )
        header = Header(
            shape=(1, picture.height, picture.width),
            channels=len(picture.getbands()),
            stored_type=np.dtype(PIXEL_TYPES[picture.mode]),
            geometry=_flat_geometry(),
            is_indexed=picture.mode == "P",
        )
    return ImageFile(header, lambda: _load_picture(path, header))


def _load_picture(path: Path, header: Header) -> StoredArray:
    """Read the pixels, (c, 1, y, x), in the stored type."""
    with _open(path) as checked:
        _require_whole(checked, path)
    with _open(path) as picture:  # Pillow wants it opened again after the check
        pixels_yxc = _pixels(picture, path).reshape(*header.shape[1:], header.channels)
    return np.moveaxis(pixels_yxc, -1, 0)[:, None]


def save_picture(labels_zyx: LabelArray, geometry: Geometry, path: Path) -> tuple[Path, ...]:
    """Write a 2D label map as greyscale, and return its path.

    Raises:
        ImageError: The format cannot hold a label.
    """
    del geometry  # Pictures know none.
    ending = path.suffix.lower()
    highest = int(labels_zyx.max(initial=0))
    if ending in TIFF_ENDINGS:
        tifffile.imwrite(path, labels_zyx[0], compression="zlib", photometric="minisblack")
        return (path,)
    if highest > (LARGEST_BMP_LABEL if ending == ".bmp" else np.iinfo(np.uint16).max):
        raise ImageError(f"{path.name} cannot hold label {highest}; write it as .tif", file=path.name)
    narrow = np.uint8 if ending == ".bmp" else labels_zyx.dtype
    Pillow.fromarray(labels_zyx[0].astype(narrow)).save(path)
    return (path,)


def open_stack(path: Path) -> ImageFile:
    """Read size, type and side-car spacing of a 3D TIFF.

    Writers that are not told otherwise mark a stack of three or four slices as a color picture; here it is a stack.

    Raises:
        ImageError: The file cannot be read, is not 3D, or its side-car is no spacing.

    Source:
        Engine specification A 4.6.
    """
    shape, stored_type, _ = _tiff_facts(path)
    if len(shape) != 3:  # noqa: PLR2004 - z, y, x
        raise ImageError(
            f"{path.name} is no 3D stack of grey slices, its shape is {shape}; save it as one stack per channel",
            file=path.name,
        )
    spacing = _side_car_spacing(path)
    z, y, x = shape
    spacing_xyz = (1.0, 1.0, 1.0) if spacing is None else spacing[::-1]
    header = Header(
        shape=(z, y, x),
        channels=1,
        stored_type=stored_type,
        geometry=Geometry(
            spacing=array_spacing(spacing_xyz),
            file_spacing_xyz=spacing_xyz,
            origin_xyz=(0.0, 0.0, 0.0),
            direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        ),
        has_spacing=spacing is not None,
    )
    return ImageFile(header, lambda: _tiff_voxels(path, shape)[None])


def save_stack(labels_zyx: LabelArray, geometry: Geometry, path: Path) -> tuple[Path, ...]:
    """Write a 3D TIFF, compressed, and its spacing beside it; return both paths, the side-car first."""
    side_car = path.with_suffix(".json")
    side_car.write_text(json.dumps({"spacing": geometry.spacing}))
    tifffile.imwrite(path, labels_zyx, compression="zlib", photometric="minisblack")
    return (side_car, path)


def _flat_geometry() -> Geometry:
    """Return what all pictures have in common: pixels of size 1 at the origin."""
    return Geometry(
        spacing=array_spacing((1.0, 1.0)),
        file_spacing_xyz=(1.0, 1.0),
        origin_xyz=(0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 1.0),
    )


def _open(path: Path) -> Pillow.Image:
    """Open a PNG or BMP; pixels are decoded later."""
    with path.open("rb") as file:
        if file.read(PNG_DEPTH_AT + 2)[PNG_DEPTH_AT:] in DEEP_COLOR and path.suffix.lower() == ".png":
            raise ImageError(
                f"{path.name} has 16 bits per color; save it as 16-bit grey channels or as RGB TIFF",
                file=path.name,
            )
    try:
        return Pillow.open(path, formats=("PNG", "BMP"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ImageError(
            f"{path.name} cannot be read; it is damaged or not what its ending says: copy or export it again",
            file=path.name,
        ) from error


def _require_whole(picture: Pillow.Image, path: Path) -> None:
    """Compare all checksums of a PNG; reading its pixels would not."""
    try:
        picture.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(
            f"{path.name} is damaged: a checksum is wrong; copy or export it again", file=path.name
        ) from error


def _pixels(picture: Pillow.Image, path: Path) -> StoredArray:
    """Decode, (y, x) or (y, x, c)."""
    try:
        pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path.name} is damaged; copy or export it again", file=path.name) from error
    return pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels


def _open_tiff_picture(path: Path) -> ImageFile:
    """Read the header of a 2D TIFF; channels lie side by side or one plane after the other."""
    shape, stored_type, color_axis = _tiff_facts(path)
    size = shape if color_axis is None else tuple(np.delete(shape, color_axis).tolist())
    channels = 1 if color_axis is None else shape[color_axis]
    if len(size) != 2 or (color_axis is not None and channels not in COLOR_CHANNELS):  # noqa: PLR2004 - y, x
        raise ImageError(
            f"{path.name} is no 2D image with 1, 3 or 4 channels, its shape is {shape}; save it as greyscale or RGB",
            file=path.name,
        )
    header = Header(shape=(1, *size), channels=channels, stored_type=stored_type, geometry=_flat_geometry())

    def load() -> StoredArray:
        pixels = _tiff_voxels(path, shape)
        return (pixels[None] if color_axis is None else np.moveaxis(pixels, color_axis, 0))[:, None]

    return ImageFile(header, load)


def _tiff_facts(path: Path) -> tuple[tuple[int, ...], np.dtype[np.number], int | None]:
    """Return shape, type, and along which axis colors lie.

    Colors are told by the file's samples per pixel, so that a stack three voxels wide stays a stack.
    """
    with _tiff(path) as file:
        series = file.series[0]
        shape = tuple(int(size) for size in series.shape)
        if series.dtype is None or series.dtype.kind not in "uifb":
            raise ImageError(f"{path.name} holds no numbers; save it as greyscale or RGB", file=path.name)
        stored = np.dtype("u1") if series.dtype.kind == "b" else np.dtype(series.dtype.newbyteorder("="))
        return shape, stored, series.axes.find("S") if "S" in series.axes else None


def _tiff_voxels(path: Path, shape: tuple[int, ...]) -> StoredArray:
    """Decode the first series of a TIFF, which must have the shape that its header announced."""
    with _tiff(path) as file:
        try:
            _require_all_strips(file, path)
            voxels: StoredArray = file.series[0].asarray()
        except TIFF_ERRORS as error:
            raise ImageError(
                f"{path.name} is damaged, or compressed in a way that is not supported; save it uncompressed "
                "or with deflate",
                file=path.name,
            ) from error
    if voxels.shape != shape:
        raise ImageError(
            f"{path.name} is damaged: its pages are not of one size; export it again", file=path.name
        )
    return voxels.astype(np.uint8) if voxels.dtype == np.bool_ else voxels


def _require_all_strips(file: tifffile.TiffFile, path: Path) -> None:
    """Compare where strips and tiles lie with the length of the file; missing ones would be read as zeros."""
    length = path.stat().st_size
    for page in file.series[0].pages:
        segments = zip(page.dataoffsets, page.databytecounts, strict=False) if page is not None else ()
        if page is None or any(size == 0 or start + size > length for start, size in segments):
            raise ImageError(
                f"{path.name} is damaged: parts of it are missing; copy or export it again", file=path.name
            )


@contextmanager
def _tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF; voxels are decoded later."""
    with path.open("rb") as stream:
        try:
            _require_all_pages(stream)
            stream.seek(0)
            file = tifffile.TiffFile(stream)
            has_series = bool(file.series)
        except TIFF_ERRORS as error:
            raise ImageError(
                f"{path.name} cannot be read; it is damaged or not what its ending says: copy or export it again",
                file=path.name,
            ) from error
        if not has_series:
            raise ImageError(f"{path.name} holds no image; export it again", file=path.name)
        yield file


def _require_all_pages(file: BinaryIO) -> None:
    """Follow the chain of pages to its end; where it breaks, the rest would silently be left out."""
    order = {b"II": "<", b"MM": ">"}[file.read(2)]
    form, at, count_form, entry_bytes = TIFF_LAYOUTS[struct.unpack(order + "H", file.read(2))[0]]
    count_bytes, offset_bytes = struct.calcsize(count_form), struct.calcsize(form)
    seen: set[int] = set()
    file.seek(at)
    while offset := struct.unpack(order + form, file.read(offset_bytes))[0]:
        if offset in seen:
            raise ValueError("the pages form a circle")
        seen.add(offset)
        file.seek(offset)
        entries = struct.unpack(order + count_form, file.read(count_bytes))[0]
        file.seek(offset + count_bytes + entries * entry_bytes)


def _side_car_spacing(path: Path) -> Spacing | None:
    """Read the spacing (z, y, x) from the JSON file beside a TIFF: CASE.json, also for CASE_0000.tif."""
    for name in (path.stem, re.sub(r"_\d{4}$", "", path.stem)):
        side_car = path.with_name(f"{name}.json")
        if side_car.is_file():
            return _spacing_entry(side_car)
    return None


def _spacing_entry(side_car: Path) -> Spacing:
    """Read `spacing` from a side-car."""
    try:
        z, y, x = (float(edge) for edge in json.loads(side_car.read_text())["spacing"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ImageError(
            f'{side_car.name} must read {{"spacing": [z, y, x]}}, in millimetres', file=side_car.name
        ) from error
    return (z, y, x)
