from collections import Counter
from dataclasses import replace

import numpy as np

from core.training.samples import SampleParameters, SamplingSetup, draw_batch
from tests.core.training.setups import (
    setup_of,
)


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
