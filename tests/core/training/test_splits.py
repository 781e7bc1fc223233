import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.training import Split
from core.errors import TrainingError
from core.training.splits import cross_validation, read_splits, split_of

RECORDED = Path(__file__).resolve().parents[3] / "../shared/goldens/plans/splits_final.json"


def named(count: int) -> list[str]:
    return [f"case_{number:02}" for number in range(count)]


def numbers(cases: tuple[str, ...]) -> list[int]:
    return [int(case.removeprefix("case_")) for case in cases]


@pytest.mark.parametrize(
    ("count", "validating"),
    [
        (5, [[0], [4], [3], [1], [2]]),
        (7, [[3, 6], [0, 4], [1], [5], [2]]),
        (10, [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]]),
        (12, [[0, 3, 8], [7, 10, 11], [6, 9], [1, 4], [2, 5]]),
        (23, [[3, 8, 10, 17, 19], [0, 7, 12, 15, 16], [6, 11, 14, 18, 20], [9, 13, 21, 22], [1, 2, 4, 5]]),
    ],
)
def test_reference_vectors(count: int, validating: list[list[int]]) -> None:
    splits = cross_validation(named(count)[::-1])

    assert [numbers(split.val) for split in splits] == validating


def test_a_fold_beyond_the_splits_is_drawn() -> None:
    split = split_of(named(10), None, 5)

    assert numbers(split.train) == [0, 8, 4, 5, 3, 9, 7, 6]
    assert numbers(split.val) == [1, 2]


@given(count=st.integers(2, 60), folds=st.integers(2, 8), seed=st.integers(0, 2**32 - 1))
def test_every_case_validates_once(count: int, folds: int, seed: int) -> None:
    cases = named(max(count, folds))

    splits = cross_validation(cases, folds, seed)

    assert sorted(case for split in splits for case in split.val) == cases
    assert all(sorted((*split.train, *split.val)) == cases for split in splits)
    assert max(len(split.val) for split in splits) - min(len(split.val) for split in splits) <= 1


def test_fold_all_trains_and_validates_on_everything_even_with_few_cases() -> None:
    assert split_of(["b", "a"], None, "all") == Split(train=("a", "b"), val=("a", "b"))


def test_fewer_cases_than_folds_are_refused_with_the_cure() -> None:
    with pytest.raises(TrainingError, match=r"4 cases.*'all'.*own"):
        split_of(named(4), None, 0)
    with pytest.raises(TrainingError, match=r"^1 case cannot be dealt into 5 folds"):
        split_of(named(1), None, 0)


def test_impossible_folds_are_refused() -> None:
    own = [Split(train=("case_00",), val=("case_77",))]

    with pytest.raises(TrainingError, match="case_77"):
        split_of(named(3), own, 0)
    with pytest.raises(TrainingError, match="-1"):
        split_of(named(3), own, -1)
    for huge in (1000, 2**32 - 12345, 10**30):
        with pytest.raises(TrainingError, match=rf"fold {huge} does not exist; .* from 0 to 999, or 'all'"):
            split_of(named(10), None, huge)
    with pytest.raises(TrainingError, match="fold 1"):
        split_of(named(1), own, 1)
    with pytest.raises(TrainingError, match="preprocess"):
        split_of([], None, "all")


def test_splits_of_ones_own_are_read(tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    assert read_splits(path) is None

    path.write_text('[{"train": ["a", "b"], "val": ["c"], "by": "hand"}]')
    splits = read_splits(path)

    assert split_of(["a", "b", "c"], splits, 0).val == ("c",)


@pytest.mark.parametrize(
    "text", ["", "[", "[]", '{"train": []}', '[{"train": [], "val": []}]', '[{"train": ["a"]}]']
)
def test_unusable_splits_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(text)

    with pytest.raises(TrainingError, match="splits_final"):
        read_splits(path)


@pytest.mark.parity
@pytest.mark.skipif(not RECORDED.exists(), reason="../shared is absent: no recorded splits")
def test_splits_equal_the_recorded_ones() -> None:
    recorded = json.loads(RECORDED.read_text())
    cases = sorted({case for split in recorded for case in (*split["train"], *split["val"])})

    assert [split.to_json() for split in cross_validation(cases)] == recorded


def test_every_split_equals_the_references() -> None:
    """The digest is over the validation sets that scikit-learn's KFold drew for 5 to 300 cases."""
    digest = hashlib.sha256()
    for count in range(5, 301):
        cases = [f"case_{number:03}" for number in range(count)]
        drawn = [numbers(split.val) for split in cross_validation(cases)]
        digest.update(json.dumps(drawn).encode())

    assert digest.hexdigest() == "1fe8a96e4dd68efd9e5ab38555e0e339c4dd93da725486ca15ec9ecba61b2f4b"


@pytest.mark.parametrize(
    ("count", "fold", "validating"),
    [(10, 7, [3, 5]), (57, 23, [2, 22, 24, 25, 26, 29, 31, 32, 34, 46, 50, 52])],
)
def test_folds_beyond_equal_the_references(count: int, fold: int, validating: list[int]) -> None:
    assert numbers(split_of(named(count), None, fold).val) == validating


def test_splits_of_ones_own_may_be_any_number_and_overlap() -> None:
    own = [Split(train=("case_00", "case_01"), val=("case_01",))] * 7

    assert split_of(named(3), own, 6) == own[6]
    assert numbers(split_of(named(10), own, 7).val) == [3, 5]


def test_cases_of_a_patient_stay_together_in_folds_beyond() -> None:
    patients = {case: case[-1] for case in named(30)}

    split = split_of(named(30), None, 11, patients)

    assert not {case[-1] for case in split.train} & {case[-1] for case in split.val}
