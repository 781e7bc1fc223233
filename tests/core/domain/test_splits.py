from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.splits import (
    Grouping,
    are_equal,
    grouped_cross_validation,
    grouped_split,
    parse_patients,
    parse_splits,
    patients_of,
    require_known_cases,
    split_warnings,
)
from core.domain.training import Split
from core.errors import TrainingError

PATIENTS = {
    "anna_1": "anna", "anna_2": "anna", "anna_3": "anna", "ben_1": "ben", "cleo_1": "cleo", "cleo_2": "cleo",
    "dan_1": "dan", "eve_1": "eve", "fay_1": "fay",
}  # fmt: skip


@st.composite
def patients(draw: st.DrawFn) -> dict[str, str]:
    sizes = draw(st.lists(st.integers(1, 9), min_size=5, max_size=30))
    return {f"{one:02}_{scan}": f"{one:02}" for one, size in enumerate(sizes) for scan in range(size)}


@given(patients())
def test_patients_stay_together_and_folds_are_balanced(patients: dict[str, str]) -> None:
    splits = grouped_cross_validation(patients, 5)

    assert sorted(case for split in splits for case in split.val) == sorted(patients)
    for split in splits:
        assert sorted((*split.train, *split.val)) == sorted(patients)
        assert not {patients[case] for case in split.train} & {patients[case] for case in split.val}
    sizes = [len(split.val) for split in splits]
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= max(Counter(patients.values()).values())


@given(patients(), st.integers(5, 99))
def test_patients_stay_together_in_folds_beyond(patients: dict[str, str], fold: int) -> None:
    split = grouped_split(patients, fold)

    assert sorted((*split.train, *split.val)) == sorted(patients)
    assert split.val
    assert not {patients[case] for case in split.train} & {patients[case] for case in split.val}
    most = max(len(patients) - int(0.8 * len(patients)), *Counter(patients.values()).values())
    assert len(split.val) <= most


def test_grouped_splits_are_the_same_wherever_they_are_drawn() -> None:
    backwards = dict(reversed(PATIENTS.items()))

    splits = grouped_cross_validation(PATIENTS, 5)

    assert grouped_cross_validation(backwards, 5) == splits
    assert [split.val for split in splits] == [
        ("anna_1", "anna_2", "anna_3"),
        ("cleo_1", "cleo_2"),
        ("ben_1", "dan_1"),
        ("eve_1",),
        ("fay_1",),
    ]
    assert grouped_split(backwards, 7) == grouped_split(PATIENTS, 7)


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"6 patients cannot be dealt into 7 folds; .*'all'"):
        grouped_cross_validation(PATIENTS, 7)
    with pytest.raises(TrainingError, match=r"fold 9 .* one patient"):
        grouped_split({"a": "x", "b": "x"}, 9)


def test_a_pattern_finds_the_patient() -> None:
    assert patients_of(list(PATIENTS), Grouping(pattern="^([a-z]+)_")) == PATIENTS


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("^([a-z]+)_1", r"finds no patient in anna_2, anna_3, cleo_2; write"),
        ("x?()", "finds no patient in anna_1"),
        ("(", "no regular expression"),
        ("^[a-z]+_", "has no group; put"),
    ],
)
def test_a_pattern_that_does_not_find_every_patient_is_refused(pattern: str, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        patients_of(list(PATIENTS), Grouping(pattern=pattern))


def test_patients_must_be_those_of_the_cases() -> None:
    grouping = Grouping(patients=PATIENTS)

    assert patients_of(list(PATIENTS), grouping) == PATIENTS
    with pytest.raises(TrainingError, match="no patient is given for gil_1; add it"):
        patients_of([*PATIENTS, "gil_1"], grouping)
    with pytest.raises(TrainingError, match="do not exist: fay_1"):
        patients_of([case for case in PATIENTS if case != "fay_1"], grouping)


@pytest.mark.parametrize("values", [{}, {"pattern": "(a)", "patients": {}}, {"pattern": ""}])
def test_patients_are_known_in_one_way(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"either pattern or patients|at least 1 character"):
        Grouping.model_validate(values)


def test_a_file_of_patients_is_read() -> None:
    assert parse_patients('{"a": "x", "b": 7}', "p.json") == {"a": "x", "b": "7"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "must hold a JSON object"),
        ("{", "not valid JSON"),
        ('{"a": ["x"]}', "patient of a must be a text or a whole number, not a list"),
        ('{"a": true}', "not true or false"),
    ],
)
def test_a_file_of_something_else_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        parse_patients(text, "p.json")


def test_unknown_cases_are_named_with_their_folds() -> None:
    splits = [Split(train=("a",), val=("b",)), Split(train=("b",), val=("z",))]

    require_known_cases(splits, ["a", "b", "z"])
    with pytest.raises(TrainingError, match="fold 1 names cases that are not preprocessed: z"):
        require_known_cases(splits, ["a", "b"])


def test_what_is_hardly_meant_is_said() -> None:
    splits = [Split(train=("a", "b"), val=("b",)), Split(train=("a",), val=())]

    assert split_warnings(splits, ["a", "b", "c"]) == [
        "fold 0 trains on b and validates on them too; its scores tell little",
        "no fold uses c; add what is missing to the splits",
    ]
    assert split_warnings([Split(train=("a",), val=("b",))], ["a", "b"]) == []


def test_splits_are_compared_by_their_cases() -> None:
    one = parse_splits('[{"train": ["a", "b"], "val": ["c"]}]')

    assert are_equal(one, parse_splits('[{"train": ["b", "a"], "val": ["c"], "by": "hand"}]'))
    assert not are_equal(one, parse_splits('[{"train": ["a", "c"], "val": ["b"]}]'))
    assert not are_equal(one, [*one, *one])
