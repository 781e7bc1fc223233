"""A label map lies where its image lies, to the last bit."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.io.placement import copy_placement
from core.io.readers import read_image, read_labels, reader_for_file, write_labels
from tests.factories import Recipe, make_phantom, rotation_xyz, write_array

EDGE = st.floats(0.3, 5)
ANGLE = st.floats(-180, 180)
PLACE = st.floats(-300, 300)
SMALL = Recipe(shape=(3, 4, 5), margin=0)


def labels_of(image: Path, path: Path) -> Path:
    """Write a label map as a prediction does."""
    read = read_image([image], reader_for_file(image))
    labels = read_labels(write_array(make_phantom(SMALL).labels_zyx, path, SMALL), reader_for_file(path))
    write_labels(replace(labels, geometry=read.geometry), path, reader_for_file(path))
    copy_placement(image, path)
    return path


def place(path: Path) -> tuple[Any, ...]:
    image: Any = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@given(
    spacing=st.tuples(EDGE, EDGE, EDGE),
    angles=st.tuples(ANGLE, ANGLE, ANGLE),
    origin=st.tuples(PLACE, PLACE, PLACE),
)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_geometry_comes_back_to_the_last_bit(
    tmp_path: Path,
    ending: str,
    spacing: tuple[float, float, float],
    angles: tuple[float, float, float],
    origin: tuple[float, float, float],
) -> None:
    oblique = replace(SMALL, spacing=spacing, direction=rotation_xyz(angles), origin_xyz=origin)
    image = write_array(make_phantom(oblique).voxels_czyx[0], tmp_path / f"image{ending}", oblique)

    labels = labels_of(image, tmp_path / f"labels{ending}")

    assert place(labels) == place(image)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(labels))), make_phantom(SMALL).labels_zyx)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_another_format_keeps_its_own_entries(tmp_path: Path, ending: str) -> None:
    image = write_array(make_phantom(SMALL).voxels_czyx[0], tmp_path / "image.nrrd", SMALL)
    labels = write_array(make_phantom(SMALL).labels_zyx, tmp_path / f"labels{ending}", SMALL)
    before = labels.read_bytes()

    copy_placement(image, labels)

    assert labels.read_bytes() == before


def test_units_and_codes_of_transforms_are_kept(tmp_path: Path) -> None:
    image = write_array(make_phantom(SMALL).voxels_czyx[0], tmp_path / "image.nii.gz", SMALL)
    content = bytearray(gzip.decompress(image.read_bytes()))
    content[123], content[252], content[254] = 2, 2, 4
    image.write_bytes(gzip.compress(bytes(content)))

    labels = labels_of(image, tmp_path / "labels.nii.gz")

    head = gzip.decompress(labels.read_bytes())
    assert (head[123], head[252], head[254]) == (2, 2, 4)
    assert place(labels) == place(image)


def test_an_image_of_the_other_byte_order_places_its_labels(tmp_path: Path) -> None:
    oblique = replace(SMALL, spacing=(2.5, 0.8, 1.1), direction=rotation_xyz((10, -20, 35)))
    little = write_array(make_phantom(oblique).voxels_czyx[0], tmp_path / "little.nii", oblique)
    image = tmp_path / "image.nii"
    image.write_bytes(_swapped(little.read_bytes()))
    assert place(image) == place(little)

    labels = labels_of(image, tmp_path / "labels.nii")

    assert place(labels) == place(image)


def test_a_space_of_other_axes_is_kept(tmp_path: Path) -> None:
    image = write_array(make_phantom(SMALL).voxels_czyx[0], tmp_path / "image.nrrd", SMALL)
    content = image.read_bytes().replace(b"left-posterior-superior", b"right-anterior-superior")
    image.write_bytes(content)

    labels = labels_of(image, tmp_path / "labels.nrrd")

    assert b"space: right-anterior-superior" in labels.read_bytes()
    assert place(labels) == place(image)


def _swapped(content: bytes) -> bytes:
    """Turn a little-endian NIfTI-1 file with 16-bit voxels into a big-endian one."""
    form = [("i4", 0, 1), ("i4", 32, 1), ("i2", 36, 1), ("i2", 40, 8), ("f4", 56, 3), ("i2", 68, 4)]
    form += [("f4", 76, 11), ("i2", 120, 1), ("f4", 124, 4), ("i4", 140, 2), ("i2", 252, 2), ("f4", 256, 18)]
    swapped = bytearray(content)
    for kind, offset, count in [*form, ("i2", 352, (len(content) - 352) // 2)]:
        entries = np.frombuffer(content, f"<{kind}", count, offset).astype(f">{kind}").tobytes()
        swapped[offset : offset + len(entries)] = entries
    return bytes(swapped)
