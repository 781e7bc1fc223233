"""Class locations: which voxels are candidates, how many are drawn, in which order."""

import numpy as np

from core.domain.labels import label_set
from core.preprocessing.locations import class_locations

PLAIN = label_set({"background": 0, "a": 1, "b": 2}, None)
REGIONS = label_set({"background": 0, "whole": [2, 1], "core": 2}, (1, 2))
WITH_IGNORE = label_set({"background": 0, "a": 1, "ignore": 2}, None)


def test_the_draws_are_those_of_the_legacy_stream() -> None:
    labels_zyx = np.zeros((1, 4, 6), np.int16)
    labels_zyx.reshape(-1)[:10] = 1
    labels_zyx.reshape(-1)[10:17] = 2

    locations = class_locations(labels_zyx, PLAIN)

    assert locations["1"][:4].tolist() == [7, 2, 9, 1]
    assert (locations["2"][:3] - 10).tolist() == [6, 4, 0]
    assert sorted(locations["1"].tolist()) == list(range(10))


def test_an_absent_class_draws_nothing_and_does_not_touch_the_stream() -> None:
    only_b_zyx = np.zeros((1, 1, 12), np.int16)
    only_b_zyx[..., :10] = 2

    locations = class_locations(only_b_zyx, PLAIN)

    assert locations["1"].size == 0
    assert locations["1"].dtype == np.int64
    assert locations["2"][:4].tolist() == [7, 2, 9, 1]


def test_a_region_lists_its_labels_one_after_the_other() -> None:
    labels_zyx = np.array([[[1] * 5 + [2] * 5]], np.int16)

    locations = class_locations(labels_zyx, REGIONS)

    assert list(locations) == ["(2, 1)", "2"]
    assert locations["(2, 1)"][:4].tolist() == [2, 7, 4, 6]


def test_with_an_ignore_label_every_annotated_voxel_is_a_class() -> None:
    labels_zyx = np.array([[[2, 2, -1, 0, 1, 2]]], np.int16)

    locations = class_locations(labels_zyx, WITH_IGNORE)

    assert list(locations) == ["1", "(-1, 0, 1)"]
    assert sorted(locations["(-1, 0, 1)"].tolist()) == [2, 3, 4]


def test_large_classes_keep_ten_thousand_voxels_or_one_percent() -> None:
    labels_zyx = np.ones((2, 1000, 600), np.int16)
    labels_zyx[0, :20] = 2

    locations = class_locations(labels_zyx, PLAIN)

    assert locations["1"].size == 11_880
    assert locations["2"].size == 10_000
    assert (labels_zyx.reshape(-1)[locations["2"]] == 2).all()
    assert len(np.unique(locations["2"])) == 10_000
