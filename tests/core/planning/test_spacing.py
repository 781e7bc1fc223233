"""The target spacing, axis order and lower resolution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.geometry import Spacing
from core.errors import PlanningError
from core.planning.spacing import (
    coarsened,
    median_resampled_shape,
    percentile,
    slices_first,
    target_spacing,
    transposed_median,
)

ACDC_SPACINGS = [(10.0, 1.5625, 1.5625)] * 150 + [(5.0, 1.4, 1.4)] * 50
ACDC_SHAPES = [(9, 237, 208)] * 100 + [(10, 230, 200)] * 100

edges = st.floats(min_value=0.1, max_value=12.0)
spacing_lists = st.lists(st.tuples(edges, edges, edges), min_size=1, max_size=12)


def test_thick_slices_take_the_low_percentile() -> None:
    assert target_spacing(ACDC_SPACINGS, ACDC_SHAPES) == (5.0, 1.5625, 1.5625)


def test_thick_slices_never_become_finer_than_the_plane() -> None:
    spacings = [(0.5, 1.0, 1.0)] * 5 + [(5.0, 1.0, 1.0)] * 20

    assert target_spacing(spacings, [(20, 256, 256)] * 25) == (1.0 + 1e-5, 1.0, 1.0)


def test_a_coarse_but_long_axis_keeps_its_median() -> None:
    spacings = [(1.0, 1.0, 1.0)] * 5 + [(5.0, 1.0, 1.0)] * 20

    assert target_spacing(spacings, [(200, 256, 256)] * 25) == (5.0, 1.0, 1.0)


def test_an_axis_of_exactly_three_times_the_spacing_is_not_anisotropic() -> None:
    spacings = [(1.0, 1.0, 1.0)] * 5 + [(3.0, 1.0, 1.0)] * 20

    assert target_spacing(spacings, [(20, 256, 256)] * 25) == (3.0, 1.0, 1.0)


def test_without_cases_there_is_no_target() -> None:
    with pytest.raises(PlanningError, match="training cases"):
        target_spacing([], [])


@given(spacing_lists, st.tuples(*[st.integers(1, 500)] * 3))
def test_target_lies_within_what_was_acquired(spacings: list[Spacing], shape: tuple[int, int, int]) -> None:
    target = target_spacing(spacings, [shape] * len(spacings))

    for axis, edge in enumerate(target):
        acquired = [spacing[axis] for spacing in spacings]
        assert min(acquired) * (1 - 1e-12) <= edge <= max(acquired) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("spacing", "axes"),
    [
        ((1.0, 1.0, 1.0), (0, 1, 2)),
        ((0.7, 4.5, 0.7), (1, 0, 2)),
        ((0.7, 0.8, 0.9), (2, 0, 1)),
        ((0.7, 0.9, 0.9), (1, 0, 2)),
    ],
)
def test_the_coarsest_axis_comes_first(spacing: Spacing, axes: tuple[int, int, int]) -> None:
    assert slices_first(spacing) == axes


def test_median_shape_counts_voxels_at_the_target() -> None:
    target = (5.0, 1.5625, 1.5625)

    assert median_resampled_shape(ACDC_SPACINGS, ACDC_SHAPES, target) == (18.0, 233.5, 204.0)


def test_median_shape_as_acquired_rounds_half_to_even() -> None:
    assert transposed_median(ACDC_SHAPES, (0, 1, 2)) == (10, 234, 204)


def test_lower_resolution_takes_thirty_steps_for_a_liver_scan() -> None:
    spacing: Spacing = (1.0, 0.7675, 0.7675)

    for _ in range(30):
        spacing = coarsened(spacing)

    assert spacing == pytest.approx((2.427262, 1.862924, 1.862924), abs=1e-6)


def test_axes_far_finer_than_the_coarsest_are_coarsened_alone() -> None:
    assert coarsened((3.0, 1.0, 2.0)) == (3.0, 1.03, 2.0)


@given(st.lists(edges, min_size=1, max_size=40), st.sampled_from([0, 0.5, 10, 50, 99.5, 100]))
def test_percentiles_are_those_of_numpy_to_the_last_bit(values: list[float], share: float) -> None:
    assert percentile(values, share) == np.percentile(values, share)
