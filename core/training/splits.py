"""Cross-validation: which cases train and which validate, from the identifiers alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.domain.dataset import CaseId
from core.domain.problems import counted
from core.domain.splits import (
    TRAINING_SHARE,
    Patients,
    grouped_cross_validation,
    grouped_split,
    parse_splits,
    require_known_cases,
    split_between,
)
from core.domain.training import Fold, Split
from core.errors import TrainingError

FOLDS = 5
"""Parts of the cross-validation. Source: engine specification B 4.1, as all below."""

HIGHEST_FOLD = 999
"""Of those beyond the splits; nobody draws so many, and a longer number is a slip of the pen."""

SEED = 12345
"""Of the shuffle; for folds beyond the split their number is added."""


def cross_validation(case_ids: Sequence[CaseId], folds: int = FOLDS, seed: int = SEED) -> tuple[Split, ...]:
    """Deal the cases into folds; each case validates in exactly one.

    Args:
        case_ids: In any order.
        folds: How many, at least two.
        seed: Of the shuffle.

    Raises:
        TrainingError: There are fewer cases than folds.

    Source:
        Engine specification A 1.9, B 4.1.
    """
    ordered = sorted(case_ids)
    if len(ordered) < folds:
        raise TrainingError(
            f"{counted(len(ordered), 'case')} cannot be dealt into {folds} folds; add cases, train fold 'all', "
            "or send splits of your own",
            cases=len(ordered),
            folds=folds,
        )
    shuffled = np.arange(len(ordered))
    _generator(seed).shuffle(shuffled)
    parts = np.array_split(shuffled, folds)
    return tuple(split_between(ordered, {ordered[index] for index in part}) for part in parts)


def read_splits(path: Path) -> tuple[Split, ...] | None:
    """Read a splits_final.json, or return None where there is none.

    Raises:
        TrainingError: It holds no list of {"train": [...], "val": [...]}.

    Source:
        Engine specification A 1.9.
    """
    if not path.exists():
        return None
    return parse_splits(path.read_bytes(), path.name)


def split_of(
    case_ids: Sequence[CaseId], splits: Sequence[Split] | None, fold: Fold, patients: Patients | None = None
) -> Split:
    """Return the cases of one fold.

    Args:
        case_ids: Every preprocessed case, in any order.
        splits: Of somebody's own, by fold number; None for the cross-validation of the cases, or patients.
        fold: A number beyond the splits draws four fifths of the cases to train on; `all` trains and
            validates on every case.
        patients: Where cases of a patient stay together, who each case shows.

    Raises:
        TrainingError: There is no fold of that number, the splits name cases that do not exist, or there are
            too few cases or patients.

    Source:
        Engine specification A 1.9, B 4.1.
    """
    ordered = tuple(sorted(case_ids))
    if not ordered:
        raise TrainingError("there is no preprocessed case; preprocess the dataset first")
    if fold == "all":
        return Split(train=ordered, val=ordered)
    if not 0 <= fold <= HIGHEST_FOLD:
        raise TrainingError(
            f"fold {fold} does not exist; choose a number from 0 to {HIGHEST_FOLD}, or 'all'", fold=fold
        )
    if fold >= (FOLDS if splits is None else len(splits)):
        return _random_split(ordered, fold) if patients is None else grouped_split(patients, fold)
    dealt = splits
    if dealt is None:
        dealt = cross_validation(ordered) if patients is None else grouped_cross_validation(patients, FOLDS)
    require_known_cases(dealt, ordered)
    return dealt[fold]


def _random_split(ordered: Sequence[CaseId], fold: int) -> Split:
    """Draw the training cases of a fold beyond the split; their order is that of the draw."""
    count = int(TRAINING_SHARE * len(ordered))
    if count == 0:
        raise TrainingError(
            f"fold {fold} cannot be drawn from {counted(len(ordered), 'case')}; add cases or train fold 'all'",
            fold=fold,
        )
    drawn = _generator(SEED + fold).choice(len(ordered), count, replace=False).tolist()
    return Split(
        train=tuple(ordered[index] for index in drawn),
        val=tuple(case for index, case in enumerate(ordered) if index not in set(drawn)),
    )


def _generator(seed: int) -> np.random.RandomState:
    """Return numpy's legacy generator: published splits were drawn with it."""
    return np.random.RandomState(seed)
