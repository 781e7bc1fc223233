from collections import Counter
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.geometry import Shape
from core.domain.labels import label_key, label_set
from core.io.case_store import PreprocessedCase
from core.io.image import LabelArray
from core.training.positions import draw_centre, draw_start, forced_from, read_box, start_bounds
from tests.core.training.setups import uncropped
from tests.factories import voxels_of

LABELS = label_set({"background": 0, "large": 1, "small": 2, "absent": 3}, None)
IGNORING = label_set({"background": 0, "large": 1, "small": 2, "ignore": 3}, None)
SHAPES = st.tuples(*[st.integers(1, 60)] * 3)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def case_of(labels_zyx: LabelArray, keys: dict[str, list[int]]) -> PreprocessedCase:
    """A case whose locations are all voxels of the labels under each key."""
    shape = (labels_zyx.shape[0], labels_zyx.shape[1], labels_zyx.shape[2])
    return PreprocessedCase(
        voxels_czyx=np.zeros((1, *shape), np.float32),
        labels_zyx=labels_zyx,
        properties=uncropped(shape),
        locations={key: voxels_of(np.isin(labels_zyx, values)) for key, values in keys.items()},
    )


def two_classes() -> PreprocessedCase:
    labels_zyx = np.zeros((10, 12, 14), np.int16)
    labels_zyx[2:8, 2:10, 2:12] = 1
    labels_zyx[4, 5, 6] = 2
    return case_of(labels_zyx, {"1": [1], "2": [2], "3": [3]})


def sparsely_annotated() -> PreprocessedCase:
    labels_zyx = np.full((10, 12, 14), 3, np.int16)
    labels_zyx[5, :, 3] = 0
    labels_zyx[5, 4:7, 3] = 1
    return case_of(labels_zyx, {"1": [1], "2": [2], label_key(IGNORING.annotated): [-1, 0, 1, 2]})


@pytest.mark.parametrize(
    ("batch_size", "forced"),
    [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 3), (9, 3), (10, 3), (11, 4), (12, 4)],
)
def test_forced_positions_are_the_last_of_the_batch(batch_size: int, forced: int) -> None:
    assert batch_size - forced_from(batch_size, 0.33) == forced


@given(shape=SHAPES, patch=SHAPES, growth=SHAPES)
def test_bounds_of_the_start_are_those_of_the_specification(
    shape: Shape, patch: Shape, growth: Shape
) -> None:
    initial = (patch[0] + growth[0], patch[1] + growth[1], patch[2] + growth[2])

    low, high = start_bounds(shape, initial, patch)

    for axis in range(3):
        need = initial[axis] - patch[axis]
        if need + shape[axis] < initial[axis]:
            need = initial[axis] - shape[axis]
        assert low[axis] == -ceil(need / 2)
        assert high[axis] == shape[axis] + ceil(need / 2) - initial[axis]
    assert (low <= high).all()


def test_every_start_within_the_bounds_is_equally_likely() -> None:
    bounds = start_bounds((30, 9, 12), (16, 12, 12), (10, 8, 12))
    source, draws = rng(), 12_000

    starts = [draw_start(source, bounds, (16, 12, 12), None) for _ in range(draws)]

    # Axis 0: need 6, starts -3 to 17; axis 1: need 4 (3 would be too few), -2 to -1; axis 2: only 0.
    counts = Counter(z for z, _, _ in starts)
    assert set(counts) == set(range(-3, 18))
    assert max(abs(count - draws / 21) for count in counts.values()) < 5 * (draws / 21) ** 0.5
    assert {y for _, y, _ in starts} == {-2, -1}
    assert {x for _, _, x in starts} == {0}


def test_a_patch_around_a_voxel_is_clamped_at_the_lower_border_only() -> None:
    bounds = start_bounds((30, 30, 30), (16, 16, 16), (10, 10, 10))

    assert draw_start(rng(), bounds, (16, 16, 16), (15, 2, 29)) == (7, -3, 21)


def test_every_class_is_equally_likely_however_small() -> None:
    case, source, draws = two_classes(), rng(), 10_000
    assert case.labels_zyx is not None

    centres = [draw_centre(source, case, LABELS, is_forced=True) for _ in range(draws)]

    drawn = Counter(int(case.labels_zyx[centre]) for centre in centres if centre is not None)
    assert set(drawn) == {1, 2}
    assert abs(drawn[1] - draws / 2) < 5 * (draws / 4) ** 0.5
    assert len({centre for centre in centres if centre != (4, 5, 6)}) == 6 * 8 * 10 - 1


def test_regions_are_classes_too() -> None:
    labels = label_set({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    labels_zyx = np.zeros((4, 4, 4), np.int16)
    labels_zyx[1, 1, 1], labels_zyx[2, 2, 2] = 1, 2
    case, source = case_of(labels_zyx, {"(1, 2)": [1, 2], "2": [2]}), rng()

    drawn = Counter(draw_centre(source, case, labels, is_forced=True) for _ in range(4000))

    assert drawn[1, 1, 1] + drawn[2, 2, 2] == 4000
    assert abs(drawn[1, 1, 1] - 1000) < 150


def test_a_patch_without_need_of_foreground_may_lie_anywhere() -> None:
    assert draw_centre(rng(), two_classes(), LABELS, is_forced=False) is None


def test_a_case_without_foreground_may_be_sampled_anywhere() -> None:
    empty = case_of(np.zeros((5, 5, 5), np.int16), {"1": [1], "2": [2], "3": [3]})

    assert draw_centre(rng(), empty, LABELS, is_forced=True) is None


def test_with_an_ignore_label_every_patch_surrounds_an_annotated_voxel() -> None:
    case, source = sparsely_annotated(), rng()
    assert case.labels_zyx is not None

    anywhere = {draw_centre(source, case, IGNORING, is_forced=False) for _ in range(500)}
    forced = {draw_centre(source, case, IGNORING, is_forced=True) for _ in range(100)}

    assert anywhere == {(5, y, 3) for y in range(12)}
    assert forced == {(5, y, 3) for y in (4, 5, 6)}


def test_forced_patches_surround_an_annotated_voxel_where_no_class_occurs() -> None:
    labels_zyx = np.full((4, 4, 4), 3, np.int16)
    labels_zyx[1, 2, 3] = 0
    case = case_of(labels_zyx, {"1": [], "2": [], label_key(IGNORING.annotated): [0]})

    assert draw_centre(rng(), case, IGNORING, is_forced=True) == (1, 2, 3)


@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    start=st.tuples(*[st.integers(-8, 8)] * 3),
    size=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_a_box_holds_what_the_image_has_there_and_padding(shape: Shape, start: Shape, size: Shape) -> None:
    source = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    low, high = np.array(start), np.array(start) + size
    box = ((start[0], int(high[0])), (start[1], int(high[1])), (start[2], int(high[2])))

    copied = read_box(source, box, box, -1)

    padded = np.pad(source, ((0, 0), *[(20, 20)] * 3), constant_values=-1)
    z, y, x = (slice(first + 20, end + 20) for first, end in zip(low, high, strict=True))
    np.testing.assert_array_equal(copied, padded[:, z, y, x])


def test_nothing_is_read_beyond_the_initial_patch() -> None:
    source = np.ones((6, 6, 6), np.int16)

    copied = read_box(source, ((1, 6), (0, 5), (2, 4)), ((2, 5), (1, 4), (2, 4)), -1)

    assert copied[1:4, 1:4].tolist() == np.ones((3, 3, 2)).tolist()
    assert (copied == 1).sum() == 18


def test_labels_without_a_sign_are_padded_as_others_are() -> None:
    source = np.full((2, 2, 2), 200, np.uint8)

    copied = read_box(source, ((0, 2), (0, 2), (1, 3)), ((0, 2), (0, 2), (0, 2)), -1, np.int16)

    assert copied.dtype == np.int16
    assert copied[0, 0].tolist() == [200, -1]
