import numpy as np
import pytest

from core.domain.postprocessing import Postprocessing
from core.inference.postprocess import postprocessed
from core.io.image import LabelArray


def _map(*rows: str) -> LabelArray:
    return np.asarray([[[int(value) for value in row] for row in rows]], dtype=np.uint8)


def _after(labels_zyx: LabelArray, *groups: tuple[int, ...]) -> LabelArray:
    return postprocessed(labels_zyx, Postprocessing(keep_largest=groups))


def test_only_the_largest_component_stays() -> None:
    labels = _map("110001", "010001", "000000")

    kept = _after(labels, (1,))

    assert kept.tolist() == _map("110000", "010000", "000000").tolist()
    assert kept.dtype == np.uint8
    assert labels[0, 0, 5] == 1


def test_components_that_are_equally_large_all_stay() -> None:
    assert _after(_map("110110", "000000", "001000"), (1,)).tolist() == [
        _map("110110", "000000", "000000")[0].tolist()
    ]


def test_voxels_that_share_only_a_corner_belong_together() -> None:
    labels = np.zeros((2, 3, 3), dtype=np.int16)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    labels[0, 2, 2] = 1  # A corner of (1, 1, 1) as well.
    labels[1, 0, 0] = 2

    assert _after(labels, (1,)) is labels


def test_the_labels_of_a_group_are_looked_at_together_and_others_stay() -> None:
    labels = _map("120003", "000001", "330020")

    kept = _after(labels, (1, 2))
    without = _after(_map("122003", "000000", "330020"), (1, 2))

    assert kept.tolist() == labels.tolist()  # Two pairs, the second across a corner.
    assert without.tolist() == _map("122003", "000000", "330000").tolist()


def test_steps_see_what_those_before_left() -> None:
    labels = _map("1110022", "0000000", "0200000")

    assert _after(labels, (1, 2), (2,)).tolist() == _map("1110000", "0000000", "0000000").tolist()
    assert _after(labels, (2,), (1, 2)).tolist() == _map("1110000", "0000000", "0000000").tolist()
    assert _after(labels, (2,)).tolist() == _map("1110022", "0000000", "0000000").tolist()


def test_nothing_to_remove_leaves_the_map() -> None:
    labels = _map("0000", "0300")

    assert _after(labels, (1,), (3,)) is labels
    assert _after(labels) is labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
def test_a_2d_array_has_eight_neighbours(dtype: type[np.integer]) -> None:
    labels = np.asarray([[1, 0, 0, 0], [0, 1, 0, 1]], dtype=dtype)

    kept = _after(labels, (1,))

    assert kept.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert kept.dtype == dtype
