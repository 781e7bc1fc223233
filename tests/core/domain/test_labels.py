"""Labels, regions and the ignore label: what is declared, what is derived, what contradicts itself."""

from collections.abc import Sequence

import pytest

from core.domain.labels import label_key, label_mistakes, label_set
from core.errors import LabelsError

Declared = dict[str, int | Sequence[int]]


def test_regions_and_the_ignore_label_are_taken_apart() -> None:
    labels = label_set(
        {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}, [1, 2, 3]
    )

    assert labels.heads == ((1, 2, 3), (2, 3), 3)
    assert labels.labels == (0, 1, 2, 3)
    assert labels.foreground == (1, 2, 3)
    assert labels.ignore == 4
    assert labels.region_labels == (1, 2, 3)


def test_a_list_of_one_is_a_plain_label() -> None:
    labels = label_set({"background": 0, "a": [1], "b": 2}, None)

    assert not labels.has_regions
    assert labels.heads == (0, 1, 2)


def test_a_list_of_one_beside_regions_is_a_region() -> None:
    labels = label_set({"background": 0, "whole": [1, 2], "core": [2], "enhancing": 2}, [1, 2, 2])

    assert labels.heads == ((1, 2), (2,), 2)
    assert [label_key(head) for head in labels.foreground_heads] == ["(1, 2)", "(2,)", "2"]


@pytest.mark.parametrize(
    ("labels", "order", "words"),
    [
        ({"left": 0, "right": 1}, None, ['must contain "background": 0; ', "reserved", "give left another"]),
        (
            {"left": 1, "right": 3},
            None,
            ['must contain "background": 0', "found 1, 3; renumber them 1 to 2,"],
        ),
        ({"Background": 0, "a": 1}, None, ["not 'Background'"]),
        ({"background": [0], "a": 1}, None, ["not [0]"]),
        ({"background": 0, "a": 1, "ignore": [2]}, None, ["one number"]),
        ({"background": 0, "a": 1, "ignore": 1}, None, ["highest value, 2, not 1"]),
        ({"background": 0, "a": 1, "b": 1}, None, ["a and b"]),
        ({"background": 0, "a": [1, 2]}, None, ["1 entries", "it has none"]),
        ({"background": 0, "a": [1, 2], "b": 2}, [1], ["2 entries", "it has 1"]),
        ({"background": 0, "a": 1, "b": []}, [1, 2], ["labels b list no value"]),
        (
            {"background": 1, "a": 3, "ignore": 9},
            None,
            ["not 1", "found 1, 3", "the ignore label 2, the highest value, not 9"],
        ),
    ],
)
def test_every_contradiction_is_told_at_once(
    labels: Declared, order: list[int] | None, words: list[str]
) -> None:
    with pytest.raises(LabelsError) as raised:
        label_set(labels, order)

    assert raised.value.message.startswith("dataset.json: ")
    assert [word for word in words if word not in raised.value.message] == []
    assert label_mistakes(labels, order)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"left": 1, "right": 2}, 'labels must contain "background": 0'),
        ({"left": 1, "right": 2, "ignore": 3}, 'labels must contain "background": 0'),
        (
            {"background": 0, "ignore": 1, "b": 2},
            (
                "label values must be consecutive from 0, found 0, 2; renumber them 0 to 1, and the ignore label 2, "
                "the highest value, not 1, in dataset.json and in the label files"
            ),
        ),
    ],
)
def test_a_cure_leaves_nothing_to_be_cured(labels: Declared, sentence: str) -> None:
    assert label_mistakes(labels, None) == (sentence,)


def test_what_fits_together_has_no_mistake() -> None:
    assert label_mistakes({"background": 0, "a": 1, "ignore": 2}, None) == ()
