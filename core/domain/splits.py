"""Splits that somebody chose: written by hand, or drawn so that all cases of a patient stay on one side."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from core.domain.dataset import CaseId
from core.domain.problems import counted, some
from core.domain.record import JSON_NOUNS, Record, describe, parse_json
from core.domain.training import Split
from core.errors import TrainingError

SPLITS_FILE = "splits_final.json"
"""Splits, in a dataset's folder or a model's."""

Patients = Mapping[CaseId, str]
"""Who each case shows."""

TRAINING_SHARE = 0.8
"""Of the cases, in folds beyond the splits (Engine specification B 4.1)."""


class Grouping(Record):
    """How the patient of a case is known, by one of the two."""

    pattern: str | None = Field(default=None, min_length=1)
    """Regular expression that is looked for in a case identifier; its first group is the patient."""
    patients: dict[CaseId, str] | None = None
    """Case by case."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        """Refuse none and both."""
        if (self.pattern is None) == (self.patients is None):
            raise ValueError("give either pattern or patients")
        return self


def parse_splits(text: str | bytes, name: str = SPLITS_FILE) -> tuple[Split, ...]:
    """Read the text of a splits_final.json.

    Args:
        text: A list of {"train": [...], "val": [...]}, any number of them.
        name: What the file is called in a sentence.

    Raises:
        TrainingError: It is something else, or a fold trains on nothing.

    Source:
        Engine specification A 1.9.
    """
    try:
        splits = TypeAdapter(tuple[Split, ...]).validate_python(json.loads(text))
    except ValidationError as error:
        raise TrainingError(f"{name} cannot be used: {describe(error)}", file=name) from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{name} is not valid JSON: {error}", file=name) from error
    if not splits:
        raise TrainingError(f"{name} lists no split; list at least one, or delete it", file=name)
    return splits


def parse_patients(text: str | bytes, name: str) -> dict[CaseId, str]:
    """Read the text of a file that says which patient each case shows.

    Args:
        text: An object of case identifiers, each with a patient: a text or a whole number.
        name: What the file is called in a sentence.

    Raises:
        TrainingError: It is something else.
    """
    values = parse_json(text, name, TrainingError)
    wrong = [case for case, patient in values.items() if type(patient) not in {str, int}]
    if wrong:
        found = JSON_NOUNS.get(type(values[wrong[0]]), "an object")
        raise TrainingError(
            f"{name}: the patient of {some(wrong)} must be a text or a whole number, not {found}", file=name
        )
    return {case: str(patient) for case, patient in values.items()}


def patients_of(case_ids: Sequence[CaseId], grouping: Grouping) -> dict[CaseId, str]:
    """Return the patient of each case.

    Raises:
        TrainingError: The pattern is no regular expression, has no group, or finds no patient in some cases; or
            cases are missing among the patients. The sentence names them.
    """
    if grouping.patients is not None:
        missing = sorted(set(case_ids) - set(grouping.patients))
        if missing:
            raise TrainingError(
                f"no patient is given for {some(missing)}; add {'it' if len(missing) == 1 else 'them'}",
                cases=list(missing),
            )
        unknown = sorted(set(grouping.patients) - set(case_ids))
        if unknown:
            raise TrainingError(
                f"patients are given for cases that do not exist: {some(unknown)}; correct the names",
                cases=list(unknown),
            )
        return {case: grouping.patients[case] for case in case_ids}
    pattern = _compiled(grouping.pattern or "")
    found = {case: match[1] for case in case_ids if (match := pattern.search(case)) and match[1]}
    missing = sorted(set(case_ids) - set(found))
    if missing:
        raise TrainingError(
            f"{pattern.pattern!r} finds no patient in {some(missing)}; write an expression whose first group is the "
            "patient in every case identifier",
            cases=list(missing),
        )
    return found


def _compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern that has a group.

    Raises:
        TrainingError: It cannot be read, or has none.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise TrainingError(f"{pattern!r} is no regular expression: {error}") from error
    if compiled.groups == 0:
        raise TrainingError(
            f"{pattern!r} has no group; put what names the patient in parentheses, such as '^([^_]+)_'"
        )
    return compiled


def split_between(case_ids: Iterable[CaseId], validating: Collection[CaseId]) -> Split:
    """Return a split of all cases by those that validate, in the order of the identifiers."""
    ordered = sorted(case_ids)
    return Split(
        train=tuple(case for case in ordered if case not in validating),
        val=tuple(case for case in ordered if case in validating),
    )


def grouped_cross_validation(patients: Patients, folds: int) -> tuple[Split, ...]:
    """Deal patients into folds: each validates in exactly one, with all its cases.

    Whoever has most cases is dealt first, to the fold with the fewest, so that no two folds differ by more cases
    than one patient has. Among patients with as many cases a digest of their names decides, which is the same on
    every machine and has nothing to do with their order.

    Args:
        patients: Of every case.
        folds: How many.

    Raises:
        TrainingError: There are fewer patients than folds.
    """
    cases = _by_patient(patients)
    if len(cases) < folds:
        raise TrainingError(
            f"{counted(len(cases), 'patient')} cannot be dealt into {folds} folds; check how cases are grouped, "
            "train fold 'all', or write splits of your own",
            patients=len(cases),
            folds=folds,
        )
    validating: list[set[CaseId]] = [set() for _ in range(folds)]
    for patient in sorted(cases, key=lambda one: (-len(cases[one]), _drawn(one))):
        min(validating, key=len).update(cases[patient])
    return tuple(split_between(patients, part) for part in validating)


def grouped_split(patients: Patients, fold: int) -> Split:
    """Draw the patients of a fold beyond the cross-validation: about four fifths of the cases train.

    Raises:
        TrainingError: There is only one patient.
    """
    cases = _by_patient(patients)
    if len(cases) == 1:
        raise TrainingError(f"fold {fold} cannot be drawn from one patient; train fold 'all'", fold=fold)
    most = len(patients) - int(TRAINING_SHARE * len(patients))
    first, *others = sorted(cases, key=lambda one: _drawn(f"{fold} {one}"))
    validating = set(cases[first])
    for patient in others[:-1]:
        if len(validating) + len(cases[patient]) <= most:
            validating.update(cases[patient])
    return split_between(patients, validating)


def _by_patient(patients: Patients) -> dict[str, list[CaseId]]:
    """Return the cases of each patient."""
    cases = defaultdict(list)
    for case, patient in patients.items():
        cases[patient].append(case)
    return cases


def _drawn(text: str) -> bytes:
    """Return what looks like chance, and is the same for the same text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def require_known_cases(splits: Sequence[Split], case_ids: Sequence[CaseId]) -> None:
    """Refuse splits that name other cases than there are.

    Raises:
        TrainingError: They do; the sentence names them.
    """
    unknown = sorted({case for split in splits for case in (*split.train, *split.val)} - set(case_ids))
    if unknown:
        folds = [fold for fold, split in enumerate(splits) if {*split.train, *split.val} & {*unknown}]
        raise TrainingError(
            f"fold {some(folds)} names cases that are not preprocessed: {some(unknown)}; "
            f"correct {SPLITS_FILE} or preprocess the dataset again",
            folds=list(folds),
            cases=list(unknown),
        )


def split_warnings(splits: Sequence[Split], case_ids: Sequence[CaseId]) -> list[str]:
    """Say what is allowed in splits, but hardly meant: cases on both sides of a fold, and cases in none."""
    sentences = []
    for fold, split in enumerate(splits):
        both = sorted(set(split.train) & set(split.val))
        if both:
            sentences.append(
                f"fold {fold} trains on {some(both)} and validates on them too; its scores tell little"
            )
    unused = sorted(set(case_ids) - {case for split in splits for case in (*split.train, *split.val)})
    if unused:
        sentences.append(f"no fold uses {some(unused)}; add what is missing to the splits")
    return sentences


def are_equal(some_splits: Sequence[Split], others: Sequence[Split]) -> bool:
    """Return whether splits have the same cases on the same sides, in whatever order."""
    sides = [[(set(one.train), set(one.val)) for one in splits] for splits in (some_splits, others)]
    return sides[0] == sides[1]
