from collections import Counter
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from core.domain.geometry import Shape
from core.domain.labels import LabelSet, label_key, label_set
from core.domain.training import TrainingSettings
from core.errors import TrainingError, UnknownNameError
from core.io.case_store import CaseProperties, PreprocessedCase
from core.io.image import FloatArray, Geometry, LabelArray
from core.training.patches import Batch, batches, make_batch
from core.training.samples import SampleParameters, SamplingSetup, draw_batch
from core.training.targets import Scales
from tests.factories import voxels_of
from tests.plans import small_plan

CPU = torch.device("cpu")
SETTINGS = {"iterations_per_epoch": 4, "validation_iterations_per_epoch": 2, "seed": 3}
LABELS = label_set({"background": 0, "block": 1, "seed": 2}, None)
REGIONS = label_set({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])


def case_of(
    voxels_czyx: FloatArray, labels_zyx: LabelArray | None, labels: LabelSet = LABELS
) -> PreprocessedCase:
    shape: Shape = (voxels_czyx.shape[1], voxels_czyx.shape[2], voxels_czyx.shape[3])
    geometry = Geometry(
        spacing=(1, 1, 1),
        file_spacing_xyz=(1, 1, 1),
        origin_xyz=(0, 0, 0),
        direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
    )
    properties = CaseProperties(
        geometry=geometry,
        spacing=(1, 1, 1),
        shape_before_cropping=shape,
        bbox_used_for_cropping=((0, shape[0]), (0, shape[1]), (0, shape[2])),
        shape_after_cropping_and_before_resampling=shape,
    )
    wanted = [*labels.foreground_heads, *([] if labels.ignore is None else [labels.annotated])]
    shown_zyx = np.full(shape, -9) if labels_zyx is None else labels_zyx
    locations = {label_key(head): voxels_of(np.isin(shown_zyx, head)) for head in wanted}
    return PreprocessedCase(voxels_czyx, labels_zyx, properties, locations)


def block_with_seed(number: int, labels: LabelSet = LABELS) -> PreprocessedCase:
    """A block of label 1 that holds 27 voxels of label 2, in noise that tells where each voxel was."""
    labels_zyx = np.zeros((30, 34, 38), np.int8)
    labels_zyx[8:24, 8:26, 8:30] = 1
    labels_zyx[14:17, 15:18, 18:21] = 2
    labels_zyx[:4] = -1
    voxels = np.random.default_rng(number).normal(size=(2, *labels_zyx.shape)).astype(np.float32)
    return case_of(voxels, labels_zyx, labels)


def setup_of(
    *patch: int,
    is_training: bool = True,
    labels: LabelSet = LABELS,
    scales: Scales = (),
    **settings: Any,
) -> SamplingSetup:
    entries = {"patch_size": list(patch), "batch_size": 3}
    _, configuration = small_plan([1] * len(patch), schemes=["ZScoreNormalization"] * 2, entries=entries)
    return SamplingSetup(
        cases=MappingProxyType({f"case_{number}": block_with_seed(number, labels) for number in range(3)}),
        configuration=configuration,
        labels=labels,
        masked_channels=(True, False),
        settings=TrainingSettings.model_validate(SETTINGS | settings),
        deep_supervision_scales=scales,
        is_training=is_training,
    )


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.case_ids == second.case_ids
    assert torch.equal(first.voxels_bczyx, second.voxels_bczyx)
    assert all(torch.equal(a, b) for a, b in zip(first.targets, second.targets, strict=True))


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


def test_the_order_of_the_cases_does_not_matter() -> None:
    setup = setup_of(12, 10, 8)
    reversed_cases = dict(reversed(list(setup.cases.items())))

    assert draw_batch(setup, (0, 0)) == draw_batch(replace(setup, cases=reversed_cases), (0, 0))


def test_every_key_draws_something_else() -> None:
    setups = [
        setup_of(12, 10, 8, seed=seed, is_training=is_training)
        for seed in (0, 1)
        for is_training in (False, True)
    ]

    drawn = [
        (sample.case_id, sample.start)
        for setup in setups
        for epoch in range(4)
        for iteration in range(8)
        for sample in draw_batch(setup, (epoch, iteration))
    ]

    assert Counter(drawn).most_common(1)[0][1] < len(drawn) / 20


def test_cases_are_drawn_uniformly_with_replacement() -> None:
    setup = setup_of(12, 10, 8)

    drawn = [tuple(sample.case_id for sample in draw_batch(setup, (0, k))) for k in range(1000)]

    counts = Counter(case_id for case_ids in drawn for case_id in case_ids)
    assert max(abs(count - 1000) for count in counts.values()) < 5 * (3000 * 2 / 9) ** 0.5
    assert any(len(set(case_ids)) < 3 for case_ids in drawn)


def test_samples_can_be_recorded_and_replayed() -> None:
    samples = [sample for k in range(50) for sample in draw_batch(setup_of(12, 10, 8), (0, k))]

    assert [SampleParameters.model_validate_json(one.model_dump_json()) for one in samples] == samples


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


def test_slices_are_drawn_from_the_whole_volume_and_forced_ones_go_through_their_voxel() -> None:
    setup = setup_of(16, 12)

    samples = [draw_batch(setup, (0, k)) for k in range(600)]

    anywhere = Counter(sample[0].start[0] for sample in samples)
    assert set(anywhere) == set(range(30))
    assert max(anywhere.values()) < 20 + 5 * 20**0.5
    forced = Counter(sample[2].start[0] for sample in samples)
    assert set(forced) <= set(range(8, 24))
    assert forced[14] + forced[15] + forced[16] > 300


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


def test_chance_decides_which_patches_show_foreground_if_the_settings_say_so() -> None:
    setup = setup_of(12, 10, 8, foreground_is_drawn=True, foreground_share=0.33)
    only_the_corner = {
        case_id: replace(
            case, locations={"1": np.array([[0, 20, 20, 20]], np.int32), "2": np.empty((0, 4), np.int32)}
        )
        for case_id, case in setup.cases.items()
    }
    setup = replace(setup, cases=only_the_corner)
    (around,) = {sample.start for sample in draw_batch(with_share(setup, 1), (0, 0))}

    drawn = [[sample.start == around for sample in draw_batch(setup, (0, k))] for k in range(1000)]

    for position in range(3):
        assert abs(sum(one[position] for one in drawn) - 330) < 5 * (1000 * 0.33 * 0.67) ** 0.5
    assert not any(
        sample.start == around for k in range(9) for sample in draw_batch(with_share(setup, 0), (0, k))
    )


def with_share(setup: SamplingSetup, share: float) -> SamplingSetup:
    settings = setup.settings.model_copy(update={"foreground_share": share})
    return replace(setup, settings=settings)


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
        ({"mirror_axes": (3,)}, TrainingError, "mirror_axes names axis 3"),
        ({"swap_axis": 1}, TrainingError, "belong together"),
        ({"swap_axis": 1, "swapped_labels": (("a", "b"),)}, TrainingError, "no such label"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_the_first_batch(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        batches(setup_of(8, 8, 8, **settings), 0, CPU)


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
