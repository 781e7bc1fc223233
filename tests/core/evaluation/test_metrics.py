from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.labels import label_set
from core.evaluation.metrics import overlap_scores, pair_counts, volumes_ml
from core.io.image import Geometry, LabelArray, LabelMap


def _lines(*values: int) -> LabelArray:
    return np.asarray(values, dtype=np.int16).reshape(1, 1, -1)


def _random_maps(seed: int) -> tuple[LabelArray, LabelArray]:
    rng = np.random.default_rng(seed)
    reference, prediction = rng.integers(-1, 6, (2, 7, 5, 3)).astype(np.int16)
    return reference, prediction


def test_counts_and_ratios_of_a_small_case() -> None:
    reference = _lines(0, 1, 1, 1, 2, 0)
    prediction = _lines(0, 1, 1, 2, 2, 1)

    scores = overlap_scores(reference, prediction, (1, 2), None)

    one = scores["1"]
    assert (one.tp, one.fp, one.fn, one.tn) == (2, 1, 1, 2)
    assert (one.n_pred, one.n_ref) == (3, 3)
    assert one.dice == 2 * 2 / (2 * 2 + 1 + 1)
    assert one.iou == 2 / 4


def test_a_class_absent_from_both_is_undefined_and_one_predicted_in_vain_is_zero() -> None:
    scores = overlap_scores(_lines(0, 0, 1), _lines(0, 2, 1), (2, 3), None)

    assert scores["2"].dice == 0
    assert scores["2"].iou == 0
    assert scores["3"].dice is None
    assert scores["3"].iou is None


def test_voxels_that_nobody_annotated_are_not_counted_at_all() -> None:
    reference = _lines(0, 1, 3, 3, 2)
    prediction = _lines(1, 1, 1, 0, 3)

    scores = overlap_scores(reference, prediction, ((1, 2), 2), 3)

    union, second = scores["(1, 2)"], scores["2"]
    assert (union.tp, union.fp, union.fn, union.tn) == (1, 1, 1, 0)
    assert (second.tp, second.fp, second.fn, second.tn) == (0, 0, 1, 2)


@given(seed=st.integers(0, 10_000))
def test_counts_agree_with_masks(seed: int) -> None:
    reference, prediction = _random_maps(seed)
    regions = (1, (2, 3), (1, 2, 3))

    scores = overlap_scores(reference, prediction, regions, 4)

    known = reference != 4
    for region in regions:
        one, other = np.isin(reference, region), np.isin(prediction, region)
        found = scores[str(region)]
        wanted = [
            (one & other & known),
            (~one & other & known),
            (one & ~other & known),
            ~one & ~other & known,
        ]
        assert [found.tp, found.fp, found.fn, found.tn] == [mask.sum() for mask in wanted]


def test_every_voxel_is_counted_once_even_across_blocks() -> None:
    rng = np.random.default_rng(0)
    reference, prediction = rng.integers(0, 4, (2, 40, 40, 40)).astype(np.uint8)

    counts = pair_counts(reference, prediction, 3)

    assert counts.sum() == reference.size
    for a, b in product(range(4), repeat=2):
        assert counts[a, b] == ((reference == a) & (prediction == b)).sum()


def test_labels_beyond_the_highest_and_negative_ones_share_the_last_entry() -> None:
    counts = pair_counts(_lines(-1, 7, 500), _lines(1, -1, 0), 1)

    assert counts[2].tolist() == [1, 1, 1]


def _segmentation(
    labels: LabelArray, direction: tuple[float, ...], spacing_xyz: tuple[float, ...]
) -> LabelMap:
    geometry = Geometry(
        spacing=(2.0, 0.5, 0.5),
        file_spacing_xyz=spacing_xyz,
        origin_xyz=(0,) * len(spacing_xyz),
        direction=direction,
    )
    return LabelMap(labels, geometry)


def test_volumes_are_voxels_times_spacing() -> None:
    labels = np.zeros((10, 20, 20), dtype=np.uint8)
    labels[2:4, 5:15, 5:15] = 1
    labels[4, 5:15, 5:15] = 2
    segmentation = _segmentation(labels, (1, 0, 0, 0, 1, 0, 0, 0, 1), (0.5, 0.5, 2.0))

    volumes = volumes_ml(segmentation, label_set({"background": 0, "whole": (1, 2), "core": 2}, (1, 2)))

    assert volumes == pytest.approx({"whole": 0.15, "core": 0.05})


def test_a_slice_has_no_volume() -> None:
    segmentation = _segmentation(np.ones((1, 4, 4), dtype=np.uint8), (1, 0, 0, 1), (1.0, 1.0))

    assert volumes_ml(segmentation, label_set({"background": 0, "a": 1}, None)) == {}
