"""dataset.json: read as a whole, or as far as it can be used."""

import json
from typing import Any

import pytest

from core.domain.dataset import DatasetDescription, read_draft
from core.errors import DatasetError

SOUND: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "tumor": 1},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}


def text(**changes: Any) -> str:
    return json.dumps({**SOUND, **changes})


def test_what_is_sound_is_read_alike_in_both_ways() -> None:
    draft = read_draft(text())

    assert draft.mistakes == ()
    assert draft.description == DatasetDescription.parse(text())
    assert (draft.training_cases, draft.file_ending, draft.channel_names) == (3, ".nii.gz", {"0": "CT"})


def test_unknown_entries_are_kept() -> None:
    description = DatasetDescription.parse(text(licence="CC0", mine=[1]))

    assert description.to_json() == {**SOUND, "licence": "CC0", "mine": [1]}


def test_channels_are_in_the_order_of_their_numbers() -> None:
    description = DatasetDescription.parse(text(channel_names={"10": "k", "2": "c", "0": "a"}))

    assert description.channels == ("a", "c", "k")


def test_all_missing_entries_are_named_in_one_sentence() -> None:
    with pytest.raises(DatasetError, match="lacks channel_names, labels, numTraining, file_ending; add"):
        DatasetDescription.parse("{}")


def test_a_mistake_leaves_the_other_entries_usable() -> None:
    draft = read_draft(text(numTraining="3", labels=["tumor"], channel_names={"0": 1, "1": "b"}))

    assert draft.description is None
    assert len(draft.mistakes) == 3
    assert (draft.training_cases, draft.labels, draft.file_ending) == (None, None, ".nii.gz")
    assert draft.channel_names == {"0": "1", "1": "b"}


def test_labels_of_older_versions_are_understood_and_told_how_to_write() -> None:
    draft = read_draft(text(labels={"0": "background", "1": "tumor"}))

    assert draft.labels == {"background": 0, "tumor": 1}
    assert '"labels": {"background": 0, "tumor": 1}' in draft.mistakes[0].message


def test_an_ending_without_its_dot_is_understood() -> None:
    draft = read_draft(text(file_ending="mha"))

    assert draft.file_ending == ".mha"
    assert len(draft.mistakes) == 1


def test_a_listed_case_that_is_wrong_leaves_the_others() -> None:
    sound = {"images": ["a.mha"], "label": "b.mha"}

    draft = read_draft(text(dataset={"a": sound, "b": {"images": []}, "c": 5}))

    assert list(draft.listed or {}) == ["a"]
    assert {mistake.case for mistake in draft.mistakes} == {"b", "c"}


@pytest.mark.parametrize("written", ["NaN", "Infinity", '{"x": 1, "x": 2}'])
def test_what_pythons_parser_lets_pass_is_refused(written: str) -> None:
    with pytest.raises(DatasetError, match=r"NaN|Infinity|twice"):
        DatasetDescription.parse(text()[:-1] + f', "other": {written}}}')


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert DatasetDescription.parse("\ufeff" + text()) == DatasetDescription.parse(text())
    assert DatasetDescription.parse(text().encode("utf-8-sig")) == DatasetDescription.parse(text())
