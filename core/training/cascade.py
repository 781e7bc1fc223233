"""What a later stage of a cascade is trained from: the segmentations of the stage before, case by case."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from core.domain.dataset import CaseId
from core.domain.plan import Configuration, ConfigurationName
from core.domain.training import Fold, Split
from core.errors import TrainingError
from core.io.next_stage import find_next_stage
from core.training.splits import FOLDS, cross_validation

MOST_NAMED = 10
"""Cases that a sentence names."""


def previous_files(
    folders: Sequence[Path], configuration: Configuration, name: ConfigurationName, case_ids: Sequence[CaseId]
) -> Mapping[CaseId, Path]:
    """Find what the stage before segmented in each case; nothing where no stage comes before.

    Args:
        folders: Where its folds left their segmentations of validation cases.
        configuration: That is to be trained.
        name: Of it.
        case_ids: Which cases are looked for.

    Raises:
        TrainingError: There are folders, but no stage comes before.
    """
    if configuration.previous_stage is None:
        if folders:
            raise TrainingError(
                f"configuration {name} is no later stage of a cascade; train it without a previous one"
            )
        return {}
    found = {case_id: find_next_stage(folders, case_id) for case_id in case_ids}
    return {case_id: file for case_id, file in found.items() if file is not None}


def require_previous(
    found: Mapping[CaseId, Path],
    split: Split,
    configuration: Configuration,
    case_ids: Sequence[CaseId],
    splits: Sequence[Split] | None,
) -> None:
    """Refuse to train a later stage of a cascade on cases that the stage before has not segmented.

    Args:
        found: From `previous_files`.
        split: The cases that are needed.
        configuration: That is to be trained.
        case_ids: Every case of the dataset.
        splits: Of somebody's own, by fold number; None for the default cross-validation.

    Raises:
        TrainingError: Some are missing; the sentence says which, and which folds segment them.

    Source:
        Engine specification B 4.4.
    """
    needed = sorted({*split.train, *split.val})
    missing = [case_id for case_id in needed if case_id not in found]
    if configuration.previous_stage is None or not missing:
        return
    folds = _folds_of(missing, case_ids, splits)
    before = configuration.previous_stage
    raise TrainingError(
        f"the segmentations by {before} are missing for {len(missing)} of {len(needed)} cases: {_listed(missing)}; "
        f"train fold{'s' * (len(folds) != 1)} {_listed(list(map(str, folds)))} of {before} first, and name its model "
        "as the previous one",
        cases=list(missing),
        folds=list(folds),
    )


def _folds_of(
    missing: Sequence[CaseId], case_ids: Sequence[CaseId], splits: Sequence[Split] | None
) -> list[Fold]:
    """Return the folds that validate cases; `all` where a case is in none."""
    known = splits or (cross_validation(case_ids) if len(case_ids) >= FOLDS else ())
    folds: list[Fold] = [fold for fold, split in enumerate(known) if {*split.val} & {*missing}]
    validated = {case_id for split in known for case_id in split.val}
    return folds if validated.issuperset(missing) else [*folds, "all"]


def _listed(names: Sequence[str]) -> str:
    """Put names into a sentence, not too many of them."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
