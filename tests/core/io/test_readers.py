"""Images come in and label maps go out with the geometry and the values that their files have."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from core.domain.dataset import DatasetDescription
from core.errors import ImageError, UnknownNameError
from core.io.image import Geometry, LabelArray, LabelMap, disagreement
from core.io.readers import (
    READERS,
    choose_reader,
    read_header,
    read_image,
    read_labels,
    reader_for_file,
    write_labels,
)
from tests.factories import Recipe, itk_image, make_phantom, rotation_xyz, write_array

OBLIQUE = Recipe(
    shape=(7, 9, 11),
    spacing=(2.5, 0.8, 0.7),
    origin_xyz=(-31.5, 12.25, 900.1),
    direction=rotation_xyz((12, -7, 33)),
)
VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
STRAIGHT = Recipe(shape=(7, 9, 11), spacing=(2.5, 0.5, 0.25), origin_xyz=(-31.5, 12.25, 900.1))
TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


def itk_says(path: Path) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    image: Any = SimpleITK.ReadImage(str(path))
    return image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def described(ending: str, reader: str | None = None) -> DatasetDescription:
    values = {"channel_names": {"0": "a"}, "labels": {"background": 0, "b": 1}, "numTraining": 1}
    return DatasetDescription.model_validate(
        {**values, "file_ending": ending, "overwrite_image_reader_writer": reader}
    )


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
@pytest.mark.parametrize("stored", TYPES)
def test_voxels_and_geometry_are_those_that_itk_reads(tmp_path: Path, ending: str, stored: str) -> None:
    voxels_zyx = np.random.default_rng(1).integers(0, 120, OBLIQUE.shape).astype(stored)
    path = write_array(voxels_zyx, tmp_path / f"a{ending}", OBLIQUE)

    image = read_image([path], "SimpleITKIO")

    geometry = image.geometry
    assert image.voxels_czyx.dtype == np.float32
    assert np.array_equal(image.voxels_czyx[0], voxels_zyx)
    assert (geometry.file_spacing_xyz, geometry.origin_xyz, geometry.direction) == itk_says(path)
    assert geometry.spacing == geometry.file_spacing_xyz[::-1]


@pytest.mark.parametrize("stored", ["u1", "i1", "u2", "i2", "f4", "f8"])
def test_gipl_is_read_as_itk_reads_it(tmp_path: Path, stored: str) -> None:
    voxels_zyx = np.random.default_rng(1).integers(0, 120, STRAIGHT.shape).astype(stored)
    path = write_array(voxels_zyx, tmp_path / "a.gipl", STRAIGHT)

    image = read_image([path], "SimpleITKIO")

    geometry = image.geometry
    assert np.array_equal(image.voxels_czyx[0], voxels_zyx)
    assert (geometry.file_spacing_xyz, geometry.origin_xyz, geometry.direction) == itk_says(path)


@pytest.mark.parametrize(("highest", "stored"), [(254, "u1"), (255, "u2")])
def test_gipl_holds_labels_on_straight_axes(tmp_path: Path, highest: int, stored: str) -> None:
    labels_zyx = make_phantom(STRAIGHT).labels_zyx * (highest // 2)
    labels_zyx[0, 0, 0] = highest
    geometry = read_header(write_array(labels_zyx, tmp_path / "a.gipl", STRAIGHT)).geometry

    write_labels(LabelMap(labels_zyx, geometry), tmp_path / "l.gipl", "SimpleITKIO")

    assert read_header(tmp_path / "l.gipl").stored_type == np.dtype(stored)
    assert read_header(tmp_path / "l.gipl").geometry == geometry
    assert np.array_equal(read_labels(tmp_path / "l.gipl", "SimpleITKIO").labels_zyx, labels_zyx)


def test_gipl_says_what_it_cannot_hold(tmp_path: Path) -> None:
    oblique = read_header(write_array(np.ones((3, 4, 5), np.uint8), tmp_path / "a.mha", OBLIQUE)).geometry
    straight = read_header(write_array(np.ones((3, 4, 5), np.uint8), tmp_path / "b.mha")).geometry
    labels_zyx = np.full((3, 4, 5), 70000)

    with pytest.raises(ImageError, match=r"no direction of axes; choose \.nii\.gz"):
        write_labels(LabelMap(np.ones((3, 4, 5), np.uint8), oblique), tmp_path / "l.gipl", "SimpleITKIO")
    with pytest.raises(ImageError, match=r"does not hold labels up to 70000.*choose \.nii\.gz"):
        write_labels(LabelMap(labels_zyx, straight), tmp_path / "l.gipl", "SimpleITKIO")


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_a_segmentation_lies_exactly_where_its_image_lies(tmp_path: Path, ending: str) -> None:
    phantom = make_phantom(OBLIQUE)
    source = write_array(phantom.voxels_czyx[0], tmp_path / f"image{ending}", OBLIQUE)
    image = read_image([source], "SimpleITKIO")
    target = tmp_path / f"labels{ending}"

    write_labels(LabelMap(phantom.labels_zyx, image.geometry), target, "SimpleITKIO")

    found = read_labels(target, "SimpleITKIO")
    assert np.array_equal(found.labels_zyx, phantom.labels_zyx)
    assert np.allclose(np.concatenate(itk_says(target)), np.concatenate(itk_says(source)), rtol=0, atol=1e-6)
    assert found.geometry.spacing == image.geometry.spacing
    assert list(tmp_path.glob(".writing-*")) == []


def test_nrrd_keeps_geometry_to_the_last_bit(tmp_path: Path) -> None:
    source = write_array(make_phantom(OBLIQUE).voxels_czyx[0], tmp_path / "image.nrrd", OBLIQUE)
    image = read_image([source], "SimpleITKIO")
    target = tmp_path / "labels.nrrd"

    write_labels(LabelMap(np.ones(OBLIQUE.shape, np.uint8), image.geometry), target, "SimpleITKIO")

    assert read_header(target).geometry == image.geometry


@settings(max_examples=40, deadline=None)
@given(
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.05, 9)] * 3),
    origin=st.tuples(*[st.floats(-2000, 2000)] * 3),
    flipped=st.booleans(),
    ending=st.sampled_from([".nii.gz", ".nrrd", ".mha"]),
)
def test_geometry_survives_reading_and_writing(
    tmp_path_factory: pytest.TempPathFactory,
    degrees: tuple[float, ...],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    *,
    flipped: bool,
    ending: str,
) -> None:
    folder = tmp_path_factory.mktemp("geometry")
    direction = np.reshape(rotation_xyz(degrees), (3, 3)) * ([1, 1, -1] if flipped else [1, 1, 1])
    recipe = Recipe(shape=(2, 3, 4), spacing=spacing, origin_xyz=origin, direction=direction.ravel().tolist())
    source = write_array(np.arange(24, dtype=np.int16).reshape(2, 3, 4), folder / f"image{ending}", recipe)

    image = read_image([source], "SimpleITKIO")
    write_labels(
        LabelMap(np.ones((2, 3, 4), np.uint8), image.geometry), folder / f"labels{ending}", "SimpleITKIO"
    )

    again = read_header(folder / f"labels{ending}").geometry
    assert again.spacing == pytest.approx(image.geometry.spacing, rel=1e-6)
    assert again.origin_xyz == pytest.approx(image.geometry.origin_xyz, rel=1e-6, abs=1e-6)
    assert again.direction == pytest.approx(image.geometry.direction, abs=1e-6)


def test_channels_are_read_in_the_order_of_their_files(tmp_path: Path) -> None:
    phantom = make_phantom(Recipe(channels=3))
    paths = [write_array(voxels, tmp_path / f"a_{i:04d}.mha") for i, voxels in enumerate(phantom.voxels_czyx)]

    image = read_image(paths, "SimpleITKIO")

    assert np.array_equal(image.voxels_czyx, phantom.voxels_czyx)
    assert image.shape == phantom.labels_zyx.shape


def test_a_fourth_axis_is_channels(tmp_path: Path) -> None:
    phantom = make_phantom(Recipe(channels=2, spacing=(3.0, 2.0, 1.0)))
    itk: Any = SimpleITK
    volumes = [itk_image(voxels, Recipe(spacing=(3.0, 2.0, 1.0))) for voxels in phantom.voxels_czyx]
    path = tmp_path / "series.nii.gz"
    itk.WriteImage(itk.JoinSeries(volumes), str(path))

    image = read_image([path], "SimpleITKIO")

    assert np.array_equal(image.voxels_czyx, phantom.voxels_czyx)
    assert image.geometry.spacing == (3.0, 2.0, 1.0)
    assert len(image.geometry.direction) == 9


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 5)])
def test_components_of_vectors_are_channels(tmp_path: Path, ending: str, shape: tuple[int, int, int]) -> None:
    voxels_zyxc = np.random.default_rng(1).integers(0, 200, (*shape, 3)).astype(np.uint8)
    itk: Any = SimpleITK
    vectors = itk.GetImageFromArray(voxels_zyxc if shape[0] > 1 else voxels_zyxc[0], isVector=True)
    itk.WriteImage(vectors, str(tmp_path / f"a{ending}"))

    image = read_image([tmp_path / f"a{ending}"], "SimpleITKIO")

    assert np.array_equal(image.voxels_czyx, np.moveaxis(voxels_zyxc, -1, 0))
    assert image.geometry.is_2d == (shape[0] == 1)


def test_channels_of_a_nrrd_may_follow_each_other(tmp_path: Path) -> None:
    voxels_czyx = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    header = "NRRD0004\ntype: uchar\ndimension: 4\nsizes: 5 4 3 2\nkinds: domain domain domain list\n"
    path = tmp_path / "a.nrrd"
    path.write_bytes(f"{header}encoding: raw\n\n".encode() + voxels_czyx.tobytes())

    assert np.array_equal(read_image([path], "SimpleITKIO").voxels_czyx, voxels_czyx)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_series_of_one_volume_is_a_volume(tmp_path: Path, ending: str) -> None:
    phantom = make_phantom(OBLIQUE)
    itk: Any = SimpleITK
    series = itk.JoinSeries([itk_image(phantom.voxels_czyx[0], OBLIQUE)])
    itk.WriteImage(series, str(tmp_path / f"a{ending}"))
    alone = read_header(write_array(phantom.voxels_czyx[0], tmp_path / f"b{ending}", OBLIQUE))

    image = read_image([tmp_path / f"a{ending}"], "SimpleITKIO")
    write_labels(LabelMap(phantom.labels_zyx, image.geometry), tmp_path / f"l{ending}", "SimpleITKIO")

    assert np.array_equal(image.voxels_czyx, phantom.voxels_czyx)
    assert disagreement(read_header(tmp_path / f"l{ending}"), alone) is None


def test_a_flat_volume_file_has_one_thick_slice(tmp_path: Path) -> None:
    recipe = Recipe(shape=(1, 8, 9), spacing=(1.0, 0.5, 0.6), origin_xyz=(3.0, 4.0, 0.0))
    labels_zyx = make_phantom(recipe).labels_zyx
    source = write_array(labels_zyx.astype(np.uint8), tmp_path / "flat.nrrd", recipe)

    found = read_labels(source, "SimpleITKIO")
    write_labels(found, tmp_path / "again.nrrd", "SimpleITKIO")

    assert found.labels_zyx.shape == (1, 8, 9)
    assert found.geometry.spacing == (999 * 0.6, 0.5, 0.6)
    assert itk_says(tmp_path / "again.nrrd") == itk_says(source)


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    voxels_zyx = make_phantom().voxels_czyx[0]
    z, y, x = voxels_zyx.shape
    header = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {x} {y} {z}\nendian: big\nencoding: raw\n\n"
    path = tmp_path / "big.nrrd"
    path.write_bytes(header.encode() + voxels_zyx.astype(">i2").tobytes())

    assert np.array_equal(read_image([path], "SimpleITKIO").voxels_czyx[0], voxels_zyx)


@pytest.mark.parametrize(
    ("highest", "stored"), [(1, "u1"), (254, "u1"), (255, "u2"), (65535, "u2"), (65536, "u4")]
)
@pytest.mark.parametrize("ending", [".nii.gz", ".tif"])
def test_label_type_is_wide_enough(tmp_path: Path, highest: int, stored: str, ending: str) -> None:
    labels_zyx = np.zeros((3, 4, 5), np.int32)
    labels_zyx[1, 2, 3] = highest
    source = write_array(labels_zyx.astype(np.int16), tmp_path / f"a{ending}")
    reader, path = reader_for_file(source), tmp_path / f"labels{ending}"

    write_labels(LabelMap(labels_zyx, read_header(source).geometry), path, reader)

    assert read_header(path, reader).stored_type == np.dtype(stored)
    assert np.array_equal(read_labels(path, reader).labels_zyx, labels_zyx)


def test_negative_labels_are_not_written(tmp_path: Path) -> None:
    geometry = read_header(write_array(make_phantom().voxels_czyx[0], tmp_path / "a.mha")).geometry

    with pytest.raises(ImageError, match="label -1 cannot be written"):
        write_labels(LabelMap(np.full((20, 28, 24), -1), geometry), tmp_path / "l.mha", "SimpleITKIO")


@pytest.mark.parametrize(
    ("ending", "channels"),
    [(".png", 1), (".png", 3), (".png", 4), (".bmp", 1), (".bmp", 3), (".tif", 1), (".tif", 3), (".tif", 4)],
)
def test_pictures_hold_all_channels_in_one_file(tmp_path: Path, ending: str, channels: int) -> None:
    voxels_yxc = np.random.default_rng(0).integers(0, 256, (13, 17, channels), dtype=np.uint8)
    path = tmp_path / f"a_0000{ending}"
    if ending == ".tif":
        tifffile.imwrite(path, voxels_yxc.squeeze(), photometric="rgb" if channels > 1 else "minisblack")
    else:
        Picture.fromarray(voxels_yxc.squeeze()).save(path)

    image = read_image([path], reader_for_file(path))

    assert np.array_equal(image.voxels_czyx, np.moveaxis(voxels_yxc, -1, 0)[:, None])
    assert image.geometry.spacing == (999.0, 1.0, 1.0)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_picture_labels_come_back(tmp_path: Path, ending: str) -> None:
    recipe = Recipe(shape=(1, 30, 40))
    labels_zyx = make_phantom(recipe).labels_zyx
    geometry = read_header(write_array(labels_zyx.astype(np.uint8), tmp_path / f"a{ending}", recipe)).geometry
    path = tmp_path / f"labels{ending}"

    write_labels(LabelMap(labels_zyx, geometry), path, "NaturalImage2DIO")

    assert np.array_equal(read_labels(path, "NaturalImage2DIO").labels_zyx, labels_zyx)


def test_a_color_table_names_labels_but_no_intensities(tmp_path: Path) -> None:
    picture = Picture.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode=None).convert("P")
    picture.putdata([0, 1, 2, 1])
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png")

    assert read_labels(tmp_path / "a.png", "NaturalImage2DIO").labels_zyx.tolist() == [[[0, 1], [2, 1]]]
    with pytest.raises(ImageError, match="color table"):
        read_image([tmp_path / "a.png"], "NaturalImage2DIO")


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colors_of_a_tiff_lie_side_by_side_or_one_after_the_other(tmp_path: Path, planar: str) -> None:
    voxels_cyx = np.random.default_rng(0).integers(0, 256, (3, 13, 17), dtype=np.uint8)
    stored = voxels_cyx if planar == "separate" else np.moveaxis(voxels_cyx, 0, -1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)

    image = read_image([tmp_path / "a.tif"], reader_for_file(tmp_path / "a.tif"))

    assert np.array_equal(image.voxels_czyx[:, 0], voxels_cyx)


def test_a_tiff_of_bits_holds_zeros_and_ones(tmp_path: Path) -> None:
    mask_yx = np.random.default_rng(0).random((13, 17)) > 0.5
    tifffile.imwrite(tmp_path / "a.tif", mask_yx)

    assert np.array_equal(read_labels(tmp_path / "a.tif", "NaturalImage2DIO").labels_zyx[0], mask_yx)


def test_a_stack_finds_its_spacing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    recipe = Recipe(spacing=(4.0, 0.3, 0.2))
    voxels_zyx = make_phantom(recipe).voxels_czyx[0]
    path = write_array(voxels_zyx, tmp_path / "imagesTr" / "a_0000.tif", recipe)

    image = read_image([path], reader_for_file(path))
    labels = LabelMap((voxels_zyx > 150).astype(np.uint8), image.geometry)
    write_labels(labels, tmp_path / "a.tif", "Tiff3DIO")

    assert reader_for_file(path) == "Tiff3DIO"
    assert image.geometry.spacing == (4.0, 0.3, 0.2)
    assert read_labels(tmp_path / "a.tif", "Tiff3DIO").geometry == image.geometry


@pytest.mark.parametrize("shape", [(3, 9, 11), (7, 9, 3), (4, 8, 6)])
def test_a_stack_that_its_writer_took_for_a_color_picture_is_a_stack(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    labels_zyx = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) % 3
    planes = "contig" if shape[-1] == 3 else "separate"
    tifffile.imwrite(tmp_path / "a.tif", labels_zyx, photometric="rgb", planarconfig=planes)

    image = read_image([tmp_path / "a.tif"], "Tiff3DIO")

    assert np.array_equal(image.voxels_czyx, labels_zyx[None])
    assert np.array_equal(read_labels(tmp_path / "a.tif", "Tiff3DIO").labels_zyx, labels_zyx)


def test_without_an_example_volumes_get_a_reader_of_volumes() -> None:
    for ending in (".tif", ".tiff"):
        assert choose_reader(described(ending), None, has_volumes=True) == "Tiff3DIO"
    assert choose_reader(described(".tif"), None) == "NaturalImage2DIO"


def test_a_stack_three_voxels_wide_is_no_color_picture(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6, 3), np.uint16), photometric="minisblack")

    assert reader_for_file(tmp_path / "a.tif") == "Tiff3DIO"
    assert not read_header(tmp_path / "a.tif").has_spacing


@pytest.mark.parametrize(
    ("ending", "shape", "reader"),
    [
        (".nii.gz", (4, 5, 6), "SimpleITKIO"),
        (".nii", (4, 5, 6), "NibabelIO"),
        (".nrrd", (4, 5, 6), "SimpleITKIO"),
        (".tif", (4, 5, 6), "Tiff3DIO"),
        (".tif", (1, 5, 6), "NaturalImage2DIO"),
        (".png", (1, 5, 6), "NaturalImage2DIO"),
    ],
)
def test_the_reader_of_a_dataset_is_the_references(
    tmp_path: Path, ending: str, shape: tuple[int, int, int], reader: str
) -> None:
    path = write_array(np.ones(shape, np.uint8), tmp_path / f"a{ending}", Recipe(shape=shape))

    assert choose_reader(described(ending), path) == reader


def test_a_dataset_may_insist_on_a_reader(tmp_path: Path) -> None:
    path = write_array(np.ones((2, 3, 4), np.uint8), tmp_path / "a.nii.gz")

    assert choose_reader(described(".nii.gz", "NibabelIO"), path) == "NibabelIO"
    assert choose_reader(described(".nii.gz", "None"), path) == "SimpleITKIO"
    with pytest.raises(UnknownNameError, match=r"os\.system"):
        choose_reader(described(".nii.gz", "os.system"), path)


def test_without_an_image_the_ending_decides() -> None:
    assert choose_reader(described(".nii.gz"), None) == "SimpleITKIO"
    assert choose_reader(described(".nii"), None) == "NibabelIO"
    with pytest.raises(ImageError, match=r"end in \.dcm cannot be read; give one of: \.nii\.gz"):
        choose_reader(described(".dcm"), None)


def test_permission_to_try_readers_of_other_endings(tmp_path: Path) -> None:
    nifti = write_array(np.ones((2, 3, 4), np.uint8), tmp_path / "a.nii.gz")
    stack = write_array(np.ones((2, 3, 4), np.uint8), tmp_path / "a.tif")

    assert choose_reader(described(".png"), nifti, permissive=True) == "SimpleITKIO"
    assert choose_reader(described(".nii.gz"), stack, permissive=True) == "Tiff3DIO"
    with pytest.raises(ImageError, match=r"a\.nii\.gz"):
        choose_reader(described(".png"), nifti)


@pytest.mark.parametrize("reader", list(READERS))
def test_a_models_own_reader_is_taken_where_it_knows_the_format(reader: str) -> None:
    for ending in READERS.get(reader).formats:
        assert reader_for_file(Path(f"a{ending}"), reader) == reader


def test_a_reorienting_reader_reads_all_volumes(tmp_path: Path) -> None:
    paths = [
        write_array(make_phantom(OBLIQUE).voxels_czyx[0], tmp_path / f"a{end}", OBLIQUE)
        for end in VOLUME_ENDINGS
    ]

    for reader in ("NibabelIOWithReorient", "SimpleITKIOWithReorient"):
        first, *others = (read_image([path], reader_for_file(path, reader)).voxels_czyx for path in paths)
        assert all(np.array_equal(first, other) for other in others)


def test_an_unknown_ending_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"x")

    with pytest.raises(ImageError, match=r"a\.dcm.*\.nii\.gz.*\.png"):
        read_header(tmp_path / "a.dcm")


def test_every_reader_has_a_name_that_plans_use() -> None:
    assert list(READERS) == [
        "NaturalImage2DIO",
        "SimpleITKIO",
        "Tiff3DIO",
        "NibabelIO",
        "NibabelIOWithReorient",
        "SimpleITKIOWithReorient",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda labels: labels + 0.5, "no integers"),
        (lambda labels: np.where(labels == 1, np.nan, labels), "no integers"),
        (lambda labels: labels * 1e12, "number them from 0"),
    ],
)
def test_label_values_must_be_integers(
    tmp_path: Path, change: Callable[[LabelArray], LabelArray], words: str
) -> None:
    path = write_array(change(make_phantom().labels_zyx.astype(np.float64)), tmp_path / "a.nrrd")

    with pytest.raises(ImageError, match=words):
        read_labels(path, "SimpleITKIO")


def test_labels_stored_as_floats_are_read(tmp_path: Path) -> None:
    labels_zyx = make_phantom().labels_zyx
    path = write_array(labels_zyx.astype(np.float32), tmp_path / "a.nii.gz")

    found = read_labels(path, "SimpleITKIO").labels_zyx

    assert found.dtype == np.int16
    assert np.array_equal(found, labels_zyx)


def test_geometry_is_json_and_back(tmp_path: Path) -> None:
    path = write_array(make_phantom(OBLIQUE).voxels_czyx[0], tmp_path / "a.nii.gz", OBLIQUE)

    geometry = read_header(path).geometry

    assert Geometry.model_validate_json(geometry.model_dump_json()) == geometry


@pytest.mark.parametrize(
    ("ending", "reader", "needed"),
    [
        (".nii.gz", "SimpleITKIO", set()),
        (".nii.gz", "NibabelIO", {"nibabel"}),
        (".nrrd", "SimpleITKIO", {"SimpleITK"}),
    ],
)
def test_a_file_loads_the_libraries_that_it_needs(
    tmp_path: Path, ending: str, reader: str, needed: set[str]
) -> None:
    """Each costs a command 30 to 70 ms."""
    path = write_array(make_phantom(OBLIQUE).voxels_czyx[0], tmp_path / f"a{ending}", OBLIQUE)
    program = (
        "import sys; from pathlib import Path; from core.io.readers import read_image\n"
        "read_image([Path(sys.argv[1])], sys.argv[2])\n"
        "print(*{'SimpleITK', 'nibabel', 'PIL', 'tifffile'} & sys.modules.keys())"
    )

    said = subprocess.check_output([sys.executable, "-c", program, path, reader], text=True)

    assert set(said.split()) == needed
