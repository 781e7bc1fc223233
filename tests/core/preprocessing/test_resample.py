"""Interpolation between grids: the specification's vectors, and what must hold for every image."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from core.domain.geometry import Shape, Spacing
from core.domain.resampling import SplineArguments
from core.errors import PlanError, UnknownNameError
from core.io.image import FloatArray, LabelArray
from core.preprocessing.operators import NEGLIGIBLE, ROWS_PER_BLOCK, axis_operator, nearest, operator, taps
from core.preprocessing.resample import (
    RESAMPLINGS,
    Grid,
    Regridding,
    interpolated_rows,
    regrid_image,
    regrid_labels,
    resample_image,
    resample_labels,
    separate_axis,
    value_range,
)
from core.preprocessing.vote import LARGEST_WITH_HALF, vote

ISOTROPIC = (1.0, 1.0, 1.0)
SPLINE = SplineArguments(order=3)
LINEAR = SplineArguments(order=1)
TOGETHER = SplineArguments(order=3, force_separate_z=False)
APART = SplineArguments(order=3, force_separate_z=True)

SIDES = st.integers(1, 9)
SHAPES = st.tuples(SIDES, SIDES, SIDES)
SEEDS = st.integers(0, 2**32 - 1)
AXES = st.sampled_from([None, 0, 1, 2])
UNHURRIED = settings(deadline=None, max_examples=60)


def along_z(values: tuple[float, ...]) -> FloatArray:
    return np.tile(np.array(values, np.float32)[None, :, None, None], (1, 1, 2, 2))


def labels_along_z(values: tuple[int, ...]) -> LabelArray:
    return np.tile(np.array(values, np.int16)[:, None, None], (1, 2, 2))


def random_image(seed: int, shape: Shape) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)


def spread(voxels_czyx: FloatArray) -> float:
    return max(1.0, float(np.ptp(voxels_czyx)))


def random_labels(seed: int, shape: Shape) -> LabelArray:
    return np.random.default_rng(seed).integers(-1, 4, shape).astype(np.int16)


def zoomed(array: npt.NDArray[np.float64], shape: Shape, order: int) -> npt.NDArray[np.float64]:
    factors = [m / n for n, m in zip(array.shape, shape, strict=True)]
    found: npt.NDArray[np.float64] = ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True)
    return np.clip(found, array.min(), array.max())


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ((3, 1, 1), (1, 1, 1), None),
        ((3.01, 1, 1), (1, 1, 1), 0),
        ((1, 1, 1), (5, 1, 1), 0),
        ((0.2, 1, 1), (1, 1, 1), None),
        ((4, 1, 4), (1, 1, 1), None),
        ((1, 1, 5), (5, 1, 1), 2),
    ],
)
def test_which_axis_is_kept_apart(source: Spacing, target: Spacing, expected: int | None) -> None:
    assert separate_axis(source, target, None) == expected


def test_the_plan_can_decide_whether_an_axis_is_kept_apart() -> None:
    assert separate_axis((9, 1, 1), ISOTROPIC, force=False) is None
    assert separate_axis((2, 1, 1), ISOTROPIC, force=True) == 0
    assert separate_axis(ISOTROPIC, (9, 1, 1), force=True) is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (TOGETHER, (0, 0.2277517, 1.1302412, 2.8904214, 5.228458, 8.565035, 13.407998, 16)),
        (TOGETHER, (0.1502208, 4, 14.164294)),
        (LINEAR, (0, 0.4375, 1.1875, 3.0625, 5.5625, 8.6875, 12.9375, 16)),
        (APART, (0, 0, 1, 4, 4, 9, 16, 16)),
        (APART, (0, 4, 16)),
    ],
)
def test_the_image_vectors_of_the_specification(
    arguments: SplineArguments, expected: tuple[float, ...]
) -> None:
    spacing = (2.0, 1.0, 1.0)

    found_czyx = resample_image(
        along_z((0, 1, 4, 9, 16)), (len(expected), 2, 2), spacing, ISOTROPIC, arguments
    )

    assert found_czyx[0, :, 1, 0].tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    "expected", [(0, 0, 1, 1, 1, 2, -1, -1), (0, 1, -1), (0, 0, 1, 1, 1, 1, 2, 2, -1, -1)]
)
def test_the_label_vectors_of_the_specification(expected: tuple[int, ...]) -> None:
    found_zyx = resample_labels(
        labels_along_z((0, 1, 1, 2, -1)), (len(expected), 2, 2), ISOTROPIC, ISOTROPIC, LINEAR
    )

    assert found_zyx[:, 0, 1].tolist() == list(expected)


def test_both_rules_for_labels() -> None:
    block_zyx = np.array([[[1, 2], [3, 4]]], np.int16)
    row_zyx = np.array([[[1, 0]]], np.int16)

    assert vote(block_zyx, (1, 3, 3)).tolist() == [[[1, 2, 2], [3, 4, 4], [3, 4, 4]]]
    assert vote(block_zyx, (1, 3, 3), LARGEST_WITH_HALF).tolist() == [[[1, 2, 2], [3, 0, 4], [3, 4, 4]]]
    assert vote(row_zyx, (1, 1, 3)).tolist() == [[[1, 0, 0]]]
    assert vote(row_zyx, (1, 1, 3), LARGEST_WITH_HALF).tolist() == [[[1, 1, 0]]]
    assert vote(row_zyx[..., ::-1], (1, 1, 3)).tolist() == [[[0, 1, 1]]]


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 5), (7, 7), (9, 4), (40, 61), (80, 33)])
def test_an_operator_is_the_spline(order: int, n: int, m: int) -> None:
    values = np.random.default_rng(0).normal(size=n)

    found = axis_operator(n, m, order) @ values

    expected = ndimage.zoom(values, m / n, order=order, mode="nearest", grid_mode=True)
    assert found == pytest.approx(expected, abs=1e-12)


def test_operators_hold_no_denormals() -> None:
    weights = np.abs(operator(220, 256, 3).weights)

    assert weights[weights > 0].min() >= np.float32(NEGLIGIBLE)


def test_the_nearest_sample_is_that_of_the_spline_of_order_0() -> None:
    for n in range(1, 40):
        for m in range(1, 40):
            expected = ndimage.zoom(np.arange(n), m / n, order=0, mode="nearest", grid_mode=True)
            assert nearest(n, m).tolist() == expected.tolist()


@UNHURRIED
@given(st.integers(1, 50), st.integers(1, 50))
def test_taps_are_the_rows_of_the_linear_operator(n: int, m: int) -> None:
    ends = taps(n, m, 1)
    dense = np.zeros((m, n))
    np.add.at(dense, (np.arange(m), ends.indices), ends.weights)

    assert dense == pytest.approx(axis_operator(n, m, 1), abs=0)


def test_a_spline_has_no_taps() -> None:
    with pytest.raises(ValueError, match="more than two neighbours"):
        taps(3, 4, 3)


@UNHURRIED
@given(SEEDS, SHAPES, SHAPES, st.integers(0, 5))
def test_an_image_is_interpolated_by_the_spline(seed: int, shape: Shape, new: Shape, order: int) -> None:
    voxels_czyx = random_image(seed, shape)

    found_czyx = regrid_image(voxels_czyx, Regridding(shape, new, order, None, 0))

    expected = voxels_czyx[0] if shape == new else zoomed(voxels_czyx[0].astype(float), new, order)
    assert found_czyx.dtype == np.float32
    assert np.abs(found_czyx[0] - expected).max() <= 1e-6 * spread(voxels_czyx)


def test_long_axes_are_interpolated_in_blocks() -> None:
    shape, new = (3, 5 * ROWS_PER_BLOCK, 2 * ROWS_PER_BLOCK + 1), (4, 3 * ROWS_PER_BLOCK - 1, 200)
    voxels_czyx = random_image(0, shape)

    found_czyx = regrid_image(voxels_czyx, Regridding(shape, new, 3, None, 0))

    assert np.abs(found_czyx[0] - zoomed(voxels_czyx[0].astype(float), new, 3)).max() <= 3e-6


@UNHURRIED
@given(SEEDS, SHAPES, SHAPES, st.sampled_from([0, 1, 2]), st.integers(0, 1))
def test_slices_are_interpolated_and_clipped_one_by_one(
    seed: int, shape: Shape, new: Shape, apart: int, order_apart: int
) -> None:
    voxels_czyx = random_image(seed, shape)
    within = tuple(shape[axis] if axis == apart else new[axis] for axis in range(3))
    by_slice = [
        zoomed(part.astype(float), tuple(np.delete(within, apart)), 3)
        for part in np.moveaxis(voxels_czyx[0], apart, 0)
    ]
    stack = np.moveaxis(np.stack(by_slice), 0, apart)
    factors = [m / n for n, m in zip(within, new, strict=True)]

    found_czyx = regrid_image(voxels_czyx, Regridding(shape, new, 3, apart, order_apart))

    expected = ndimage.zoom(stack, factors, order=order_apart, mode="nearest", grid_mode=True)
    assert np.abs(found_czyx[0] - expected).max() <= 1e-6 * spread(voxels_czyx)


@UNHURRIED
@given(SEEDS, SHAPES, SHAPES, AXES, st.data())
def test_a_slab_is_a_part_of_the_whole(
    seed: int, shape: Shape, new: Shape, apart: int | None, data: st.DataObject
) -> None:
    voxels_czyx = random_image(seed, shape)
    start = data.draw(st.integers(0, new[0] - 1))
    rows = slice(start, data.draw(st.integers(start + 1, new[0])))
    change = Regridding(shape, new, 3, apart, 1)

    slab_czyx = interpolated_rows(voxels_czyx, change, value_range(voxels_czyx, change), rows)

    assert np.abs(slab_czyx - regrid_image(voxels_czyx, change)[:, rows]).max() <= 1e-5


@UNHURRIED
@given(SHAPES, SHAPES, AXES, st.floats(-1e4, 1e4, width=32))
def test_a_constant_stays_constant(shape: Shape, new: Shape, apart: int | None, value: float) -> None:
    voxels_czyx = np.full((1, *shape), value, np.float32)

    assert (regrid_image(voxels_czyx, Regridding(shape, new, 3, apart, 0)) == np.float32(value)).all()


@UNHURRIED
@given(SEEDS, SHAPES, SHAPES, AXES)
def test_values_stay_within_the_range_of_the_image(
    seed: int, shape: Shape, new: Shape, apart: int | None
) -> None:
    voxels_czyx = random_image(seed, shape)

    found_czyx = regrid_image(voxels_czyx, Regridding(shape, new, 3, apart, 0))

    assert voxels_czyx.min() <= found_czyx.min()
    assert found_czyx.max() <= voxels_czyx.max()


def test_the_same_shape_is_left_untouched() -> None:
    voxels_czyx, labels_zyx = random_image(0, (2, 3, 4)), random_labels(0, (2, 3, 4))

    assert resample_image(voxels_czyx, (2, 3, 4), (9.0, 1.0, 1.0), ISOTROPIC, SPLINE) is voxels_czyx
    assert resample_labels(labels_zyx, (2, 3, 4), (9.0, 1.0, 1.0), ISOTROPIC, LINEAR) is labels_zyx


def test_there_and_back_returns_a_smooth_image() -> None:
    shape, finer = (20, 24, 22), (33, 31, 40)
    voxels_czyx = ndimage.gaussian_filter(random_image(0, shape), (0, 3, 3, 3))

    back_czyx = regrid_image(
        regrid_image(voxels_czyx, Regridding(shape, finer, 3, None, 0)), Regridding(finer, shape, 3, None, 0)
    )

    assert np.abs(back_czyx - voxels_czyx).max() <= 0.02 * np.ptp(voxels_czyx)


@UNHURRIED
@given(SEEDS, SHAPES, st.integers(1, 4), AXES)
def test_enlarged_labels_find_their_way_back(seed: int, shape: Shape, factor: int, apart: int | None) -> None:
    labels_zyx = random_labels(seed, shape)
    larger = (shape[0] * (2 * factor + 1), shape[1] * (2 * factor + 1), shape[2] * (2 * factor + 1))

    there_zyx = regrid_labels(labels_zyx, Regridding(shape, larger, 1, apart, 0))
    back_zyx = regrid_labels(there_zyx, Regridding(larger, shape, 0, None, 0))

    assert (back_zyx == labels_zyx).all()


@UNHURRIED
@given(SEEDS, SHAPES, SHAPES, st.sampled_from([1, 2, 3]))
def test_labels_are_those_of_the_strongest_indicator(seed: int, shape: Shape, new: Shape, order: int) -> None:
    labels_zyx = random_labels(seed, shape)
    present = np.unique(labels_zyx)
    scores = np.stack([zoomed((labels_zyx == label).astype(float), new, order) for label in present])

    found_zyx = regrid_labels(labels_zyx, Regridding(shape, new, order, None, 0))

    chosen = np.take_along_axis(scores, np.searchsorted(present, found_zyx)[None], 0)[0]
    assert found_zyx.dtype == np.int16
    assert (shape == new and (found_zyx == labels_zyx).all()) or chosen == pytest.approx(
        scores.max(0), abs=1e-9
    )


@UNHURRIED
@given(SEEDS, SHAPES, SHAPES, st.sampled_from([0, 1, 2]))
def test_labels_are_copied_across_slices(seed: int, shape: Shape, new: Shape, apart: int) -> None:
    labels_zyx = random_labels(seed, shape)
    within = tuple(shape[axis] if axis == apart else new[axis] for axis in range(3))

    found_zyx = regrid_labels(labels_zyx, Regridding(shape, new, 1, apart, 0))

    by_slice_zyx = np.stack(
        [
            vote(np.expand_dims(part, 0), (1, *np.delete(within, apart)))[0]
            for part in np.moveaxis(labels_zyx, apart, 0)
        ]
    )
    expected_zyx = np.moveaxis(by_slice_zyx.take(nearest(shape[apart], new[apart]), 0), 0, apart)
    assert (found_zyx == expected_zyx).all()


def test_labels_across_slices_by_a_spline_need_more_than_half() -> None:
    labels_zyx = labels_along_z((1, 2))

    found_zyx = regrid_labels(labels_zyx, Regridding((2, 2, 2), (3, 2, 2), 1, 0, 1))

    assert found_zyx[:, 0, 0].tolist() == [1, 0, 2]


def test_functions_that_a_plan_may_name() -> None:
    source, target = Grid((2, 2, 2), ISOTROPIC), Grid((4, 4, 4), (0.5, 0.5, 0.5))

    assert RESAMPLINGS.get("no_resampling_hack")(source, target, {}).is_identity
    assert RESAMPLINGS.get("resample_data_or_seg_to_shape")(source, target, {"order": 1}).order == 1
    assert RESAMPLINGS.get("resample_labels_by_threshold")(source, target, {}).rule is LARGEST_WITH_HALF
    with pytest.raises(UnknownNameError, match="no_resampling_hack"):
        RESAMPLINGS.get("resample_by_magic")
    with pytest.raises(PlanError, match="order"):
        RESAMPLINGS.get("resample_data_or_seg_to_shape")(source, target, {"order": 7})
    with pytest.raises(PlanError, match="sharpness"):
        RESAMPLINGS.get("resample_data_or_seg_to_shape")(source, target, {"sharpness": 7})
    with pytest.raises(PlanError, match="mode"):
        RESAMPLINGS.get("resample_torch_fornnunet")(source, target, {"mode": "bicubic"})
