"""NIfTI headers that are wrong, and some that only look so."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np

from tests.odd_inputs.table import FIRST, PLAIN, Making, change, fine, image, label, odd, put

IMAGE = f"{FIRST}_0000.nii"

DIMENSIONS, DATA_TYPE, SPACING, VOXELS_AT, SCALING, UNITS = 40, 70, 76, 108, 112, 123
QFORM_CODE, SFORM_CODE, QUATERNION, SFORM, MAGIC = 252, 254, 256, 280, 344
"""Byte offsets in a NIfTI-1 header; nifti1.h of nifti.nimh.nih.gov."""

UNREADABLE = "unreadable-image"
Z, Y, X = PLAIN.shape


def _put(name: str, form: str, offset: int, *values: float, kinds: tuple[str, ...] = (UNREADABLE,)) -> Making:
    """Enter a header with other numbers in one place."""

    @odd(name, *kinds, names=IMAGE, recipe=PLAIN)
    def make(raw: Path) -> None:
        put(image(raw), form, offset, *values)

    return make


for name, sizes in {
    "size 0 along an axis": (3, 0, Y, Z, 1),
    "negative size": (3, X, -Y, Z, 1),
    "32767 voxels along each axis": (3, 32767, 32767, 32767, 1),
    "one axis": (1, X, 1, 1, 1),
    "no axis": (0, X, Y, Z, 1),
}.items():
    _put(f"header: {name}", "<5h", DIMENSIONS, *sizes)

for name, code in {
    "complex voxels": 32,
    "single bits": 1,
    "128-bit floats": 1536,
    "a type that does not exist": 999,
    "another type than the voxels": 64,
}.items():
    _put(f"header: {name}", "<h", DATA_TYPE, code)

for name, edge in {
    "0": 0.0,
    "not a number": math.nan,
    "infinite": math.inf,
    "a million kilometres": 1e12,
    "smaller than an atom": 1e-12,
}.items():
    _put(f"header: spacing {name}", "<f", SPACING + 8, edge)

for name, start in {
    "beyond the file": 1e6,
    "before the end of the header": 100.0,
    "not a number": math.nan,
}.items():
    _put(f"header: start of the voxels {name}", "<f", VOXELS_AT, start)

for name, slices in {"more voxels than the file": Z + 1, "fewer voxels than the file": Z - 1}.items():
    _put(f"header: {name}", "<4h", DIMENSIONS, 3, X, Y, slices, kinds=(UNREADABLE, "label-geometry"))

for name, code in {"RGB voxels": 128, "RGBA voxels": 2304}.items():
    _put(f"header: {name}", "<h", DATA_TYPE, code, kinds=(UNREADABLE, "channel-count"))

_put("header: more axes than NIfTI knows", "<h", DIMENSIONS, 9, kinds=("odd-header",))
_put("header: spacing negative", "<f", SPACING + 8, -1.0, kinds=("odd-header",))
_put("header: spacing in metres", "<b", UNITS, 1, kinds=("odd-header",))
_put("header: scaling of voxels infinite", "<2f", SCALING, math.inf, 0.0, kinds=("odd-header",))
_put("header: offset of scaling infinite", "<2f", SCALING, 1.0, math.inf)
_put("header: length of the header wrong", "<i", 0, 1234)


@odd("header: size 10⁵ x 10⁵ x 10⁵ (NIfTI-2)", UNREADABLE, names=IMAGE, recipe=PLAIN)
def enormous(raw: Path) -> None:
    image(raw).write_bytes(_nifti_2((100_000,) * 3) + bytes(1000))


@fine("NIfTI-2", recipe=PLAIN)
def nifti_2(raw: Path) -> None:
    voxels_zyx = np.random.default_rng(5).integers(0, 200, PLAIN.shape, np.int16)
    image(raw).write_bytes(_nifti_2((X, Y, Z)) + voxels_zyx.tobytes())


def _nifti_2(sizes_xyz: tuple[int, ...]) -> bytes:
    """Return header and extension flag of a NIfTI-2 file of 16-bit integers, 1 mm, at ITK's origin.

    Source:
        nifti2.h of nifti.nimh.nih.gov.
    """
    header = bytearray(544)
    struct.pack_into("<i8s2h8q", header, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16, 3, *sizes_xyz, 1, 1, 1, 1)
    struct.pack_into("<8d", header, 104, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<q2d", header, 168, 544, 1, 0)
    struct.pack_into("<2i", header, 344, 0, 1)
    struct.pack_into("<12d", header, 400, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0)
    return bytes(header)


@odd("header: sform and qform codes 0, so that only the spacing is known", "odd-header", names=IMAGE, says="does not say",
     recipe=PLAIN)  # fmt: skip
def no_codes(raw: Path) -> None:
    for number in range(PLAIN.cases):
        for path in (image(raw, number), label(raw, number)):
            put(path, "<2h", QFORM_CODE, 0, 0)


@fine("header: no scaling, written as slope 0", recipe=PLAIN)
def slope_0(raw: Path) -> None:
    put(image(raw), "<2f", SCALING, 0.0, 0.0)


@fine("big-endian file", recipe=PLAIN)
def big_endian(raw: Path) -> None:
    for path, form in ((image(raw), "h"), (label(raw), "B")):
        content = path.read_bytes()
        count = X * Y * Z
        head = _swapped(bytearray(content[:348]))
        voxels = struct.unpack(f"<{count}{form}", content[352:])
        path.write_bytes(head + bytes(4) + struct.pack(f">{count}{form}", *voxels))


def _swapped(header: bytearray) -> bytes:
    """Turn the numbers of a NIfTI-1 header round."""
    for form, offset in (
        ("i", 0), ("ih", 32), ("8h", 40), ("3f", 56), ("4h", 68), ("8f", 76), ("3fh", 108), ("4f2i", 124),
        ("2h", 252), ("6f", 256), ("12f", 280),
    ):  # fmt: skip
        struct.pack_into(f">{form}", header, offset, *struct.unpack_from(f"<{form}", header, offset))
    return bytes(header)


SHEARED = (-1, -0.5, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0)
"""An sform whose first two axes meet at 63 degrees."""


def _sform(path: Path, *entries: float) -> None:
    """Make an sform the only transform of a header."""
    put(path, "<2h", QFORM_CODE, 0, 1)
    put(path, "<12f", SFORM, *entries)


@odd(
    "header: sheared sform, where the reader takes it",
    "sheared-axes",
    names=IMAGE,
    says="63.4 degrees",
    recipe=PLAIN,
)
def sheared(raw: Path) -> None:
    for path in (image(raw), label(raw)):
        _sform(path, *SHEARED)


@odd("header: sheared sform, where ITK refuses it", UNREADABLE, names=f"{FIRST}_0000.nii.gz", says="sheared")
def sheared_for_itk(raw: Path) -> None:
    path = image(raw)
    path.write_bytes(gzip.decompress(path.read_bytes()))
    _sform(path, *SHEARED)
    path.write_bytes(gzip.compress(path.read_bytes()))


@odd(
    "header: spacing by pixdim and by sform differ", "sheared-axes", names=IMAGE, says="pixdim", recipe=PLAIN
)
def other_spacing(raw: Path) -> None:
    for path in (image(raw), label(raw)):
        _sform(path, -2, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0)


@odd("header: qform and sform differ", "odd-header", names=IMAGE, says="differ by up to 5 mm", recipe=PLAIN)
def two_transforms(raw: Path) -> None:
    for path in (image(raw), label(raw)):
        put(path, "<2h", QFORM_CODE, 1, 1)
        put(path, "<12f", SFORM, -1, 0, 0, 5, 0, -1, 0, 0, 0, 0, 1, 0)


@odd("header: sform not finite", UNREADABLE, names=IMAGE, recipe=PLAIN)
def sform_nan(raw: Path) -> None:
    _sform(image(raw), *[math.nan] * 12)


@odd("header: sform all 0", UNREADABLE, names=IMAGE, says="on top of each other", recipe=PLAIN)
def sform_zero(raw: Path) -> None:
    _sform(image(raw), *[0.0] * 12)


@odd("header: qform not finite", UNREADABLE, names=IMAGE, recipe=PLAIN)
def qform_nan(raw: Path) -> None:
    put(image(raw), "<2h", QFORM_CODE, 1, 0)
    put(image(raw), "<6f", QUATERNION, *[math.nan] * 6)


@odd("header: part of a pair of .hdr and .img", UNREADABLE, names=IMAGE, recipe=PLAIN)
def pair(raw: Path) -> None:
    change(image(raw), lambda content: content.__setitem__(slice(MAGIC, MAGIC + 3), b"ni1"))


@odd("header: label file with spacing 0", "unreadable-label", names=f"{FIRST}.nii", recipe=PLAIN)
def label_spacing(raw: Path) -> None:
    put(label(raw), "<f", SPACING + 4, 0.0)
