"""Turned images show the same voxels at the same places, and their label maps go back to where the file has them."""

import json
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from core.errors import ImageError
from core.io.image import Geometry, LabelMap, disagreement, orientation
from core.io.placement import copy_placement
from core.io.preview import upright
from core.io.readers import read_header, read_image, read_labels, write_labels
from tests.factories import Recipe, rotation_xyz, write_array

SHAPE = (3, 4, 5)
SPACING = (2.5, 0.8, 0.7)
ORIGIN = (-31.5, 12.25, 900.1)
STRAIGHT = [
    tuple((np.eye(3)[list(axes)] * signs).ravel().tolist())
    for axes in permutations(range(3))
    for signs in product((1.0, -1.0), repeat=3)
]
"""All 48 ways in which straight axes can run."""

TURNING = ("SimpleITKIOWithReorient", "NibabelIOWithReorient")
ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)
sitk: Any = SimpleITK
nib: Any = nibabel


def volume(path: Path, direction: tuple[float, ...]) -> Path:
    """Write 16-bit voxels that are all different."""
    voxels_zyx = np.random.default_rng(7).permutation(60).reshape(SHAPE).astype(np.int16)
    recipe = Recipe(shape=SHAPE, spacing=SPACING, origin_xyz=ORIGIN, direction=direction)
    return write_array(voxels_zyx, path, recipe)


def by_library(path: Path, reader: str) -> npt.NDArray[np.float32]:
    """Turn a file as the library does that a reader is named after."""
    if reader.startswith("SimpleITK"):
        turned = sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS")
        return np.asarray(sitk.GetArrayFromImage(turned), np.float32)
    turned = nib.as_closest_canonical(nib.load(path))
    return np.asarray(turned.get_fdata().T, np.float32)


def stored(path: Path) -> npt.NDArray[np.int64]:
    """Return the voxels as they lie in the file."""
    voxels: npt.NDArray[np.int64] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return voxels


def place(path: Path) -> tuple[Any, ...]:
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize("reader", TURNING)
@pytest.mark.parametrize("direction", STRAIGHT)
def test_every_straight_orientation_is_turned_and_turned_back(
    tmp_path: Path, direction: tuple[float, ...], reader: str
) -> None:
    path = volume(tmp_path / "image.nii.gz", direction)

    image = read_image([path], reader)
    labels_zyx = (image.voxels_czyx[0] > 20).astype(np.uint8)
    write_labels(LabelMap(labels_zyx, image.geometry), tmp_path / "labels.nii.gz", reader)

    assert np.array_equal(image.voxels_czyx[0], by_library(path, reader))
    assert orientation(image.geometry) == "RAS"
    assert np.array_equal(stored(tmp_path / "labels.nii.gz"), stored(path) > 20)
    assert np.concatenate(place(tmp_path / "labels.nii.gz")) == pytest.approx(
        np.concatenate(place(path)), abs=1e-5
    )
    assert np.array_equal(read_labels(tmp_path / "labels.nii.gz", reader).labels_zyx, labels_zyx)


@settings(max_examples=200, deadline=None)
@given(degrees=st.tuples(*[st.floats(-180, 180) | st.sampled_from([-135.0, -90, -45, 0, 45, 90, 135])] * 3))
def test_orientations_are_named_as_itk_names_them(degrees: tuple[float, ...]) -> None:
    direction = rotation_xyz(degrees)
    geometry = Geometry(
        spacing=(1, 1, 1), file_spacing_xyz=(1, 1, 1), origin_xyz=(0, 0, 0), direction=direction
    )

    by_itk = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
    assert orientation(geometry) == by_itk


@pytest.mark.parametrize("reader", TURNING)
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(degrees=ANGLES, flipped=st.booleans())
def test_oblique_images_are_turned_and_turned_back(
    tmp_path: Path, reader: str, ending: str, degrees: tuple[float, ...], *, flipped: bool
) -> None:
    direction = np.reshape(rotation_xyz(degrees), (3, 3)) * ([1, 1, -1] if flipped else [1, 1, 1])
    path = volume(tmp_path / f"image{ending}", tuple(direction.ravel().tolist()))

    image = read_image([path], reader)
    labels_zyx = (image.voxels_czyx[0] > 20).astype(np.uint8)
    write_labels(LabelMap(labels_zyx, image.geometry), tmp_path / f"labels{ending}", reader)
    copy_placement(path, tmp_path / f"labels{ending}")

    assert np.array_equal(stored(tmp_path / f"labels{ending}"), stored(path) > 20)
    assert place(tmp_path / f"labels{ending}") == place(path)


@pytest.mark.parametrize("reader", TURNING)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(degrees=ANGLES)
def test_oblique_images_are_turned_as_the_library_does(
    tmp_path: Path, reader: str, degrees: tuple[float, ...]
) -> None:
    path = volume(tmp_path / "image.nii.gz", rotation_xyz(degrees))

    assert np.array_equal(read_image([path], reader).voxels_czyx[0], by_library(path, reader))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entries=st.lists(st.floats(-3, 3), min_size=9, max_size=9), origin=st.tuples(*[st.floats(-99, 99)] * 3)
)
def test_sheared_axes_are_turned_and_turned_back(
    tmp_path: Path, entries: list[float], origin: tuple[float, ...]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(entries, (3, 3)).astype(np.float32)
    affine[:3, 3] = np.array(origin, np.float32)
    assume(np.linalg.cond(affine[:3, :3]) < 100)
    voxels_xyz = np.random.default_rng(7).permutation(60).reshape(SHAPE[::-1]).astype(np.int16)
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(voxels_xyz, affine), path)

    for reader in ("NibabelIO", "NibabelIOWithReorient"):
        image = read_image([path], reader)
        labels = LabelMap((image.voxels_czyx[0] > 20).astype(np.uint8), image.geometry)
        write_labels(labels, tmp_path / "labels.nii.gz", reader)

        written = nib.load(tmp_path / "labels.nii.gz")
        assert np.array_equal(written.get_fdata(), voxels_xyz > 20)
        assert np.array_equal(written.affine, nib.load(path).affine)
    assert np.array_equal(image.voxels_czyx[0], by_library(path, "NibabelIOWithReorient"))


@pytest.mark.parametrize("reader", TURNING)
@pytest.mark.parametrize("direction", STRAIGHT[::5])
def test_turned_arrays_lie_where_their_geometry_says(
    tmp_path: Path, direction: tuple[float, ...], reader: str
) -> None:
    path = volume(tmp_path / "image.nii.gz", direction)
    plain, turned = read_image([path], "SimpleITKIO"), read_image([path], reader)

    ours, theirs = (upright(image.voxels_czyx[0], image.geometry) for image in (plain, turned))

    assert np.array_equal(ours[0], theirs[0])
    assert ours[1] == pytest.approx(theirs[1])


@pytest.mark.parametrize("reader", TURNING)
def test_an_image_and_its_labels_may_be_stored_in_different_orientations(tmp_path: Path, reader: str) -> None:
    path = volume(tmp_path / "image.nii.gz", STRAIGHT[0])
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "PIR"), str(tmp_path / "labels.nii.gz"))

    image, labels = read_image([path], reader), read_labels(tmp_path / "labels.nii.gz", reader)

    assert disagreement(read_header(path, reader), read_header(tmp_path / "labels.nii.gz", reader)) is None
    assert np.array_equal(image.voxels_czyx[0], labels.labels_zyx)
    assert disagreement(read_header(path), read_header(tmp_path / "labels.nii.gz")) is not None


@pytest.mark.parametrize("reader", TURNING)
def test_channels_may_be_stored_in_different_orientations(tmp_path: Path, reader: str) -> None:
    first = volume(tmp_path / "a_0000.nii.gz", STRAIGHT[0])
    second = tmp_path / "a_0001.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(first)), "ASL"), str(second))

    image = read_image([first, second], reader)

    assert np.array_equal(image.voxels_czyx[0], image.voxels_czyx[1])


@pytest.mark.parametrize("reader", TURNING)
@pytest.mark.parametrize(("highest", "kind"), [(254, "u1"), (255, "u2"), (70000, "u4")])
def test_labels_keep_their_values_when_turned_back(
    tmp_path: Path, reader: str, highest: int, kind: str
) -> None:
    path = volume(tmp_path / "image.nii.gz", STRAIGHT[10])
    labels_zyx = np.zeros(read_header(path, reader).shape, np.int32)
    labels_zyx[0, 0, 0] = highest

    write_labels(LabelMap(labels_zyx, read_header(path, reader).geometry), tmp_path / "l.nii.gz", reader)

    assert read_header(tmp_path / "l.nii.gz").stored_type == np.dtype(kind)
    assert stored(tmp_path / "l.nii.gz").max() == highest


@pytest.mark.parametrize("reader", TURNING)
def test_volumes_of_a_series_are_turned_alike(tmp_path: Path, reader: str) -> None:
    single = volume(tmp_path / "a.nii.gz", STRAIGHT[13])
    image = sitk.ReadImage(str(single))
    sitk.WriteImage(sitk.JoinSeries([image, image + 100]), str(tmp_path / "series.nii.gz"))

    series_czyx = read_image([tmp_path / "series.nii.gz"], reader).voxels_czyx

    alone_czyx = read_image([single], reader).voxels_czyx
    assert np.array_equal(series_czyx, np.concatenate([alone_czyx, alone_czyx + 100]))


@pytest.mark.parametrize("reader", TURNING)
def test_a_plane_has_no_orientation(tmp_path: Path, reader: str) -> None:
    path = write_array(np.ones((1, 4, 5), np.uint8), tmp_path / "a.nii.gz", Recipe(shape=(1, 4, 5)))

    with pytest.raises(ImageError, match=r"a\.nii\.gz is a 2D image.*SimpleITKIO"):
        read_header(path, reader)


def test_axes_that_run_the_same_way_cannot_be_turned(tmp_path: Path) -> None:
    flat = np.eye(4)
    flat[2, 2] = 0
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), None)
    image.set_sform(flat, 1)
    nib.save(image, tmp_path / "a.nii")

    with pytest.raises(ImageError, match=r"a\.nii cannot be reoriented"):
        read_header(tmp_path / "a.nii", "NibabelIOWithReorient")


def test_a_turned_geometry_is_json_and_back(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.nii.gz", STRAIGHT[20])

    geometry = read_header(path, "SimpleITKIOWithReorient").geometry

    assert geometry.turn is not None
    assert geometry.turn.stored == read_header(path, "SimpleITKIO").geometry
    assert Geometry.model_validate_json(geometry.model_dump_json()) == geometry


def test_a_geometry_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    geometry = read_header(volume(tmp_path / "a.nii.gz", STRAIGHT[0])).geometry
    earlier = geometry.to_json()
    del earlier["turn"]

    assert Geometry.model_validate_json(json.dumps(earlier)) == geometry
