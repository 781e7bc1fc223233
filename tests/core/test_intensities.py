"""Draws are those of the legacy generator, and statistics those of all draws in a row."""

from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from core.intensities import (
    KEPT_PORTIONS,
    PORTION_WORDS,
    SAMPLING_SEED,
    Samples,
    draw_samples,
    intensity_properties,
    percentiles,
    values_at_ranks,
)


def drawn(samples: Samples) -> list[float]:
    return sorted(np.repeat(samples.values, samples.counts).tolist())


def test_draws_are_those_of_the_specification() -> None:
    (samples,) = draw_samples([np.arange(10, 20, dtype=np.float32)], 6)

    assert drawn(samples) == sorted([13, 16, 15, 14, 18, 19])


def test_channels_draw_from_one_stream() -> None:
    image_cyx = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    foreground = np.zeros((4, 4), bool)
    foreground[1:3, 1:3] = True

    first, second = draw_samples([channel[foreground] for channel in image_cyx], 6)

    assert drawn(first) == sorted([10, 10, 9, 6, 5, 5])
    assert drawn(second) == sorted([21, 22, 26, 22, 26, 22])


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 12)
    | st.integers(1, 70_000)
    | st.sampled_from([2**k + d for k in range(1, 17) for d in (-1, 0, 1)]),
    st.lists(st.integers(0, 9) | st.integers(0, 30_000), min_size=1, max_size=3),
)
def test_draws_are_those_of_the_legacy_generator(count: int, draws: list[int]) -> None:
    values = np.arange(count, dtype=np.float32)
    most = max(draws)
    generator = np.random.RandomState(SAMPLING_SEED)
    expected = [np.sort(generator.choice(count, most)).tolist() for _ in draws]

    found = draw_samples([values] * len(draws), most)

    assert [drawn(samples) for samples in found] == expected


@pytest.mark.parametrize("count", [1000, 3_000_000])
def test_many_draws_are_taken_in_portions_of_the_same_stream(count: int) -> None:
    draws = 2 * PORTION_WORDS + 12_345
    values = np.arange(count, dtype=np.float32)
    indices = np.random.RandomState(SAMPLING_SEED).choice(count, draws)

    (samples,) = draw_samples([values], draws)

    assert np.array_equal(
        np.bincount(samples.values.astype(int), weights=samples.counts, minlength=count),
        np.bincount(indices, minlength=count),
    )


@pytest.mark.slow
def test_the_stream_goes_on_behind_what_is_kept_of_it() -> None:
    draws = (KEPT_PORTIONS + 1) * PORTION_WORDS
    indices = np.random.RandomState(SAMPLING_SEED).choice(1024, draws)

    for _ in range(2):
        (samples,) = draw_samples([np.arange(1024, dtype=np.float32)], draws)

        assert np.array_equal(
            np.bincount(samples.values.astype(int), weights=samples.counts), np.bincount(indices)
        )


def test_a_case_without_foreground_draws_nothing() -> None:
    (samples,) = draw_samples([np.empty(0, np.float32)], 100)

    assert samples.count == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        arrays.arrays(
            np.float32,
            st.integers(0, 30),
            elements=st.one_of(
                st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False),
                st.integers(-3, 3).map(float),
            ),
        ),
        min_size=1,
        max_size=4,
    ).filter(lambda cases: any(len(case) for case in cases)),
    st.integers(1, 40),
)
def test_order_statistics_equal_those_of_all_draws_in_a_row(cases: list[np.ndarray], draws: int) -> None:
    samples = [draw_samples([case], draws)[0] for case in cases]
    row = np.sort(np.concatenate([drawn(case) for case in samples]))

    assert values_at_ranks(samples, range(len(row))) == row.tolist()


def test_statistics_equal_those_of_all_draws_in_a_row() -> None:
    rng = np.random.default_rng(7)
    cases = [rng.normal(50, 20, 400).astype(np.float32), rng.integers(-9, 9, 90).astype(np.float32)]
    samples = [draw_samples([case], 300)[0] for case in cases]
    row = np.concatenate([drawn(case) for case in samples])

    found = intensity_properties(samples)

    expected = [row.mean(), row.std(), row.min(), row.max(), np.median(row), *np.percentile(row, (0.5, 99.5))]
    assert [
        found.mean, found.std, found.min, found.max, found.median, found.percentile_00_5, found.percentile_99_5
    ] == pytest.approx(expected, rel=1e-9)  # fmt: skip
    assert percentiles(samples, [37.5]) == pytest.approx([np.percentile(row, 37.5)])


def test_counts_take_few_bytes() -> None:
    few, many, listed = (
        draw_samples([np.arange(count, dtype=np.float32)], 10_000)[0] for count in (5000, 3, 20_000)
    )

    assert [samples.counts.dtype for samples in (few, many, listed)] == [np.uint8, np.uint16, np.uint8]
    assert floor(few.count) == many.count == listed.count == 10_000
