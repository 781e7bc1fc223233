"""A fingerprint says of a dataset what the reference's says, in the same draws."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from core.domain.progress import Progress, SilentObserver
from core.errors import CancelledError, DatasetError, ImageError
from core.fingerprinting import (
    SAMPLING_SEED,
    Samples,
    draw_samples,
    fingerprint_dataset,
    intensity_properties,
    percentile,
    value_at_rank,
)
from tests.factories import Recipe, case_name, make_dataset, make_phantom

SHARED = Path(__file__).resolve().parents[2] / "../shared"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the recorded results are not beside the repository"
)


FEW = 20_000
"""Draws; enough to be right within a few per cent."""


def drawn(samples: Samples) -> list[float]:
    return np.repeat(samples.values, np.diff(samples.up_to, prepend=0)).tolist()


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


def test_many_draws_are_taken_in_portions_of_the_same_stream() -> None:
    values = np.linspace(-3, 3, 1000, dtype=np.float32)
    indices = np.random.RandomState(SAMPLING_SEED).choice(1000, 2_500_000)

    (samples,) = draw_samples([values], 2_500_000)

    assert np.array_equal(np.diff(samples.up_to, prepend=0), np.bincount(indices, minlength=1000))


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

    assert [value_at_rank(samples, rank) for rank in range(len(row))] == row.tolist()


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
    assert percentile(samples, 37.5) == pytest.approx(np.percentile(row, 37.5))


def test_shapes_are_those_after_cropping_and_spacings_those_of_the_files(tmp_path: Path) -> None:
    make_dataset(
        tmp_path, Recipe(cases=3, shape=(12, 20, 18), margin=2, spacing=(3.0, 0.5, 0.8), ending=".mha")
    )

    found = fingerprint_dataset(tmp_path, SilentObserver(), 1, FEW)

    assert found.shapes_after_crop == ((8, 16, 14),) * 3
    assert found.spacings == ((3.0, 0.5, 0.8),) * 3
    assert found.median_relative_size_after_cropping == (8 * 16 * 14) / (12 * 20 * 18)
    assert found.foreground_intensity_properties_per_channel["0"].mean == pytest.approx(190, abs=5)


def test_pictures_have_a_channel_per_color(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=2, shape=(1, 32, 40), channels=3, ending=".png"))

    found = fingerprint_dataset(tmp_path, SilentObserver(), 1, FEW)

    assert sorted(found.foreground_intensity_properties_per_channel) == ["0", "1", "2"]
    assert found.spacings == ((999.0, 1.0, 1.0),) * 2


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(vary_shape=True, channels=2))

    assert fingerprint_dataset(tmp_path, SilentObserver(), 1, FEW) == fingerprint_dataset(
        tmp_path, SilentObserver(), 3, FEW
    )


def test_a_dataset_that_marks_nothing_is_refused(tmp_path: Path) -> None:
    recipe = Recipe(cases=2)
    make_dataset(tmp_path, replace(recipe, labels={"background": 0}))

    (tmp_path / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "a"}, "labels": {"background": 0, "x": 1}, "numTraining": 2, "file_ending": ".nii.gz"})
    )  # fmt: skip

    with pytest.raises(DatasetError, match="marks anything"):
        fingerprint_dataset(tmp_path, SilentObserver(), 1, FEW)


def test_a_case_without_label_file_is_named(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    (tmp_path / "labelsTr" / f"{case_name(2)}.nii.gz").unlink()

    with pytest.raises(DatasetError, match="phantom_002 has no label file"):
        fingerprint_dataset(tmp_path, SilentObserver(), 1, FEW)


def test_a_case_without_a_channel_is_named(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(channels=2))
    (tmp_path / "imagesTr" / f"{case_name(3)}_0001.nii.gz").unlink()

    with pytest.raises(ImageError, match="phantom_003 has 1 channels"):
        fingerprint_dataset(tmp_path, SilentObserver(), 1, FEW)


class StopsAfterTwo(SilentObserver):
    def __init__(self) -> None:
        self.seen: list[Progress] = []

    def report(self, progress: Progress) -> None:
        self.seen.append(progress)

    def stop_requested(self) -> bool:
        return len(self.seen) == 2


def test_it_stops_when_asked(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    observer = StopsAfterTwo()

    with pytest.raises(CancelledError, match="after 2 of 5"):
        fingerprint_dataset(tmp_path, observer, 1, FEW)

    assert [(p.stage, p.done, p.total) for p in observer.seen] == [
        ("fingerprint", 1, 5),
        ("fingerprint", 2, 5),
    ]


def test_phantoms_keep_their_foreground_within_the_body() -> None:
    phantom = make_phantom()

    assert (phantom.voxels_czyx[0][phantom.labels_zyx > 0] > 0).all()


@pytest.mark.parity
@needs_shared
@pytest.mark.parametrize(
    ("raw", "recorded"),
    [
        ("data/Dataset004_Hippocampus", "goldens/fingerprint/dataset_fingerprint.json"),
        *(
            (
                f"goldens/preprocess_goldens/dev/{name}/raw",
                f"goldens/preprocess_goldens/dev/{name}/fingerprint.json",
            )
            for name in ("example_ct", "ignore", "multichannel_maskcrop")
        ),
    ],
)
def test_fingerprint_equals_the_reference(raw: str, recorded: str) -> None:
    expected = json.loads((SHARED / recorded).read_text())

    found = fingerprint_dataset(SHARED / raw, SilentObserver(), 2).to_json()

    assert found["shapes_after_crop"] == expected["shapes_after_crop"]
    assert found["spacings"] == expected["spacings"]
    assert found["median_relative_size_after_cropping"] == expected["median_relative_size_after_cropping"]
    for channel, properties in expected["foreground_intensity_properties_per_channel"].items():
        assert found["foreground_intensity_properties_per_channel"][channel] == pytest.approx(
            properties, rel=1e-6
        )
