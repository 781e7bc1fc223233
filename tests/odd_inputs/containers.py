"""MetaImage, NRRD and GIPL: cut, and with headers that are wrong."""

import struct
from pathlib import Path

from tests.factories import write_array
from tests.odd_inputs.table import FIRST, VOLUME, Making, change, cut, image, label, labels_of, odd

UNREADABLE = "unreadable-image"


def _other_format(raw: Path, ending: str) -> Path:
    """Turn the whole dataset into another format, and return its first image."""
    for number in range(VOLUME.cases):
        for path in (image(raw, number), label(raw, number)):
            write_array(
                labels_of([0, 1, 2, *[1] * number]), path.with_name(path.name.replace(".nii.gz", ending))
            )
            path.unlink()
    description = raw / "dataset.json"
    description.write_text(description.read_text().replace(".nii.gz", ending))
    return image(raw)


@odd("MetaImage cut", "unreadable-image", names=f"{FIRST}_0000.mha")
def mha_cut(raw: Path) -> None:
    cut(_other_format(raw, ".mha"), 0.9)


@odd("MetaImage that keeps its voxels elsewhere", "unreadable-image", names=f"{FIRST}_0000.mha")
def mha_elsewhere(raw: Path) -> None:
    path = _other_format(raw, ".mha")
    path.write_bytes(path.read_bytes().replace(b"ElementDataFile = LOCAL", b"ElementDataFile = a.raw"))


@odd("NRRD cut", "unreadable-image", names=f"{FIRST}_0000.nrrd")
def nrrd_cut(raw: Path) -> None:
    cut(_other_format(raw, ".nrrd"), 0.9)


@odd("NRRD with one bit flipped", "unreadable-image", names=f"{FIRST}_0000.nrrd")
def nrrd_bit(raw: Path) -> None:
    change(_other_format(raw, ".nrrd"), lambda content: content.__setitem__(-20, content[-20] ^ 1))


@odd("NRRD with a compression that is not supported", "unreadable-image", names=f"{FIRST}_0000.nrrd")
def nrrd_encoding(raw: Path) -> None:
    path = _other_format(raw, ".nrrd")
    path.write_bytes(path.read_bytes().replace(b"encoding: gzip", b"encoding: lzma"))


def _header(name: str, ending: str, old: bytes, new: bytes) -> Making:
    """Enter a text header with another line; verification must refuse it."""

    @odd(name, UNREADABLE, names=f"{FIRST}_0000{ending}")
    def make(raw: Path) -> None:
        path = _other_format(raw, ending)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return make


_header("MetaImage: size 0", ".mha", b"DimSize = 12 14 10", b"DimSize = 0 14 10")
_header("MetaImage: negative size", ".mha", b"DimSize = 12 14 10", b"DimSize = -12 14 10")
_header(
    "MetaImage: size 10⁵ along each axis", ".mha", b"DimSize = 12 14 10", b"DimSize = 100000 100000 100000"
)
_header("MetaImage: size that is no number", ".mha", b"DimSize = 12 14 10", b"DimSize = a b c")
_header("MetaImage: spacing 0", ".mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 0 1 1")
_header("MetaImage: spacing not a number", ".mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = nan 1 1")
_header("MetaImage: type that does not exist", ".mha", b"MET_SHORT", b"MET_THING")
_header("MetaImage: origin beyond the moon", ".mha", b"Offset = 0 0 0", b"Offset = 1e300 0 0")
_header("NRRD: size 0", ".nrrd", b"sizes: 12 14 10", b"sizes: 0 14 10")
_header("NRRD: size 10⁵ along each axis", ".nrrd", b"sizes: 12 14 10", b"sizes: 100000 100000 100000")
_header("NRRD: fewer sizes than dimensions", ".nrrd", b"sizes: 12 14 10", b"sizes: 12 14")
_header("NRRD: axes that are not finite", ".nrrd", b"directions: (1,0,0)", b"directions: (nan,0,0)")
_header("NRRD: type that does not exist", ".nrrd", b"type: short", b"type: thing")
_header("NRRD: complex numbers", ".nrrd", b"type: short", b"type: complex")


@odd(
    "GIPL with an origin that comes of damage",
    UNREADABLE,
    names=f"{FIRST}_0000.gipl",
    says="beyond any scanner",
)
def gipl_origin(raw: Path) -> None:
    path = _other_format(raw, ".gipl")
    change(path, lambda content: struct.pack_into(">d", content, 204, 1e300))


@odd("GIPL cut", UNREADABLE, names=f"{FIRST}_0000.gipl")
def gipl_cut(raw: Path) -> None:
    cut(_other_format(raw, ".gipl"), 0.8)
