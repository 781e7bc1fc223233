import json
from pathlib import Path
from typing import Any

import pytest

from core.conversion.legacy import convert_labels
from core.errors import DatasetError
from tests.core.conversion.converting import converted, edit, kinds
from tests.older_layouts import older_json


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"0": "background", "1": "a", "2": "b"}, {"background": 0, "a": 1, "b": 2}),
        ({"2": "b", "1": "a", "0": "background"}, {"b": 2, "a": 1, "background": 0}),
        ({"0": "Background", "1": "a"}, {"background": 0, "a": 1}),
        ({"0": "unlabelled", "1": "a"}, {"background": 0, "a": 1}),
        ({"1": "liver"}, {"background": 0, "liver": 1}),
        ({"background": 0, "liver": 1}, {"background": 0, "liver": 1}),
        ({"00": "background", "01": "a"}, {"background": 0, "a": 1}),
    ],
)
def test_labels_are_turned_round(labels: dict[str, Any], expected: dict[str, int]) -> None:
    found, notes = convert_labels(labels)

    assert list(found.items()) == list(expected.items())
    assert len(notes) == (0 if "background" in labels or "background" in labels.values() else 1)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"0": "background", "1": "tumor", "2": "tumor"}, "two labels have the name 'tumor'"),
        ({"0": "background", "1": "a", "01": "b"}, "two labels have the number 1"),
        ({"0": "background", "one": "a"}, "'one' is no number"),
        ({"0": "background", "1.0": "a"}, "'1.0' is no number"),
        ({"0": "background", "-1": "a"}, "'-1' is no number"),
        ({"0": "background", "9" * 5000: "a"}, "is no number"),
        ({"0": "background", "\u0661": "a"}, "is no number"),
        ({"0": "background", "1": ["a", "b"]}, "label 1 has no single name"),
        ({"0": "background", "1": ""}, "label 1 has no single name"),
        ({"0": "background", "1": 5}, "label 1 has no single name"),
        ({"0": "liver", "1": "background"}, "label 1 is named background"),
        ({"liver": 0, "background": 1}, "label 1 is named background"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(labels: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        convert_labels(labels)


def test_a_number_that_comes_twice_is_not_lost(decathlon: Path, target: Path) -> None:
    text = json.dumps(older_json()).replace('"2": "right"', '"1": "right"')
    (decathlon / "dataset.json").write_text(text)

    with pytest.raises(DatasetError, match="'1' twice"):
        converted(decathlon, target)


def test_gaps_between_label_numbers_are_a_problem_with_a_cure(decathlon: Path, target: Path) -> None:
    edit(decathlon, labels={"0": "background", "1": "left", "5": "right"})

    done = converted(decathlon, target)

    assert kinds(done) == {None: "invalid-labels"}
    assert "renumber" in done.problems[0].message
    assert not target.exists()
