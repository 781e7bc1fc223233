"""The phantoms are what they claim to be."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.factories import Recipe, make_dataset, make_phantom, rotation_xyz


def test_ellipsoids_have_the_volume_of_their_formula() -> None:
    spacing = (3.0, 0.5, 0.8)
    phantom = make_phantom(Recipe(shape=(60, 70, 140), spacing=spacing))

    measured = {label: np.count_nonzero(phantom.labels_zyx == label) * np.prod(spacing) for label in (1, 2)}

    assert measured == pytest.approx(phantom.volumes_mm3, rel=0.02)


def test_the_same_recipe_gives_the_same_voxels() -> None:
    first, second = make_phantom(number=3), make_phantom(number=3)

    assert np.array_equal(first.voxels_czyx, second.voxels_czyx)
    assert not np.array_equal(first.voxels_czyx, make_phantom(number=4).voxels_czyx)


def test_a_dataset_has_one_file_per_case_and_channel(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=2, channels=2, ending=".nrrd"), held_out=1)

    assert len(list((tmp_path / "imagesTr").iterdir())) == 4
    assert len(list((tmp_path / "labelsTr").iterdir())) == 2
    assert len(list((tmp_path / "imagesTs").iterdir())) == 2
    assert json.loads((tmp_path / "dataset.json").read_text())["numTraining"] == 2


def test_directions_are_orthonormal() -> None:
    matrix = np.reshape(rotation_xyz((10, 20, 30)), (3, 3))

    assert np.allclose(matrix @ matrix.T, np.eye(3))
