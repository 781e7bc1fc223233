"""Class locations: which voxels are candidates, how many are drawn, in which order."""

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain.labels import LabelSet, label_key, label_set, location_key
from core.io.case_store import Locations
from core.io.image import LabelArray
from core.preprocessing.locations import BLOCK_VOXELS, SEED, class_locations

PLAIN = label_set({"background": 0, "a": 1, "b": 2}, None)
REGIONS = label_set({"background": 0, "whole": [2, 1], "core": 2}, (1, 2))
WITH_IGNORE = label_set({"background": 0, "a": 1, "ignore": 2}, None)
REGIONS_WITH_IGNORE = label_set({"background": 0, "all": [3, 1, 2], "two": [2, 3], "ignore": 4}, (1, 2))


def places(voxels: Locations, labels_zyx: LabelArray) -> npt.NDArray[np.intp]:
    """Where voxels lie in C order."""
    assert (voxels[:, 0] == 0).all()
    found: npt.NDArray[np.intp] = np.ravel_multi_index(tuple(voxels[:, 1:].T), labels_zyx.shape)
    return found


def drawn_from_a_list(labels_zyx: LabelArray, labels: LabelSet) -> dict[str, list[int]]:
    """What the specification says, word by word."""
    stream = np.random.RandomState(SEED)
    keys = [*labels.foreground_heads, *([] if labels.ignore is None else [labels.annotated])]
    drawn = {}
    for key in keys:
        candidates = np.concatenate(
            [np.flatnonzero(labels_zyx == label) for label in (key if isinstance(key, tuple) else (key,))]
        )
        count = max(min(10_000, len(candidates)), -(-len(candidates) // 100))
        drawn[label_key(key)] = (
            candidates[stream.choice(len(candidates), count, replace=False)].tolist()
            if len(candidates)
            else []
        )
    return drawn


def test_the_draws_are_those_of_the_legacy_stream() -> None:
    labels_zyx = np.zeros((1, 4, 6), np.int16)
    labels_zyx.reshape(-1)[:10] = 1
    labels_zyx.reshape(-1)[10:17] = 2

    locations = class_locations(labels_zyx, PLAIN)

    assert places(locations["1"], labels_zyx)[:4].tolist() == [7, 2, 9, 1]
    assert (places(locations["2"], labels_zyx)[:3] - 10).tolist() == [6, 4, 0]
    assert sorted(places(locations["1"], labels_zyx).tolist()) == list(range(10))


def test_an_absent_class_draws_nothing_and_does_not_touch_the_stream() -> None:
    only_b_zyx = np.zeros((1, 1, 12), np.int16)
    only_b_zyx[..., :10] = 2

    locations = class_locations(only_b_zyx, PLAIN)

    assert locations["1"].shape == (0, 4)
    assert locations["1"].dtype == np.int32
    assert places(locations["2"], only_b_zyx)[:4].tolist() == [7, 2, 9, 1]


def test_a_region_lists_its_labels_one_after_the_other() -> None:
    labels_zyx = np.array([[[1] * 5 + [2] * 5]], np.int16)

    locations = class_locations(labels_zyx, REGIONS)

    assert list(locations) == ["(2, 1)", "2"]
    assert places(locations["(2, 1)"], labels_zyx)[:4].tolist() == [2, 7, 4, 6]


def test_with_an_ignore_label_every_annotated_voxel_is_a_class() -> None:
    labels_zyx = np.array([[[2, 2, -1, 0, 1, 2]]], np.int16)

    locations = class_locations(labels_zyx, WITH_IGNORE)

    assert list(locations) == ["1", "(-1, 0, 1)"]
    assert sorted(places(locations["(-1, 0, 1)"], labels_zyx).tolist()) == [2, 3, 4]


def test_large_classes_keep_ten_thousand_voxels_or_one_percent() -> None:
    labels_zyx = np.ones((2, 1000, 600), np.int16)
    labels_zyx[0, :20] = 2
    assert labels_zyx.size > BLOCK_VOXELS

    locations = class_locations(labels_zyx, PLAIN)

    assert len(locations["1"]) == 11_880
    assert len(locations["2"]) == 10_000
    assert (labels_zyx[tuple(locations["2"][:, 1:].T)] == 2).all()
    assert len(np.unique(places(locations["2"], labels_zyx))) == 10_000


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.sampled_from([PLAIN, REGIONS, WITH_IGNORE, REGIONS_WITH_IGNORE]),
    st.sampled_from([1, 7, 64, BLOCK_VOXELS]),
)
def test_blocks_of_any_size_give_what_one_long_list_gives(
    seed: int, shape: tuple[int, int, int], labels: LabelSet, block: int
) -> None:
    rng = np.random.default_rng(seed)
    labels_zyx = rng.choice(np.arange(-2, 7), shape, p=rng.dirichlet(np.full(9, 0.5))).astype(np.int16)

    found = class_locations(labels_zyx, labels, block)

    listed = {key: places(voxels, labels_zyx).tolist() for key, voxels in found.items()}
    assert listed == drawn_from_a_list(labels_zyx, labels)


def test_a_region_of_one_label_is_found_under_that_label() -> None:
    labels = label_set({"background": 0, "whole": [1, 2], "core": [2]}, (1, 2))
    labels_zyx = np.asarray([[[0, 1, 2, 2]]], np.int16)

    locations = class_locations(labels_zyx, labels)

    assert sorted(places(locations["2"], labels_zyx).tolist()) == [2, 3]
    assert [location_key(head) for head in labels.foreground_heads] == list(locations)
