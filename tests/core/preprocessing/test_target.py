"""The grid after resampling: what the plan asks for, unless nothing or too much would be left of the image."""

import pytest

from core.domain.geometry import Shape, Spacing
from core.errors import ImageError
from core.preprocessing.resample import Grid
from core.preprocessing.target import target_grid
from tests.plans import small_plan

UNIT: Spacing = (1.0, 1.0, 1.0)
PLENTY = 2**40


def grid(shape: Shape, spacing: Spacing, target: tuple[float, ...], source: Shape | None = None) -> Shape:
    _, configuration = small_plan(target)
    image = Grid(shape, spacing)
    return target_grid(image, Grid(source or shape, spacing), configuration, 1, PLENTY).shape


@pytest.mark.parametrize(
    ("shape", "spacing", "target", "expected"),
    [
        ((40, 60, 50), UNIT, (1.0, 2.0, 0.5), (40, 30, 100)),
        ((12, 60, 50), UNIT, (12.5, 1.0, 1.0), (1, 60, 50)),
        ((1, 60, 50), UNIT, (9.0, 1.0, 1.0), (1, 60, 50)),
        ((40, 60, 50), UNIT, (2.0, 2.0), (40, 30, 25)),
        ((1, 1, 1), UNIT, (9.0, 9.0, 9.0), (1, 1, 1)),
    ],
)
def test_an_image_gets_the_shape_that_its_extent_has(
    shape: Shape, spacing: Spacing, target: tuple[float, ...], expected: Shape
) -> None:
    assert grid(shape, spacing, target) == expected


def test_a_small_box_of_a_large_image_may_become_one_voxel() -> None:
    assert grid((40, 60, 50), UNIT, (9.0, 9.0, 9.0), source=(2, 2, 2)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("target", "left"),
    [
        ((1000.0, 1000.0, 1000.0), "0.04 x 0.06 x 0.05"),
        ((1.0, 1.0, 1000.0), "40 x 60 x 0.05"),
        ((45.0, 55.0, 50.0), "0.889 x 1.09 x 1"),
        ((1.0, 1e6, 1.0), "40 x 6e-05 x 50"),
        ((1000.0, 1000.0), "40 x 0.06 x 0.05"),
    ],
)
def test_an_image_of_which_nothing_would_be_left_is_refused(target: tuple[float, ...], left: str) -> None:
    with pytest.raises(ImageError) as raised:
        grid((40, 60, 50), UNIT, target)

    assert "40 x 60 x 50 voxels of [1, 1, 1] mm" in raised.value.message
    assert f"would become {left}, of which nothing" in raised.value.message
    assert "plans.json" in raised.value.message


@pytest.mark.parametrize("target", [(1e-6, 1e-6, 1e-6), (1e-9, 1e-9, 1.0), (1e-5, 0.01, 0.01)])
def test_an_image_that_no_memory_could_hold_is_refused(target: Spacing) -> None:
    with pytest.raises(ImageError, match=r"at the spacing \[.*more than the machine has"):
        grid((40, 60, 50), UNIT, target)


def test_an_image_that_keeps_its_grid_may_have_any_spacing() -> None:
    _, configuration = small_plan(
        (1000.0, 1000.0, 1000.0),
        entries={"resampling_fn_data": "no_resampling_hack", "resampling_fn_data_kwargs": {}},
    )
    image = Grid((40, 60, 50), UNIT)

    assert target_grid(image, image, configuration, 1).shape == (40, 60, 50)
