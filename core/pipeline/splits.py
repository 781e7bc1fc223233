"""Which splits a training follows: those of the order, of the dataset, of its model's other folds, or the default."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.domain.dataset import CaseId
from core.domain.problems import some
from core.domain.record import write_json
from core.domain.splits import (
    SPLITS_FILE,
    Grouping,
    Patients,
    are_equal,
    grouped_cross_validation,
    patients_of,
    split_warnings,
)
from core.domain.training import Fold, Split
from core.errors import DatasetError, TrainingError
from core.io.cases import CaseFiles
from core.pipeline.model_folder import has_begun

log = logging.getLogger(__name__)

Wanted = Sequence[Split] | Grouping | None
"""Splits by fold number, or how patients are known; None for what the dataset brings along, or the default."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The splits of a model."""

    folds: Sequence[Split] | None
    """None where there are fewer cases, or patients, than folds."""
    patients: Patients | None
    """Who each case shows, where cases of a patient stay together."""

    of_other_folds: bool
    """Whether only the folds that the model has already say so."""


def choose_splits(wanted: Wanted, raw: Path, model: Path, case_ids: Sequence[CaseId]) -> Splits:
    """Return the splits that the folds of a model follow.

    Raises:
        TrainingError: They cannot be used, or the model has folds that followed other ones.
    """
    from core.training.splits import FOLDS, cross_validation, read_splits

    own = read_splits(model / SPLITS_FILE) if has_begun(model) else None
    patients: Patients | None = None
    folds: Sequence[Split] | None
    if isinstance(wanted, Grouping):
        patients = patients_of(case_ids, wanted)
        if len(set(patients.values())) < FOLDS:  # Enough for fold all; `split_of` refuses the others.
            return Splits(None, patients, of_other_folds=False)
        folds = grouped_cross_validation(patients, FOLDS)
    else:
        folds = read_splits(raw / SPLITS_FILE) if wanted is None else wanted
    if folds is None:
        default = cross_validation(case_ids) if len(case_ids) >= FOLDS else None
        differs = own is not None and (default is None or not are_equal(own, default))
        return Splits(own or default, patients, of_other_folds=differs)
    if own is not None and not are_equal(own, folds):
        raise TrainingError(
            f"{model.name} has folds that followed other splits, those in its {SPLITS_FILE}; train with these, or "
            "into another model folder"
        )
    return Splits(folds, patients, of_other_folds=False)


def split_of_fold(splits: Splits, case_ids: Sequence[CaseId], fold: Fold) -> Split:
    """Return the cases of one fold.

    Raises:
        TrainingError: There is no such fold, or too few cases.
    """
    from core.training.splits import split_of

    folds = splits.folds
    if splits.of_other_folds and folds is not None and fold != "all" and fold >= len(folds):
        raise TrainingError(
            f"fold {fold} is beyond the splits that other folds of the model followed; say again where they come "
            "from: how cases are grouped, or the file of splits",
            fold=fold,
        )
    return split_of(case_ids, folds, fold, splits.patients)


def references_of(case_ids: Iterable[CaseId], files: Sequence[CaseFiles]) -> dict[CaseId, Path]:
    """Return the label files of the cases of a fold.

    Args:
        case_ids: Of the fold.
        files: What the dataset has.

    Raises:
        DatasetError: It lacks a case, or the label file of one; each is named.
    """
    labels = {case.case_id: case.label for case in files}
    missing = sorted({case_id for case_id in case_ids if labels.get(case_id) is None})
    if missing:
        lacking = "images or label files" if len(missing) > 1 else "image or label file"
        raise DatasetError(
            f"the dataset has no {lacking} of {some(missing)}, which the fold needs; put what is missing back, or "
            "preprocess the dataset again",
            cases=[*missing],
        )
    return {case_id: label for case_id in case_ids if (label := labels[case_id]) is not None}


def keep_splits(splits: Splits, model: Path, case_ids: Sequence[CaseId]) -> None:
    """Write the splits into the model's folder, for its other folds, and warn of what is hardly meant."""
    if splits.folds is None:
        return
    for sentence in split_warnings(splits.folds, case_ids):
        log.warning("splits: %s", sentence)
    model.mkdir(parents=True, exist_ok=True)
    write_json(model / SPLITS_FILE, [split.to_json() for split in splits.folds])
