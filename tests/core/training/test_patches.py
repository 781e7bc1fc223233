from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from core.domain.labels import LabelSet, label_set
from core.errors import TrainingError, UnknownNameError
from core.training.patches import batches, make_batch
from core.training.samples import draw_batch
from tests.core.training.setups import (
    CPU,
    REGIONS,
    assert_equal,
    case_of,
    setup_of,
)


def test_batches_have_the_shapes_that_the_network_expects() -> None:
    scales = ((1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.25, 0.5, 0.25))

    drawn = list(batches(setup_of(12, 10, 8, scales=scales), 0, CPU))

    assert len(drawn) == 4
    assert {tuple(batch.voxels_bczyx.shape) for batch in drawn} == {(3, 2, 12, 10, 8)}
    assert [tuple(target.shape) for target in drawn[0].targets] == [
        (3, 1, 12, 10, 8),
        (3, 1, 6, 5, 4),
        (3, 1, 3, 5, 2),
    ]
    assert drawn[0].voxels_bczyx.dtype == torch.float32
    assert all(target.min() >= 0 and target.max() <= 2 for batch in drawn for target in batch.targets)
    assert all(batch.voxels_bczyx.isfinite().all() for batch in drawn)


def test_batches_of_pictures_have_no_axis_of_slices() -> None:
    (first, *_) = batches(setup_of(16, 12, scales=((1.0, 1.0), (0.5, 0.5))), 0, CPU)

    assert first.voxels_bczyx.shape == (3, 2, 16, 12)
    assert [tuple(target.shape) for target in first.targets] == [(3, 1, 16, 12), (3, 1, 8, 6)]


def test_regions_come_as_channels_with_the_ignore_label_last() -> None:
    (first, *_) = batches(setup_of(12, 10, 8, labels=REGIONS), 0, CPU)

    assert first.targets[0].dtype == torch.bool
    assert first.targets[0].shape == (3, 3, 12, 10, 8)


def test_validation_yields_its_own_number_of_batches() -> None:
    assert len(list(batches(setup_of(8, 8, 8, is_training=False), 0, CPU))) == 2


def test_a_batch_is_the_same_whatever_was_drawn_before() -> None:
    setup = setup_of(12, 10, 8)

    passed = [list(batches(setup, epoch, CPU)) for epoch in range(3)]
    resumed = list(batches(setup, 2, CPU))
    alone = make_batch(setup, (1, 3), CPU)

    for first, second in zip(passed[2], resumed, strict=True):
        assert_equal(first, second)
    assert_equal(passed[1][3], alone)


def test_validation_sees_the_image_as_it_is() -> None:
    setup = setup_of(12, 10, 8, is_training=False)

    samples, batch = draw_batch(setup, (0, 1)), make_batch(setup, (0, 1), CPU)

    for sample, voxels_czyx, target_bzyx in zip(samples, batch.voxels_bczyx, batch.targets[0], strict=True):
        case, (z, y, x) = setup.cases[sample.case_id], sample.start
        assert case.labels_zyx is not None
        assert np.array_equal(voxels_czyx, case.voxels_czyx[:, z : z + 12, y : y + 10, x : x + 8])
        assert np.array_equal(target_bzyx[0], case.labels_zyx[z : z + 12, y : y + 10, x : x + 8].clip(min=0))


def test_an_image_smaller_than_the_patch_is_padded_with_background() -> None:
    small = case_of(np.ones((2, 5, 6, 7), np.float32), np.ones((5, 6, 7), np.int8))
    setup = replace(setup_of(12, 10, 8, is_training=False), cases={"small": small})

    batch = make_batch(setup, (0, 0), CPU)

    inside = batch.voxels_bczyx[:, :1] == 1
    assert inside.sum((1, 2, 3, 4)).max() == 5 * 6 * 7
    assert torch.equal(inside, batch.targets[0] == 1)


def test_forced_samples_practically_always_show_their_class() -> None:
    setup = setup_of(12, 12, 12)
    only_the_seed = {
        case_id: replace(case, locations={"1": case.locations["1"][:0], "2": case.locations["2"]})
        for case_id, case in setup.cases.items()
    }
    setup = replace(setup, cases=only_the_seed)

    targets = [make_batch(setup, (0, k), CPU).targets[0] for k in range(80)]

    assert sum(bool((target[2] == 2).any()) for target in targets) >= 79
    assert sum(bool((target[0] == 2).any()) for target in targets) < 40


def test_with_an_ignore_label_every_patch_holds_annotated_voxels() -> None:
    labels_zyx = np.full((30, 34, 38), 3, np.int8)
    labels_zyx[13:18, 10:20, 12:22] = 0
    labels_zyx[13:18, 12:14, 12:14] = 1
    sparse = case_of(np.ones((2, 30, 34, 38), np.float32), labels_zyx, REGIONS)
    setup = replace(setup_of(12, 12, 12, labels=REGIONS), cases={"sparse": sparse})

    drawn = [make_batch(setup, (0, k), CPU) for k in range(30)]

    annotated = [~batch.targets[0][:, -1] for batch in drawn]
    assert all(mask_bzyx.flatten(1).any(1).all() for mask_bzyx in annotated)


def test_channels_normalized_within_the_mask_stay_empty_outside_it() -> None:
    setup = setup_of(12, 10, 8)
    outside = {
        case_id: replace(case, labels_zyx=np.full((30, 34, 38), -1, np.int8))
        for case_id, case in setup.cases.items()
    }

    drawn = [make_batch(replace(setup, cases=outside), (0, k), CPU) for k in range(5)]

    assert all((batch.voxels_bczyx[:, 0] == 0).all() for batch in drawn)
    assert all((batch.voxels_bczyx[:, 1] != 0).any() for batch in drawn)


@pytest.mark.parametrize("is_training", [True, False])
def test_leaving_early_costs_nothing_later(is_training: bool) -> None:  # noqa: FBT001 - a parameter of the test
    setup = setup_of(12, 10, 8, is_training=is_training)
    whole = list(batches(setup, 0, CPU))

    (first,) = islice(batches(setup, 0, CPU), 1)

    assert_equal(first, whole[0])


def test_no_case_is_refused() -> None:
    with pytest.raises(TrainingError, match="no case"):
        batches(replace(setup_of(8, 8, 8), cases={}), 0, CPU)


def test_a_case_without_labels_is_named() -> None:
    unlabelled = case_of(np.zeros((2, 9, 9, 9), np.float32), None)

    with pytest.raises(TrainingError, match=r"case patient_7 .* without labels"):
        batches(replace(setup_of(8, 8, 8), cases={"patient_7": unlabelled}), 0, CPU)


def test_an_ignore_label_declared_after_preprocessing_is_named() -> None:
    setup = setup_of(8, 8, 8)

    with pytest.raises(TrainingError, match=r"case case_0 .* preprocess the dataset again"):
        batches(replace(setup, labels=REGIONS), 0, CPU)


def test_cases_that_nobody_annotated_are_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    blank = case_of(np.zeros((2, 9, 9, 9), np.float32), np.full((9, 9, 9), 3, np.int8), REGIONS)
    setup = replace(setup_of(8, 8, 8, labels=REGIONS), cases={"blank": blank})

    drawn = list(batches(setup, 0, CPU))

    assert "without any annotated voxel" in caplog.text
    assert drawn[0].targets[0][:, -1].any()


def test_without_augmentation_training_sees_the_image_as_it_is() -> None:
    setup = setup_of(12, 10, 8, augmentation="none")
    setup = replace(setup, masked_channels=(False, False))

    samples, batch = draw_batch(setup, (0, 1)), make_batch(setup, (0, 1), CPU)

    for sample, voxels_czyx in zip(samples, batch.voxels_bczyx, strict=True):
        case, (z, y, x) = setup.cases[sample.case_id], sample.start
        assert np.array_equal(voxels_czyx, case.voxels_czyx[:, z : z + 12, y : y + 10, x : x + 8])


SIDES = label_set({"background": 0, "block": 1, "seed": 2}, None)
SIDE_REGIONS = label_set({"background": 0, "both": [1, 2], "block": 1, "seed": 2}, [1, 1, 2])


@pytest.mark.parametrize("patch", [(12, 10, 8), (10, 8)])
@pytest.mark.parametrize("labels", [SIDES, SIDE_REGIONS])
def test_left_and_right_change_places_where_a_patch_is_mirrored(
    patch: tuple[int, ...], labels: LabelSet
) -> None:
    axis = len(patch) - 1
    swap: dict[str, Any] = {"swapped_labels": (("block", "seed"),), "swap_axis": axis}
    plain, swapping = setup_of(*patch, labels=labels), setup_of(*patch, labels=labels, **swap)
    samples = [sample for k in range(4) for sample in draw_batch(swapping, (0, k))]

    before = [make_batch(plain, (0, k), CPU) for k in range(4)]
    after = [make_batch(swapping, (0, k), CPU) for k in range(4)]

    assert all(torch.equal(a.voxels_bczyx, b.voxels_bczyx) for a, b in zip(before, after, strict=True))
    targets = torch.cat([batch.targets[0] for batch in before])
    swapped = targets[:, [0, 2, 1]] if labels.has_regions else torch.where(targets > 0, 3 - targets, 0)
    is_mirrored = torch.tensor([axis in sample.augmentation.mirrored for sample in samples])
    expected = torch.where(is_mirrored.view(-1, *[1] * (targets.dim() - 1)), swapped, targets)
    assert torch.equal(torch.cat([batch.targets[0] for batch in after]), expected)
    assert not torch.equal(expected, targets)


def test_labels_are_taken_from_the_nearest_voxel_if_the_settings_say_so() -> None:
    voted, nearest = setup_of(12, 10, 8), setup_of(12, 10, 8, label_interpolation="nearest")
    mixed = np.random.default_rng(0).integers(0, 3, (30, 34, 38)).astype(np.int8)
    cases = {case_id: replace(case, labels_zyx=mixed) for case_id, case in voted.cases.items()}
    voted, nearest = replace(voted, cases=cases), replace(nearest, cases=cases)

    pairs = [(make_batch(voted, (0, k), CPU), make_batch(nearest, (0, k), CPU)) for k in range(4)]

    assert all(torch.equal(one.voxels_bczyx[:, 1], other.voxels_bczyx[:, 1]) for one, other in pairs)
    is_moved = [one.augmentation.spatial is not None for k in range(4) for one in draw_batch(voted, (0, k))]
    differs = [
        not torch.equal(one_bzyx, other_bzyx)
        for one, other in pairs
        for one_bzyx, other_bzyx in zip(one.targets[0], other.targets[0], strict=True)
    ]
    assert differs == is_moved
    assert any(differs)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"augmentation": "wild"}, UnknownNameError, "no augmentation named 'wild'"),
        ({"mirror_axes": (2,)}, TrainingError, "mirror_axes names axis 2"),
        ({"swap_axis": 1}, TrainingError, "belong together"),
        ({"swap_axis": 1, "swapped_labels": (("a", "b"),)}, TrainingError, "no such label"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_the_first_batch(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        batches(setup_of(8, 8, **settings), 0, CPU)


@pytest.mark.parametrize("patch", [(12, 12, 12), (4, 16, 16), (5, 3, 4), (16, 12)])
def test_the_strong_augmentation_makes_batches_that_can_be_made_again(patch: tuple[int, ...]) -> None:
    setup = setup_of(*patch, augmentation="strong")

    drawn = list(batches(setup, 2, CPU))

    for iteration, batch in enumerate(drawn):
        assert batch.voxels_bczyx.shape == (3, 2, *patch)
        assert batch.targets[0].shape == (3, 1, *patch)
        assert batch.voxels_bczyx.isfinite().all()
        assert batch.targets[0].min() >= 0
        assert_equal(batch, make_batch(setup, (2, iteration), CPU))
