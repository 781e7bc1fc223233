"""Voxels that are no numbers or all the same, and label files with other values than declared."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.factories import Recipe, make_phantom
from tests.odd_inputs.table import (
    FIRST,
    GREY_PICTURE,
    TWO_CHANNELS,
    VOLUME,
    Making,
    edit,
    fine,
    image,
    label,
    labels_of,
    odd,
    rewrite,
    write_series,
)

IMAGE = f"{FIRST}_0000.nii.gz"
LABEL = f"{FIRST}.nii.gz"
IGNORING = Recipe(cases=6, shape=VOLUME.shape, labels={"background": 0, "left": 1, "ignore": 2})


def _intensity(name: str, value: float) -> Making:
    """Enter an image with one such voxel; verification must refuse it."""

    @odd(f"image: {name}", "unreadable-image", names=IMAGE, says="NaN or infinite")
    def make(raw: Path) -> None:
        voxels_zyx = make_phantom(VOLUME).voxels_czyx[0].astype(np.float64)
        voxels_zyx[3, 3, 3] = value
        rewrite(image(raw), voxels_zyx)

    return make


_intensity("a voxel that is not a number", math.nan)
_intensity("an infinite voxel", math.inf)
_intensity("a voxel too large for 32-bit floats", 1e300)


@odd("image: all voxels 0", "constant-image", says="0 everywhere")
def all_zero(raw: Path) -> None:
    rewrite(image(raw), np.zeros(VOLUME.shape, np.int16))


@odd("image: all voxels alike", "constant-image", says="100 everywhere")
def constant(raw: Path) -> None:
    rewrite(image(raw), np.full(VOLUME.shape, 100, np.int16))


@odd("image: second channel empty", "constant-image", recipe=TWO_CHANNELS, says="channel 1")
def constant_channel(raw: Path) -> None:
    rewrite(image(raw, channel=1), np.zeros(VOLUME.shape, np.int16))


@odd("image: second channel a copy of the first", "duplicate-channel", recipe=TWO_CHANNELS, says="copy")
def copied_channel(raw: Path) -> None:
    image(raw, channel=1).write_bytes(image(raw).read_bytes())


@odd("images: channel named CT without a value below 0", "unlikely-ct", names="CT", says="Hounsfield")
def not_ct(raw: Path) -> None:
    edit(raw, channel_names={"0": "CT"})


def _labels(name: str, voxels_zyx: npt.NDArray[np.generic], *kinds: str, says: str = "") -> Making:
    """Enter a label file with such values."""

    @odd(f"labels: {name}", *kinds, names=LABEL, says=says)
    def make(raw: Path) -> None:
        rewrite(label(raw), voxels_zyx)

    return make


UNREADABLE = "unreadable-label"
_labels("value 0.5", labels_of([0, 1, 0.5], np.float32), UNREADABLE, says="no integers")
_labels("not a number", labels_of([0, 1, math.nan], np.float32), UNREADABLE, says="no integers")
_labels("infinite", labels_of([0, 1, math.inf], np.float64), UNREADABLE, says="no integers")
_labels("integers beyond 32 bits", labels_of([0, 1, 2**40], np.int64), UNREADABLE, says="number them from 0")
_labels(
    "smoothed edges, as floats", labels_of([0, 0.25, 0.5, 0.75, 1], np.float32), UNREADABLE, says="smoothed"
)

UNDECLARED = "undeclared-label"
_labels("smoothed edges, as integers", labels_of([*range(40)]), UNDECLARED, says="smoothed")
_labels("-1", labels_of([0, 1, -1]), UNDECLARED, says="count from 0")
_labels(
    "0 and 255 of an image editor", labels_of([0, 255], np.uint8), UNDECLARED, says="write 1 instead of 255"
)
_labels("255 beside declared ones", labels_of([0, 1, 255], np.uint8), UNDECLARED, says='"ignore": 3')
_labels("300, which is not declared", labels_of([0, 1, 300]), UNDECLARED, says="300")
_labels(
    "an image instead of labels", make_phantom(VOLUME).voxels_czyx[0], UNDECLARED, says="is this an image"
)


@fine("labels: integers written as floats")
def whole_floats(raw: Path) -> None:
    rewrite(label(raw), make_phantom(VOLUME).labels_zyx.astype(np.float64))


@fine("labels: 64-bit integers")
def wide_integers(raw: Path) -> None:
    rewrite(label(raw), make_phantom(VOLUME).labels_zyx.astype(np.int64))


@odd("labels: nothing marked in one case", "empty-reference", says="marks nothing")
def one_empty(raw: Path) -> None:
    rewrite(label(raw), np.zeros(VOLUME.shape, np.uint8))


@odd("labels: one case not annotated at all", "empty-reference", recipe=IGNORING, says="its values are 2")
def all_ignored(raw: Path) -> None:
    rewrite(label(raw), np.full(VOLUME.shape, 2, np.uint8))


@odd(
    "labels: nothing marked in any case",
    "no-foreground",
    "empty-reference",
    "unused-label",
    names="6 label files",
)
def none_marked(raw: Path) -> None:
    for number in range(VOLUME.cases):
        rewrite(label(raw, number), np.zeros(VOLUME.shape, np.uint8))


@odd("labels: only ignored voxels beside background", "no-foreground", "empty-reference", "unused-label",
     names="6 label files", recipe=IGNORING)  # fmt: skip
def only_ignored(raw: Path) -> None:
    for number in range(VOLUME.cases):
        rewrite(label(raw, number), labels_of([0, 2], np.uint8))


@odd("labels: a declared one occurs nowhere", "unused-label", names="dataset.json", says="labels 3")
def unused(raw: Path) -> None:
    edit(raw, labels={"background": 0, "left": 1, "right": 2, "never": 3})


@odd(
    "labels: written as RGBA picture",
    "unreadable-label",
    names=f"{FIRST}.png",
    recipe=GREY_PICTURE,
    says="4 channels",
)
def rgba_labels(raw: Path) -> None:
    Image.fromarray(np.zeros((*GREY_PICTURE.shape[1:], 4), np.uint8)).save(label(raw))


@odd(
    "labels: written as RGB picture",
    "unreadable-label",
    names=f"{FIRST}.png",
    recipe=GREY_PICTURE,
    says="3 channels",
)
def rgb_labels(raw: Path) -> None:
    Image.fromarray(np.zeros((*GREY_PICTURE.shape[1:], 3), np.uint8)).save(label(raw))


@odd("labels: two channels in one file", "unreadable-label", names=LABEL, says="2 channels")
def two_channel_labels(raw: Path) -> None:
    volume_zyx = make_phantom(VOLUME).labels_zyx.astype(np.uint8)
    write_series(label(raw), [volume_zyx, volume_zyx])
