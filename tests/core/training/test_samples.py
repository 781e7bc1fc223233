from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from core.io.case_store import PreprocessedCase
from core.io.image import LabelArray
from core.training.positions import start_bounds
from core.training.samples import SampleParameters, SamplingSetup, draw_batch
from tests.core.training.setups import REGIONS, case_of, setup_of


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


def test_slices_are_drawn_from_the_whole_volume_and_forced_ones_go_through_their_voxel() -> None:
    setup = setup_of(16, 12)

    samples = [draw_batch(setup, (0, k)) for k in range(600)]

    anywhere = Counter(sample[0].start[0] for sample in samples)
    assert set(anywhere) == set(range(30))
    assert max(anywhere.values()) < 20 + 5 * 20**0.5
    forced = Counter(sample[2].start[0] for sample in samples)
    assert set(forced) <= set(range(8, 24))
    assert forced[14] + forced[15] + forced[16] > 300


def test_chance_decides_which_patches_show_foreground_if_the_settings_say_so() -> None:
    setup = one_voxel(12, 10, 8, foreground_is_drawn=True, foreground_share=0.33)
    (around,) = {sample.start for sample in draw_batch(with_share(setup, 1), (0, 0))}

    drawn = [[sample.start == around for sample in draw_batch(setup, (0, k))] for k in range(1000)]

    for position in range(3):
        assert abs(sum(one[position] for one in drawn) - 330) < 5 * (1000 * 0.33 * 0.67) ** 0.5
    assert not any(
        sample.start == around for k in range(9) for sample in draw_batch(with_share(setup, 0), (0, k))
    )


def one_voxel(*patch: int, **settings: Any) -> SamplingSetup:
    """Cases whose only voxel of foreground is where no patch lies by chance but rarely."""
    setup = setup_of(*patch, **settings)
    locations = {"1": np.array([[0, 20, 20, 20]], np.int32), "2": np.empty((0, 4), np.int32)}
    return replace(
        setup, cases={case_id: replace(case, locations=locations) for case_id, case in setup.cases.items()}
    )


def with_share(setup: SamplingSetup, share: float) -> SamplingSetup:
    settings = setup.settings.model_copy(update={"foreground_share": share})
    return replace(setup, settings=settings)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.33, 0.5, 1.0])
def test_the_last_positions_of_a_batch_show_foreground(share: float) -> None:
    setup = with_share(one_voxel(12, 10, 8), share)
    (around,) = {sample.start for sample in draw_batch(with_share(setup, 1), (0, 0))}

    drawn = [[sample.start == around for sample in draw_batch(setup, (0, k))] for k in range(40)]

    forced = [all(one[position] for one in drawn) for position in range(3)]
    assert forced == [position >= round(3 * (1 - share)) for position in range(3)]


@pytest.mark.parametrize("augmentation", ["default", "strong", "none"])
@pytest.mark.parametrize("patch", [(12, 10, 8), (3, 16, 16), (16, 12)])
def test_a_forced_patch_has_its_voxel_in_the_middle_but_for_the_lower_border(
    patch: tuple[int, ...], augmentation: str
) -> None:
    setup = setup_of(*patch, augmentation=augmentation, foreground_share=1)
    initial, shape = np.array(setup.geometry.initial), np.array((30, 34, 38))
    places = {case_id: foreground_of(case) for case_id, case in setup.cases.items()}

    samples = [sample for k in range(60) for sample in draw_batch(setup, (0, k))]

    low, _ = start_bounds((30, 34, 38), setup.geometry.initial, setup.geometry.patch)
    for sample in samples:
        middle = np.array(sample.start) + initial // 2
        is_clamped = np.array(sample.start) == low
        found = places[sample.case_id]
        assert ((found == middle) | (is_clamped & (found <= middle))).all(1).any()
        assert (middle < shape).all()


def test_every_class_is_shown_equally_often_however_small() -> None:
    setup = setup_of(3, 3, 3, foreground_share=1, augmentation="none")

    samples = [sample for k in range(500) for sample in draw_batch(setup, (0, k))]

    shown = Counter(
        int(labels_of(setup, sample)[tuple(first + 1 for first in sample.start)]) for sample in samples
    )
    assert set(shown) == {1, 2}
    assert abs(shown[1] - 750) < 5 * (1500 / 4) ** 0.5


@pytest.mark.parametrize("is_drawn", [False, True])
def test_with_an_ignore_label_every_patch_is_centred_on_an_annotated_voxel(is_drawn: bool) -> None:  # noqa: FBT001 - a parameter of the test
    labels_zyx = np.full((30, 34, 38), 3, np.int8)
    labels_zyx[13:18, 10:20, 12:22] = 0
    labels_zyx[13:15, 12:14, 12:14] = 1
    setup = setup_of(5, 5, 5, labels=REGIONS, augmentation="none", foreground_is_drawn=is_drawn)
    sparse = case_of(np.ones((2, 30, 34, 38), np.float32), labels_zyx, REGIONS)
    setup = replace(setup, cases={"sparse": sparse})

    samples = [sample for k in range(400) for sample in draw_batch(setup, (0, k))]

    centres = Counter(int(labels_zyx[tuple(first + 2 for first in sample.start)]) for sample in samples)
    assert set(centres) == {0, 1}
    forced = 0.33 if is_drawn else 1 / 3
    share = forced + (1 - forced) * 8 / 500
    assert abs(centres[1] - 1200 * share) < 5 * (1200 * share * (1 - share)) ** 0.5


def labels_of(setup: SamplingSetup, sample: SampleParameters) -> LabelArray:
    labels_zyx = setup.cases[sample.case_id].labels_zyx
    assert labels_zyx is not None
    return labels_zyx


def foreground_of(case: PreprocessedCase) -> npt.NDArray[np.int32]:
    return np.concatenate([case.locations["1"], case.locations["2"]])[:, 1:]
