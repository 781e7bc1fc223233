from math import pi, radians

import numpy as np
import pytest

from core.training.spatial import (
    PatchGeometry,
    SpatialParameters,
    affine,
    initial_patch,
    needed_box,
    patch_geometry,
)
from tests.plans import small_plan

# Engine specification B 2.2, and the worked example of A 5.15.
INITIAL_PATCHES = [
    ((128, 128, 128), (205, 205, 205), 3),
    ((96, 160, 160), (191, 257, 219), 3),
    ((64, 192, 160), (178, 289, 200), 3),
    ((112, 160, 128), (208, 238, 196), 3),
    ((80, 192, 160), (194, 289, 210), 3),
    ((40, 56, 40), (73, 80, 64), 3),
    ((40, 224, 192), (40, 263, 263), 2),
    ((20, 256, 224), (20, 301, 301), 2),
    ((512, 512), (1, 602, 602), 2),
    ((320, 256), (1, 376, 376), 2),
    ((512, 256), (1, 659, 301), 2),
    ((384, 640), (1, 631, 752), 2),
]


def geometry_of(patch: tuple[int, ...]) -> PatchGeometry:
    _, configuration = small_plan([1] * len(patch), entries={"patch_size": list(patch)})
    return patch_geometry(configuration)


@pytest.mark.parametrize(("patch", "initial", "moving_axes"), INITIAL_PATCHES)
def test_initial_patch_is_that_of_the_specification(
    patch: tuple[int, ...], initial: tuple[int, ...], moving_axes: int
) -> None:
    geometry = geometry_of(patch)

    assert geometry.initial == initial
    assert geometry.moving_axes == moving_axes


@pytest.mark.parametrize(
    ("patch", "degrees"),
    [
        ((512, 512), 180),
        ((300, 200), 180),
        ((302, 200), 15),
        ((64, 192, 160), 30),
        ((63, 192, 160), 180),
        ((192, 64, 160), 30),
    ],
)
def test_rotation_range_follows_from_the_patch(patch: tuple[int, ...], degrees: float) -> None:
    assert geometry_of(patch).rotation == pytest.approx(radians(degrees))


def test_rotations_are_composed_in_the_order_of_the_specification() -> None:
    matrix = affine(SpatialParameters(angles=(0.1, 0.2, 0.3), scale=1))

    np.testing.assert_allclose(matrix[0], (0.936293, -0.275096, 0.218351), atol=5e-7)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)


def test_a_crop_needs_the_patch_and_nothing_more() -> None:
    assert needed_box(geometry_of((40, 56, 40)), None) == ((16, 56), (12, 68), (12, 52))


def test_initial_patch_counts_angles_up_to_a_right_one() -> None:
    assert initial_patch((320, 256), pi) == initial_patch((320, 256), pi / 2)


def test_the_heavier_augmentation_looks_at_a_larger_part() -> None:
    assert initial_patch((128, 128, 128), radians(30), 0.7) == (249, 249, 249)
    assert initial_patch((64, 192, 160), radians(30), 0.7) == (216, 351, 243)
    assert initial_patch((512, 256), radians(15), 0.7) == (801, 365)


@pytest.mark.parametrize(
    ("dummy_2d", "degrees", "moving_axes"), [(None, 180, 2), (True, 180, 2), (False, 30, 3)]
)
def test_slices_are_augmented_one_by_one_unless_the_settings_say_otherwise(
    dummy_2d: bool | None,  # noqa: FBT001 - a parameter of the test
    degrees: float,
    moving_axes: int,
) -> None:
    _, configuration = small_plan([1, 1, 1], entries={"patch_size": [40, 224, 192]})

    geometry = patch_geometry(configuration, dummy_2d=dummy_2d)

    assert geometry.rotation == pytest.approx(radians(degrees))
    assert geometry.moving_axes == moving_axes
    assert (geometry.initial[0] == 40) == (moving_axes == 2)


def test_a_patch_of_many_slices_may_be_augmented_slice_by_slice() -> None:
    _, configuration = small_plan([1, 1, 1], entries={"patch_size": [64, 64, 64]})

    geometry = patch_geometry(configuration, dummy_2d=True)

    assert geometry.initial[0] == 64
    assert geometry.moving_axes == 2


def test_axes_are_scaled_one_by_one() -> None:
    turn = SpatialParameters(angles=(0.1, 0.2, 0.3), scale=1)

    matrix = affine(SpatialParameters(angles=(0.1, 0.2, 0.3), scale=(0.8, 1, 1.2)))

    np.testing.assert_allclose(matrix, affine(turn) @ np.diag([0.8, 1, 1.2]))
