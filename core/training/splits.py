"""Cross-validation: which cases train and which validate, from the identifiers alone."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from core.domain.dataset import CaseId
from core.domain.record import describe
from core.domain.training import Fold, Split
from core.errors import TrainingError

FOLDS = 5
"""Parts of the cross-validation. Source: engine specification B 4.1, as all below."""

SEED = 12345
"""Of the shuffle; for folds beyond the split their number is added."""

TRAINING_SHARE = 0.8
"""Of the cases, in folds beyond the split."""


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
            f"{len(ordered)} cases cannot be dealt into {folds} folds; add cases, train fold 'all', "
            "or send splits of your own",
            cases=len(ordered),
            folds=folds,
        )
    shuffled = np.arange(len(ordered))
    _generator(seed).shuffle(shuffled)
    validating = [set(part.tolist()) for part in np.array_split(shuffled, folds)]
    return tuple(
        Split(
            train=tuple(case for index, case in enumerate(ordered) if index not in part),
            val=tuple(case for index, case in enumerate(ordered) if index in part),
        )
        for part in validating
    )


def read_splits(path: Path) -> tuple[Split, ...] | None:
    """Read a splits_final.json, or return None where there is none.

    Raises:
        TrainingError: It holds no list of {"train": [...], "val": [...]}.

    Source:
        Engine specification A 1.9.
    """
    if not path.exists():
        return None
    try:
        splits = TypeAdapter(tuple[Split, ...]).validate_python(json.loads(path.read_bytes()))
    except ValidationError as error:
        raise TrainingError(f"{path.name} cannot be used: {describe(error)}", file=path.name) from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path.name} is not valid JSON: {error}", file=path.name) from error
    if not splits:
        raise TrainingError(f"{path.name} lists no split; list at least one, or delete it", file=path.name)
    return splits


def split_of(case_ids: Sequence[CaseId], splits: Sequence[Split] | None, fold: Fold) -> Split:
    """Return the cases of one fold.

    Args:
        case_ids: Every preprocessed case, in any order.
        splits: Of somebody's own, by fold number; None for the default cross-validation.
        fold: A number beyond the splits draws four fifths of the cases to train on; `all` trains and
            validates on every case.

    Raises:
        TrainingError: The fold is negative, names cases that do not exist, or there are too few cases.

    Source:
        Engine specification A 1.9, B 4.1.
    """
    ordered = tuple(sorted(case_ids))
    if not ordered:
        raise TrainingError("there is no preprocessed case; preprocess the dataset first")
    if fold == "all":
        return Split(train=ordered, val=ordered)
    if fold < 0:
        raise TrainingError(f"fold {fold} does not exist; choose a number from 0, or 'all'", fold=fold)
    if fold >= (FOLDS if splits is None else len(splits)):
        return _random_split(ordered, fold)
    split = (splits or cross_validation(ordered))[fold]
    unknown = sorted({*split.train, *split.val} - set(ordered))
    if unknown:
        raise TrainingError(
            f"fold {fold} names cases that are not preprocessed: {', '.join(unknown)}; "
            "correct splits_final.json or preprocess the dataset again",
            fold=fold,
            cases=list(unknown),
        )
    return split


def _random_split(ordered: Sequence[CaseId], fold: int) -> Split:
    """Draw the training cases of a fold beyond the split; their order is that of the draw."""
    count = int(TRAINING_SHARE * len(ordered))
    if count == 0:
        raise TrainingError(
            f"fold {fold} cannot be drawn from {len(ordered)} case; add cases or train fold 'all'", fold=fold
        )
    drawn = _generator(SEED + fold).choice(len(ordered), count, replace=False).tolist()
    return Split(
        train=tuple(ordered[index] for index in drawn),
        val=tuple(case for index, case in enumerate(ordered) if index not in set(drawn)),
    )


def _generator(seed: int) -> np.random.RandomState:
    """Return numpy's legacy generator: published splits were drawn with it."""
    return np.random.RandomState(seed)
