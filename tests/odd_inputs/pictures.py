"""PNG, BMP and TIFF: colors, palettes, depths, missing parts, side-cars."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK
import tifffile
from PIL import Image

from tests.factories import make_phantom
from tests.odd_inputs.table import (
    FIRST,
    GREY_PICTURE,
    PICTURE,
    STACK,
    change,
    cut,
    edit,
    fine,
    image,
    odd,
)

PNG = f"{FIRST}_0000.png"
TIFF = f"{FIRST}_0000.tif"
BITMAP = replace(GREY_PICTURE, ending=".bmp")
FLAT_TIFF = replace(GREY_PICTURE, ending=".tif")
SIZE = GREY_PICTURE.shape[1:]
PALETTE_PIXELS = np.arange(SIZE[0] * SIZE[1], dtype=np.uint8).reshape(SIZE)


@odd("PNG with 16 bits per color", "unreadable-image", names=PNG, says="16 bits", recipe=PICTURE)
def png_deep(raw: Path) -> None:
    pixels = SimpleITK.GetImageFromArray(np.full((*SIZE, 3), 40_000, np.uint16), isVector=True)
    SimpleITK.WriteImage(pixels, str(image(raw)))


@odd("PNG with a palette", "unreadable-image", names=PNG, says="color table", recipe=GREY_PICTURE)
def png_palette(raw: Path) -> None:
    picture = Image.fromarray(PALETTE_PIXELS, mode=None).convert("P")
    picture.save(image(raw))


@odd("PNG with grey and transparency", "unreadable-image", names=PNG, says="mode LA", recipe=GREY_PICTURE)
def png_transparent(raw: Path) -> None:
    Image.fromarray(np.zeros((*SIZE, 2), np.uint8)).save(image(raw))


@odd(
    "PNG with transparency where three channels are declared",
    "channel-count",
    says="the files hold 4",
    recipe=PICTURE,
)
def png_rgba(raw: Path) -> None:
    Image.fromarray(np.random.default_rng(2).integers(0, 255, (*SIZE, 4), np.uint8)).save(image(raw))


@odd(
    "PNG in grey where three channels are declared",
    "missing-channel",
    says="the files hold 1",
    recipe=PICTURE,
)
def png_grey(raw: Path) -> None:
    Image.fromarray(PALETTE_PIXELS).save(image(raw))


@odd("PNG cut", "unreadable-image", names=PNG, recipe=PICTURE)
def png_cut(raw: Path) -> None:
    cut(image(raw), 0.6)


@odd("PNG with a wrong checksum", "unreadable-image", names=PNG, says="checksum", recipe=PICTURE)
def png_checksum(raw: Path) -> None:
    change(image(raw), lambda content: content.__setitem__(-14, content[-14] ^ 1))


@odd("JPEG named .png", "unreadable-image", names=PNG, recipe=PICTURE)
def png_jpeg(raw: Path) -> None:
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(image(raw), format="JPEG")


@odd("BMP cut", "unreadable-image", names=f"{FIRST}_0000.bmp", recipe=BITMAP)
def bmp_cut(raw: Path) -> None:
    cut(image(raw), 0.6)


@odd("TIFF whose pages break off", "unreadable-image", names=TIFF, recipe=STACK)
def tiff_pages(raw: Path) -> None:
    path = image(raw)
    tifffile.imwrite(path, make_phantom(STACK).voxels_czyx[0], photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        last = file.pages[-1].offset
    path.write_bytes(path.read_bytes()[: last - 1])


@odd("TIFF whose pages form a circle", "unreadable-image", names=TIFF, recipe=STACK)
def tiff_circle(raw: Path) -> None:
    def circle(content: bytearray) -> None:
        first = struct.unpack_from("<I", content, 4)[0]
        entries = struct.unpack_from("<H", content, first)[0]
        struct.pack_into("<I", content, first + 2 + 12 * entries, first)

    change(image(raw), circle)


def _tiff_entry(content: bytearray, tag: int, value: int) -> None:
    """Set an entry of the first page of a little-endian TIFF."""
    page = struct.unpack_from("<I", content, 4)[0]
    for number in range(struct.unpack_from("<H", content, page)[0]):
        entry = page + 2 + 12 * number
        if struct.unpack_from("<H", content, entry)[0] == tag:
            struct.pack_into("<I", content, entry + 8, value)


@odd("TIFF of width 0", "unreadable-image", names=TIFF, recipe=STACK)
def tiff_width(raw: Path) -> None:
    change(image(raw), lambda content: _tiff_entry(content, 256, 0))


@odd("TIFF with strips of 0 rows", "unreadable-image", names=TIFF, recipe=STACK)
def tiff_strips(raw: Path) -> None:
    change(image(raw), lambda content: _tiff_entry(content, 278, 0))


@odd("TIFF of complex numbers", "unreadable-image", names=TIFF, recipe=STACK)
def tiff_complex(raw: Path) -> None:
    tifffile.imwrite(image(raw), np.zeros(STACK.shape, np.complex64))


@odd(
    "TIFF in color among stacks",
    "label-geometry",
    "constant-image",
    "small-image",
    names=TIFF,
    says="shapes (z, y, x) differ",
    recipe=STACK,
)
def tiff_color(raw: Path) -> None:
    """Writers mark thin stacks as colors, so a color picture is read as a stack three voxels wide."""
    tifffile.imwrite(image(raw), np.zeros((*SIZE, 3), np.uint8), photometric="rgb")


@odd("TIFF stack without side-car", "default-spacing", says="1 mm is assumed", recipe=STACK)
def no_side_car(raw: Path) -> None:
    for path in raw.rglob(f"{FIRST}.json"):
        path.unlink()


@odd(
    "side-car that is no JSON",
    "unreadable-image",
    names=f"{FIRST}.json",
    says='{"spacing": [z, y, x]}',
    recipe=STACK,
)
def side_car_text(raw: Path) -> None:
    (raw / "imagesTr" / f"{FIRST}.json").write_text("1 x 1 x 1 mm")


@odd(
    "side-car without spacing",
    "unreadable-image",
    names=f"{FIRST}.json",
    says='{"spacing": [z, y, x]}',
    recipe=STACK,
)
def side_car_empty(raw: Path) -> None:
    (raw / "imagesTr" / f"{FIRST}.json").write_text("{}")


@odd("side-car with spacing 0", "unreadable-image", names=FIRST, says="spacing", recipe=STACK)
def side_car_zero(raw: Path) -> None:
    (raw / "imagesTr" / f"{FIRST}.json").write_text(json.dumps({"spacing": [0, 1, 1]}))


@odd("side-car with NaN", "unreadable-image", names=FIRST, says="spacing", recipe=STACK)
def side_car_nan(raw: Path) -> None:
    (raw / "imagesTr" / f"{FIRST}.json").write_text('{"spacing": [NaN, 1, 1]}')


@odd("spacing of image and label file differ in side-cars", "label-geometry", names=TIFF, says="(1, 1, 1) and (3, 1, 1) mm",
     recipe=STACK)  # fmt: skip
def side_cars_differ(raw: Path) -> None:
    (raw / "labelsTr" / f"{FIRST}.json").write_text(json.dumps({"spacing": [3, 1, 1]}))


@fine("TIFF in big-endian order", recipe=FLAT_TIFF)
def tiff_big_endian(raw: Path) -> None:
    tifffile.imwrite(
        image(raw), make_phantom(FLAT_TIFF).voxels_czyx[0, 0], byteorder=">", photometric="minisblack"
    )


@odd("channel_names of grey pictures with three entries", "missing-channel", recipe=GREY_PICTURE)
def three_names(raw: Path) -> None:
    edit(raw, channel_names={"0": "R", "1": "G", "2": "B"})
