"""No damaged or unsuitable file is ever read as if it were whole."""

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image as Picture

from core.errors import ImageError
from core.io.image import VALUE_LIMIT
from core.io.readers import read_header, read_image, read_labels, reader_for_file
from tests.factories import Recipe, make_phantom, write_array

FORMATS = {
    ".nii": Recipe(shape=(5, 11, 12)),
    ".nii.gz": Recipe(shape=(5, 11, 12)),
    ".nrrd": Recipe(shape=(5, 11, 12)),
    ".mha": Recipe(shape=(5, 11, 12)),
    ".gipl": Recipe(shape=(5, 11, 12)),
    ".tif": Recipe(shape=(5, 11, 12)),
    ".png": Recipe(shape=(1, 30, 31)),
    ".bmp": Recipe(shape=(1, 30, 31)),
}
CHECKED = (".nii.gz", ".nrrd", ".mha", ".tif", ".png")
"""Formats with checksums; in the others a changed voxel is as good as any other."""


def read(path: Path) -> np.ndarray:
    return read_image([path], reader_for_file(path)).voxels_czyx


def made(folder: Path, ending: str) -> Path:
    recipe = FORMATS[ending]
    stored = np.uint8 if ending in {".png", ".bmp"} else np.int16
    return write_array(make_phantom(recipe).voxels_czyx[0].astype(stored), folder / f"whole{ending}", recipe)


def nifti(folder: Path, change: Callable[[bytearray], None]) -> Path:
    """Write a plain NIfTI-1 file of 3 x 4 x 5 16-bit voxels and change its header."""
    content = bytearray(write_array(np.ones((3, 4, 5), np.int16), folder / "a.nii").read_bytes())
    change(content)
    path = folder / "changed.nii"
    path.write_bytes(content)
    return path


def put(form: str, offset: int, *values: float | bytes) -> Callable[[bytearray], None]:
    return lambda content: struct.pack_into(form, content, offset, *values)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("left", [0.0, 0.02, 0.3, 0.7, 0.99])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, ending: str, left: float) -> None:
    content = made(tmp_path, ending).read_bytes()
    path = tmp_path / f"cut{ending}"
    path.write_bytes(content[: int(left * len(content))])

    with pytest.raises(ImageError, match=f"cut{ending}"):
        read(path)


@pytest.mark.parametrize("ending", CHECKED)
def test_no_flipped_bit_changes_a_voxel_unnoticed(tmp_path: Path, ending: str) -> None:
    whole = made(tmp_path, ending)
    content, voxels_czyx = whole.read_bytes(), read(whole)
    path = tmp_path / f"flipped{ending}"
    refused = 0
    for position in np.random.default_rng(3).integers(len(content) // 4, len(content), 40).tolist():
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        try:
            assert np.array_equal(read(path), voxels_czyx)
        except ImageError:
            refused += 1

    assert refused >= 20


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_a_missing_gzip_trailer_is_noticed(tmp_path: Path, ending: str) -> None:
    path = made(tmp_path, ending)
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(ImageError, match="end early"):
        read(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd"])
def test_trailing_bytes_are_refused(tmp_path: Path, ending: str) -> None:
    path = made(tmp_path, ending)
    path.write_bytes(path.read_bytes() + b"something else")

    with pytest.raises(ImageError, match="damaged"):
        read(path)


def test_concatenated_gzip_members_are_one_file(tmp_path: Path) -> None:
    whole = made(tmp_path, ".nii.gz")
    content = gzip.decompress(whole.read_bytes())
    path = tmp_path / "members.nii.gz"
    path.write_bytes(b"".join(gzip.compress(part) for part in (content[:500], content[500:])))

    assert np.array_equal(read(path), read(whole))


def test_a_web_page_is_no_image(tmp_path: Path) -> None:
    for ending in FORMATS:
        path = tmp_path / f"page{ending}"
        path.write_bytes(b"<!doctype html><html><body>Not found</body></html>" * 20)

        with pytest.raises(ImageError, match=f"page{ending}"):
            read_header(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("<8f", 76, 1, np.nan, 1, 1, 0, 0, 0, 0), "spacing"),
        (put("<8f", 76, 1, 0, 1, 1, 0, 0, 0, 0), "spacing"),
        (put("<8f", 76, 1, np.inf, 1, 1, 0, 0, 0, 0), "spacing"),
        (put("<8f", 76, 1, 1e-30, 1, 1, 0, 0, 0, 0), "spacing|cannot be read|sheared"),
        (put("<8f", 76, 1, 1e30, 1, 1, 0, 0, 0, 0), "spacing|cannot be read|sheared"),
        (put("<2f", 112, 1, np.inf), "scl_slope"),
        (put("<8h", 40, 3, 32000, 32000, 32000, 1, 1, 1, 1), f"at most {VALUE_LIMIT}"),
        (put("<8h", 40, 3, 500, 500, 500, 1, 1, 1, 1), "too short"),
        (put("<8h", 40, 3, 0, 4, 5, 1, 1, 1, 1), "no voxels"),
        (put("<8h", 40, 3, -5, 4, 3, 1, 1, 1, 1), "no voxels"),
        (put("<8h", 40, 3, 5, 4, 2, 1, 1, 1, 1), "more voxels"),
        (put("<f", 108, np.nan), "byte nan"),
        (put("<f", 108, 1e9), r"byte 1e\+09"),
        (put("<h", 70, 32), "complex"),
        (put("<h", 70, 128), "ends after 120 of 180 bytes"),
        (put("<h", 70, 1536), "not one number each"),
        (put("<4s", 344, b"ni1\0"), "without voxels"),
        (put("<h12f", 254, 1, *[np.nan] * 12), "not finite"),
        (put("<h2x6f", 252, 1, 5, 5, 5, 0, 0, 0), "contradicts itself"),
    ],
)
def test_nifti_headers_are_not_believed_blindly(
    tmp_path: Path, change: Callable[[bytearray], None], words: str
) -> None:
    path = nifti(tmp_path, change)

    with pytest.raises(ImageError, match=words):
        read(path)


def test_an_untouched_nifti_header_is_read(tmp_path: Path) -> None:
    assert read(nifti(tmp_path, lambda _: None)).shape == (1, 3, 4, 5)


def test_a_negative_edge_is_as_long_as_a_positive_one(tmp_path: Path) -> None:
    path = nifti(tmp_path, put("<8f", 76, 1, -2, 1, 1, 0, 0, 0, 0))

    for reader in ("SimpleITKIO", "NibabelIO"):
        assert read_image([path], reader).geometry.spacing == (1, 1, 2)


@pytest.mark.parametrize("slope", [0, np.nan])
def test_no_slope_is_none(tmp_path: Path, slope: float) -> None:
    path = nifti(tmp_path, put("<2f", 112, slope, 5))

    assert np.unique(read_image([path], "NibabelIO").voxels_czyx).tolist() == [1]
    assert np.unique(read_image([path], "SimpleITKIO").voxels_czyx).tolist() == [6]


def test_stored_scaling_is_applied(tmp_path: Path) -> None:
    path = nifti(tmp_path, put("<2f", 112, 2.5, -3))

    assert np.unique(read(path)).tolist() == [-0.5]


def test_sheared_axes_are_explained(tmp_path: Path) -> None:
    path = nifti(tmp_path, put("<h12f", 254, 1, *[1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]))
    content = bytearray(path.read_bytes())
    struct.pack_into("<h", content, 252, 0)
    path.write_bytes(content)

    with pytest.raises(
        ImageError, match=r'sheared axes.*"overwrite_image_reader_writer": "NibabelIO".*qform'
    ):
        read_image([path], "SimpleITKIO")
    assert np.array_equal(read_image([path], "NibabelIO").voxels_czyx, np.ones((1, 3, 4, 5)))
    assert reader_for_file(path) == "NibabelIO"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_voxels_must_be_finite(tmp_path: Path, value: float) -> None:
    voxels_zyx = np.zeros((3, 4, 5))
    voxels_zyx[1, 1, 1:3] = value
    path = write_array(voxels_zyx, tmp_path / "a.nrrd")

    with pytest.raises(ImageError, match=r"a\.nrrd has 2 voxels that are NaN or infinite"):
        read(path)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_complex_numbers_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((3, 4, 5), np.complex64)), str(path))

    with pytest.raises(ImageError, match="of complex voxels the magnitude"):
        read(path)


def test_labels_are_no_vectors(tmp_path: Path) -> None:
    vectors = SimpleITK.GetImageFromArray(np.ones((3, 4, 5, 2), np.uint8), isVector=True)
    SimpleITK.WriteImage(vectors, str(tmp_path / "a.nrrd"))

    with pytest.raises(ImageError, match="2 channels; save labels as one"):
        read_labels(tmp_path / "a.nrrd", "SimpleITKIO")


@pytest.mark.parametrize(
    ("form", "at", "value", "words"),
    [
        (">4H", 0, (60000, 60000, 60000, 1), f"at most {VALUE_LIMIT}"),
        (">4H", 0, (12, 11, 6, 1), "too short"),
        (">4H", 0, (12, 11, 4, 1), "more voxels"),
        (">4H", 0, (0, 11, 4, 1), "0 voxels"),
        (">H", 8, (144,), "type 144"),
        (">3f", 10, (0, 1, 1), "spacing"),
        (">3f", 10, (np.nan, 1, 1), "spacing"),
        (">d", 204, (np.inf,), "not finite"),
        (">I", 252, (7,), "no GIPL image"),
    ],
)
def test_gipl_headers_are_not_believed_blindly(
    tmp_path: Path, form: str, at: int, value: tuple[float, ...], words: str
) -> None:
    content = bytearray(made(tmp_path, ".gipl").read_bytes())
    struct.pack_into(form, content, at, *value)
    path = tmp_path / "changed.gipl"
    path.write_bytes(content)

    with pytest.raises(ImageError, match=words):
        read_image([path], "SimpleITKIO")


@pytest.mark.parametrize(
    ("name", "header", "words"),
    [
        ("a.nrrd", "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: /etc/passwd\n\n", "another file"),
        ("a.nrrd", "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: bzip2\n\n", "bzip2"),
        ("a.nrrd", "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nbyte skip: 9\nencoding: raw\n\n", "skips"),
        ("a.mha", "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = /etc/passwd\n", "another file"),
        ("a.mha", "NDims = 3\nBinaryData = False\nDimSize = 2 2 2\nElementType = MET_SHORT\nElementDataFile = LOCAL\n", "plain binary"),
    ],
)  # fmt: skip
def test_headers_that_point_elsewhere_are_refused(tmp_path: Path, name: str, header: str, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(header.encode() + b"0123456789abcdef")

    with pytest.raises(ImageError, match=words):
        read_header(path)


def test_a_compressed_file_says_so_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(made(tmp_path, ".nii.gz").read_bytes())

    with pytest.raises(ImageError, match=r"rename it to a\.nii\.gz"):
        read_header(path)


def test_sixteen_bit_colors_are_not_cut_to_eight(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.full((4, 5, 3), 40000, np.uint16), isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / "a.png"))

    with pytest.raises(ImageError, match="16 bits per color"):
        read(tmp_path / "a.png")


def test_other_color_modes_are_refused(tmp_path: Path) -> None:
    Picture.fromarray(np.zeros((4, 5, 2), np.uint8), mode=None).save(tmp_path / "a.png")

    with pytest.raises(ImageError, match="color mode LA"):
        read(tmp_path / "a.png")


def test_labels_have_one_channel(tmp_path: Path) -> None:
    Picture.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "a.png")

    with pytest.raises(ImageError, match="3 channels; save labels as one"):
        read_labels(tmp_path / "a.png", "NaturalImage2DIO")


def test_channels_on_different_grids_are_refused_with_numbers(tmp_path: Path) -> None:
    voxels_zyx = make_phantom().voxels_czyx[0]
    first = write_array(voxels_zyx, tmp_path / "a_0000.mha", Recipe(spacing=(2.0, 1.0, 1.0)))
    second = write_array(voxels_zyx, tmp_path / "a_0001.mha", Recipe(spacing=(2.5, 1.0, 1.0)))

    with pytest.raises(ImageError, match=r"a_0000\.mha and a_0001\.mha.*\(2, 1, 1\) and \(2\.5, 1, 1\) mm"):
        read_image([first, second], "SimpleITKIO")


def test_a_side_car_without_spacing_is_explained(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6, 7), np.uint16))
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [1, 2]}))

    with pytest.raises(ImageError, match=r"a\.json must read"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("ending", "at", "content"),
    [
        (".gipl", 10, struct.pack(">f", np.inf)),
        (".gipl", 204, struct.pack(">d", np.nan)),
        (".nii", 76 + 4, struct.pack("<f", 0)),
    ],
)
@pytest.mark.parametrize("reader", ["SimpleITKIOWithReorient", "NibabelIOWithReorient"])
def test_headers_are_checked_before_images_are_turned(
    tmp_path: Path, ending: str, at: int, content: bytes, reader: str
) -> None:
    whole = bytearray(made(tmp_path, ending).read_bytes())
    whole[at : at + len(content)] = content
    (tmp_path / f"a{ending}").write_bytes(whole)

    with pytest.raises(ImageError, match=rf"a{ending} .*(spacing|not finite)"):
        read_header(tmp_path / f"a{ending}", reader)


def test_pages_that_form_a_circle_end(tmp_path: Path) -> None:
    content = bytearray(made(tmp_path, ".tif").read_bytes())
    first = struct.unpack_from("<I", content, 4)[0]
    entries = struct.unpack_from("<H", content, first)[0]
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)
    path = tmp_path / "circle.tif"
    path.write_bytes(content)

    with pytest.raises(ImageError, match="cannot be read"):
        read_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.nii\.gz does not exist"):
        read_image([tmp_path / "gone.nii.gz"], "SimpleITKIO")
