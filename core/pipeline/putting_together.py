"""The model that comes of a selection: one configuration or an ensemble, with its postprocessing and its reasons."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Final

from core.domain.ensemble import ENSEMBLE_FILE, MEMBERS_FOLDER, EnsembleRecord
from core.domain.exchange import ORIGIN_FILE
from core.domain.fingerprint import FINGERPRINT_FILE
from core.domain.model import EPOCHS_FILE, FOLD_FILE, MODEL_FILE, PREVIOUS_FOLDER, WEIGHTS_FILE, fold_name
from core.domain.postprocessing import POSTPROCESSING_FILE, Postprocessing
from core.domain.pretraining import PRETRAINED_FILE
from core.domain.record import write_json
from core.domain.report import EvaluationReport
from core.domain.selection import SELECTION_FILE, Selection
from core.domain.splits import SPLITS_FILE
from core.domain.training import Fold
from core.evaluation.evaluate import write_summary
from core.pipeline.cascades import keep_previous, link_or_copy
from core.pipeline.crossval import VALIDATION_FOLDER, Crossval, ResultFolder

MODEL_FILES: Final = (
    *(MODEL_FILE, "plans.json", "dataset.json", FINGERPRINT_FILE, SPLITS_FILE, ORIGIN_FILE),
    "provenance.json",
)
"""What of a model does not belong to a fold; a postprocessing of its own no longer counts."""

FOLD_FILES: Final = (
    *(WEIGHTS_FILE, FOLD_FILE, EPOCHS_FILE, PRETRAINED_FILE),
    f"{VALIDATION_FOLDER}/summary.json",
    *("checkpoint_final.pth", "debug.json"),
)
"""What belongs to one; the last two where the reference trained it."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was found to be the best."""

    members: Sequence[ResultFolder]
    """One, or those whose probabilities are averaged."""
    selection: Selection
    postprocessing: Postprocessing
    report: EvaluationReport
    """Scores of the cross-validation before postprocessing."""


def put_together(out: Path, chosen: Chosen, crossval: Crossval) -> Selection:
    """Write the folder of what was chosen, whole or not at all: a model's or, of several, that of an ensemble.

    Args:
        out: Does not exist, or is empty.
        chosen: With postprocessing.json, selection.json and summary.json.
        crossval: Which folds to take, and where stages before may be.

    Returns:
        The selection, with notes about what is missing for predicting.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    place = out.with_name(f".{out.name}.{token_hex(4)}.partial")
    place.mkdir()
    try:
        notes = list(chosen.selection.notes)
        if len(chosen.members) == 1:
            notes += _put_model(chosen.members[0], place, crossval)
        else:
            for member in chosen.members:
                notes += _put_model(member, place / MEMBERS_FOLDER / member.name, crossval)
            record = EnsembleRecord(members=tuple(member.name for member in chosen.members))
            write_json(place / ENSEMBLE_FILE, record.to_json())
        selection = chosen.selection.model_copy(update={"notes": tuple(notes)})
        write_json(place / POSTPROCESSING_FILE, chosen.postprocessing.to_json())
        write_json(place / SELECTION_FILE, selection.to_json())
        write_summary(chosen.report, place)
        place.replace(out)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return selection


def _put_model(member: ResultFolder, place: Path, crossval: Crossval) -> list[str]:
    """Put the files of a model in a place; return what the user should know of it."""
    _put_files(member.folder, place, crossval.folds)
    if member.configuration is None:
        return [f"{member.name} has no {MODEL_FILE}; import it with import-model before predicting"]
    stage = member.plan.configuration(member.configuration).previous_stage
    if stage is None:
        return []
    inner = member.folder / PREVIOUS_FOLDER
    before = next((model.folder for model in crossval.models if model.configuration == stage), None)
    if inner.is_dir() or before is not None:
        keep_previous(inner if before is None or inner.is_dir() else before, place, stage)
        return []
    return [
        f"{member.name} refines what {stage} segments, whose model is not at hand; name it for predicting"
    ]


def _put_files(model: Path, place: Path, folds: Sequence[Fold]) -> None:
    """Link or copy what predicting needs, and what is known of the training."""
    folders = [fold_name(fold) for fold in folds]
    names = [*MODEL_FILES, *(f"{folder}/{name}" for folder in folders for name in FOLD_FILES)]
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (model / name).is_file():
            link_or_copy(model / name, place / name)
