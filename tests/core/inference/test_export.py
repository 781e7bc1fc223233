"""Logits back to the image's grid: the shortcut equals interpolating everything, and geometry is kept."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, special

from core.domain.geometry import Shape, Spacing
from core.domain.labels import LabelSet, label_set
from core.domain.plan import Configuration, Plan
from core.errors import ModelError
from core.inference import rows
from core.inference.export import Stream, Wanted, exported, stream, way_back
from core.inference.slabs import Slab
from core.io.case_store import CaseProperties
from core.io.image import FloatArray, Geometry
from tests.plans import arguments, small_plan

SIDES = st.integers(1, 7)
SHAPES = st.tuples(SIDES, SIDES, SIDES)
CHANGES = st.tuples(SHAPES, SHAPES)
AXES = st.integers(0, 2)
SEEDS = st.integers(0, 2**32 - 1)
UNHURRIED = settings(deadline=None, max_examples=60)

FOUR = label_set({"background": 0, "a": 1, "b": 2, "c": 3}, None)
REGIONS = label_set({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3}, (2, 1, 3))
LABEL_SETS = st.sampled_from([FOUR, REGIONS])

RESAMPLED = sorted(
    (Path(__file__).resolve().parents[3] / "../shared/goldens/resample_goldens/dev").glob("*.npz")
)

ROUNDED_TIES = 1e-3
"""Share of voxels whose two best logits become equal when the reference rounds them to 16 bits."""

TIE = 1e-5
"""Where the two best logits are closer than this, rounding may choose either."""


def properties(shape: Shape, spacing: Spacing = (1.0, 1.0, 1.0)) -> CaseProperties:
    z, y, x = shape
    return CaseProperties(
        geometry=Geometry(
            spacing=spacing,
            file_spacing_xyz=spacing[::-1],
            origin_xyz=(0, 0, 0),
            direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
        ),
        spacing=spacing,
        shape_before_cropping=shape,
        bbox_used_for_cropping=((0, z), (0, y), (0, x)),
        shape_after_cropping_and_before_resampling=shape,
    )


def brought_back(
    logits_kzyx: FloatArray, shape: Shape, labels: LabelSet, *, axis: int = 0, **how: Any
) -> npt.NDArray[np.integer]:
    spacing = how.pop("spacing", (1.0, 1.0, 1.0))
    entries = {"resampling_fn_probabilities_kwargs": arguments(**{"order": 1, **how})}
    plan, configuration = small_plan(spacing, entries=entries)
    return segmentation_from_logits(
        logits_kzyx, properties(shape, spacing), plan, configuration, labels, axis=axis
    )


def segmentation_from_logits(
    logits_kzyx: FloatArray | torch.Tensor,
    case: CaseProperties,
    plan: Plan,
    configuration: Configuration,
    labels: LabelSet,
    *,
    axis: int = 0,
) -> npt.NDArray[np.integer]:
    given = one_stream(logits_kzyx, case, plan, configuration, labels, axis=axis)
    return exported([given], labels, Wanted()).labels_zyx


def one_stream(
    logits_kzyx: FloatArray | torch.Tensor,
    case: CaseProperties,
    plan: Plan,
    configuration: Configuration,
    labels: LabelSet,
    *,
    axis: int = 0,
) -> Stream:
    """Logits as they come: in slabs of one, two, three … slices, each spoilt once the next is asked for."""
    logits = torch.as_tensor(logits_kzyx)
    change = way_back((len(labels.heads), *logits.shape[1:]), case, plan, configuration, labels)
    assert len(logits) % len(labels.heads) == 0

    def slabs() -> Iterator[Slab]:
        whole_kspq, start = logits.movedim(1 + axis, 1).clone(), 0
        for count in range(1, whole_kspq.shape[1] + 1):
            part_kspq = whole_kspq[:, start : start + count]
            if part_kspq.shape[1]:
                yield Slab(start, part_kspq)
            part_kspq.fill_(torch.nan)
            start += count

    return stream(slabs(), axis, change, case, plan)


def random_logits(seed: int, heads: int, shape: Shape, *, smooth: float = 1.0) -> FloatArray:
    noise = np.random.default_rng(seed).normal(size=(heads, *shape))
    return np.asarray(ndimage.gaussian_filter(noise, (0, smooth, smooth, smooth)), np.float32)


def interpolated(logits_kzyx: FloatArray, shape: Shape, order: int = 1) -> npt.NDArray[np.float64]:
    factors = [1.0, *(m / n for n, m in zip(logits_kzyx.shape[1:], shape, strict=True))]
    classes = [
        np.clip(
            ndimage.zoom(one.astype(float), factors[1:], order=order, mode="nearest", grid_mode=True),
            one.min(),
            one.max(),
        )
        for one in logits_kzyx
    ]
    return np.stack(classes)


def decided(values_kzyx: npt.NDArray[np.float64], labels: LabelSet) -> npt.NDArray[np.integer]:
    if labels.region_labels is None:
        return np.asarray(values_kzyx.argmax(0))
    painted_zyx = np.zeros(values_kzyx.shape[1:], int)
    for value, region_zyx in zip(labels.region_labels, values_kzyx, strict=True):
        painted_zyx[region_zyx > 0] = value
    return painted_zyx


def is_clear(values_kzyx: npt.NDArray[np.float64], labels: LabelSet) -> npt.NDArray[np.bool_]:
    if labels.has_regions:
        return np.asarray((np.abs(values_kzyx) > TIE).all(0))
    first, second = np.sort(values_kzyx, 0)[::-1][:2]
    return np.asarray(first - second > TIE)


@UNHURRIED
@given(SEEDS, CHANGES, LABEL_SETS, st.sampled_from([0.0, 1.0]), AXES)
def test_the_shortcut_decides_as_interpolating_everything(
    seed: int, shapes: tuple[Shape, Shape], labels: LabelSet, smooth: float, axis: int
) -> None:
    shape, new = shapes
    logits_kzyx = random_logits(seed, len(labels.heads), shape, smooth=smooth)
    values_kzyx = interpolated(logits_kzyx, new)

    found_zyx = brought_back(logits_kzyx, new, labels, axis=axis)

    clear_zyx = is_clear(values_kzyx, labels)
    assert (found_zyx == decided(values_kzyx, labels))[clear_zyx].all()


@UNHURRIED
@given(SEEDS, CHANGES, LABEL_SETS, st.sampled_from([(0, 0), (1, 0), (2, 0), (0, 1), (2, 1)]), AXES)
def test_a_separate_axis_is_copied_or_interpolated_apart(
    seed: int, shapes: tuple[Shape, Shape], labels: LabelSet, how: tuple[int, int], axis: int
) -> None:
    shape, new = shapes
    apart, order_z = how
    logits_kzyx = random_logits(seed, len(labels.heads), shape)
    z, y, x = (shape[axis] if axis == apart else new[axis] for axis in range(3))
    across = interpolated(interpolated(logits_kzyx, (z, y, x)).astype(np.float32), new, order_z)
    spacing = tuple(5.0 if axis == apart else 1.0 for axis in range(3))

    found_zyx = brought_back(logits_kzyx, new, labels, spacing=spacing, order_z=order_z, axis=axis)

    assert (found_zyx == decided(across, labels))[is_clear(across, labels)].all()


@UNHURRIED
@given(SEEDS, CHANGES, LABEL_SETS, st.sampled_from([0, 2, 3]), AXES)
def test_other_orders_are_interpolated_slab_by_slab(
    seed: int, shapes: tuple[Shape, Shape], labels: LabelSet, order: int, axis: int
) -> None:
    shape, new = shapes
    logits_kzyx = random_logits(seed, len(labels.heads), shape)
    values_kzyx = logits_kzyx.astype(float) if shape == new else interpolated(logits_kzyx, new, order)

    found_zyx = brought_back(logits_kzyx, new, labels, order=order, axis=axis)

    clear_zyx = is_clear(values_kzyx, labels)
    assert (found_zyx == decided(values_kzyx, labels))[clear_zyx].all()


@pytest.mark.parametrize("order", [1, 3])
def test_many_slabs_are_one_whole(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits_kzyx = random_logits(0, 4, (9, 8, 7))
    whole_zyx = brought_back(logits_kzyx, (17, 12, 13), FOUR, order=order)

    monkeypatch.setattr(rows, "SLAB_BYTES", 1 << 12)

    assert (brought_back(logits_kzyx, (17, 12, 13), FOUR, order=order) == whole_zyx).all()


def test_a_class_that_is_second_everywhere_can_win_in_between() -> None:
    logits_kzyx = np.array([[10, 0], [0, 10], [6, 6]], np.float32).reshape(3, 1, 1, 2)
    three = label_set({"background": 0, "a": 1, "b": 2}, None)

    assert brought_back(logits_kzyx, (1, 1, 3), three).tolist() == [[[0, 2, 1]]]


def test_the_first_of_equal_logits_wins() -> None:
    assert (brought_back(np.ones((4, 2, 2, 2), np.float32), (3, 4, 5), FOUR) == 0).all()


def test_a_probability_of_exactly_one_half_is_not_painted() -> None:
    logits_kzyx = np.array([1e-9, 0, -1], np.float32).reshape(3, 1, 1, 1)

    assert brought_back(logits_kzyx, (1, 1, 1), REGIONS).tolist() == [[[0]]]


def test_later_regions_cover_earlier_ones() -> None:
    logits_kzyx = np.array([[1, 1, -1, 1], [-1, 1, 1, 1], [-1, -1, -1, 1]], np.float32).reshape(3, 1, 1, 4)

    assert brought_back(logits_kzyx, (1, 1, 4), REGIONS).tolist() == [[[2, 1, 1, 3]]]


def test_the_crop_is_undone_and_the_axes_return_to_their_order() -> None:
    plan, configuration = small_plan((1.0, 1.0, 1.0), axes=(2, 0, 1))
    cropped = properties((6, 4, 5)).model_copy(
        update={
            "bbox_used_for_cropping": ((1, 3), (0, 4), (2, 5)),
            "shape_after_cropping_and_before_resampling": (2, 4, 3),
        }
    )
    logits_kzyx = random_logits(0, 4, (2, 4, 3), smooth=0)

    found_zyx = segmentation_from_logits(logits_kzyx, cropped, plan, configuration, FOUR)

    assert found_zyx.shape == (4, 5, 6)
    assert found_zyx.flags.c_contiguous
    assert (found_zyx[:, 2:5, 1:3] == logits_kzyx.argmax(0).transpose(1, 2, 0)).all()
    assert np.count_nonzero(found_zyx) == np.count_nonzero(logits_kzyx.argmax(0))


@pytest.mark.parametrize(
    ("foreground", "dtype"), [(1, np.uint8), (254, np.uint8), (255, np.uint16), (300, np.uint16)]
)
def test_the_type_is_wide_enough(foreground: int, dtype: type) -> None:
    labels = label_set({"background": 0} | {f"label {k}": k for k in range(1, foreground + 1)}, None)
    logits_kzyx = np.zeros((foreground + 1, 2, 2, 2), np.float32)
    logits_kzyx[-1, 0] = 1

    found_zyx = brought_back(logits_kzyx, (3, 3, 3), labels)

    assert found_zyx.dtype == dtype
    assert found_zyx[0, 0, 0] == foreground
    assert found_zyx[2, 0, 0] == 0


def test_a_tensor_of_half_precision_serves_as_well() -> None:
    logits_kzyx = random_logits(0, 4, (4, 5, 6)).astype(np.float16)
    plan, configuration = small_plan((1.0, 1.0, 1.0))
    case = properties((6, 6, 6))

    found_zyx = segmentation_from_logits(torch.from_numpy(logits_kzyx), case, plan, configuration, FOUR)

    assert (found_zyx == brought_back(logits_kzyx.astype(np.float32), (6, 6, 6), FOUR)).all()


@settings(deadline=None, max_examples=20)
@given(LABEL_SETS, AXES, st.permutations([0, 1, 2]), st.integers(1, 2))
def test_probabilities_uncertainty_and_segmentation_agree(
    labels: LabelSet, axis: int, axes: list[int], models: int
) -> None:
    plan, configuration = small_plan((1.0, 1.0, 1.0), axes=axes)
    cropped = properties((6, 5, 7)).model_copy(
        update={
            "bbox_used_for_cropping": ((1, 6), (0, 5), (2, 7)),
            "shape_after_cropping_and_before_resampling": (5, 5, 5),
        }
    )
    heads = len(labels.heads)
    several = [random_logits(seed, heads, (3, 4, 6)) for seed in range(models)]
    sigmoid_or_softmax = special.expit if labels.has_regions else partial(special.softmax, axis=0)
    with_chances = [np.concatenate([one, sigmoid_or_softmax(one)], dtype=np.float32) for one in several]
    found_kzyx = np.full((heads, *np.array((6, 5, 7))[list(plan.transpose_backward)]), np.nan, np.float32)

    def keep(place: tuple[slice, ...], values_kzyx: FloatArray) -> None:
        found_kzyx[(slice(None), *place)] = values_kzyx

    found = exported(
        [one_stream(one, cropped, plan, configuration, labels, axis=axis) for one in with_chances],
        labels,
        Wanted(probabilities=keep, uncertainty=True),
    )

    inside_kzyx = found_kzyx.transpose(0, *(1 + axis for axis in axes))[:, 1:6, 0:5, 2:7]
    expected_kzyx = np.mean([sigmoid_or_softmax(interpolated(one, (5, 5, 5))) for one in several], 0)
    assert np.abs(inside_kzyx - expected_kzyx).max() <= 1e-6
    assert np.isnan(found_kzyx).sum() == heads * (6 * 5 * 7 - 5 * 5 * 5)
    shifted_kzyx = inside_kzyx - (0.5 if labels.has_regions else 0)
    labels_zyx = found.labels_zyx.transpose(axes)[1:6, 0:5, 2:7]
    assert (decided(shifted_kzyx.astype(float), labels) == labels_zyx).all()
    chances_kzyx = np.mean([interpolated(one[heads:], (5, 5, 5)) for one in with_chances], 0)
    entropies = special.entr(chances_kzyx)
    if labels.has_regions:
        expected_zyx = (entropies + special.entr(1 - chances_kzyx)).mean(0) / np.log(2)
    else:
        expected_zyx = entropies.sum(0) / np.log(heads)
    assert found.uncertainty_zyx is not None
    assert found.uncertainty_zyx.dtype == np.float32
    assert np.abs(found.uncertainty_zyx.transpose(axes)[1:6, 0:5, 2:7] - expected_zyx).max() <= 1e-5
    assert np.count_nonzero(found.uncertainty_zyx) <= 5 * 5 * 5


def test_another_number_of_heads_is_refused() -> None:
    plan, configuration = small_plan((1.0, 1.0, 1.0))

    with pytest.raises(ModelError, match="3 heads"):
        way_back((3, 2, 2, 2), properties((2, 2, 2)), plan, configuration, FOUR)


def test_a_function_that_does_not_reach_the_grid_is_refused() -> None:
    plan, configuration = small_plan(
        (1.0, 1.0, 1.0), entries={"resampling_fn_probabilities": "no_resampling_hack"}
    )
    logits_kzyx = np.zeros((4, 2, 2, 2), np.float32)

    with pytest.raises(ModelError, match="no_resampling_hack leaves"):
        segmentation_from_logits(logits_kzyx, properties((3, 3, 3)), plan, configuration, FOUR)


@pytest.mark.parity
@pytest.mark.skipif(not RESAMPLED, reason="the reference's recorded resampling (../shared) is absent")
@pytest.mark.parametrize("path", RESAMPLED, ids=lambda path: path.stem)
def test_the_segmentation_is_that_of_the_recorded_logits(path: Path) -> None:
    with np.load(path) as recorded:
        before, after = tuple(recorded["spacing"].tolist()), tuple(recorded["new_spacing"].tolist())
        logits_kzyx, expected_kzyx = recorded["in_prob32"], recorded["out_prob32"]
        rounded_kzyx, expected_rounded_kzyx = recorded["in_prob"], recorded["out_prob"]
    plan, configuration = small_plan(before)
    case = properties(expected_kzyx.shape[1:], after)

    found_zyx = segmentation_from_logits(logits_kzyx, case, plan, configuration, FOUR)
    found_rounded_zyx = segmentation_from_logits(rounded_kzyx, case, plan, configuration, FOUR)

    assert (found_zyx == expected_kzyx.argmax(0)).all()
    assert (found_rounded_zyx != expected_rounded_kzyx.argmax(0)).mean() <= ROUNDED_TIES
