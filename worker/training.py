"""The training job: one fold, from whichever checkpoint came furthest to the scores of its validation cases."""

import logging
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from app.log import LogFormat
from app.payloads import (
    VALIDATED_FILE,
    Beginning,
    Checkpoint,
    TrainPayload,
    TrainResult,
    ValidationScore,
    WorkOrder,
)
from app.storage import StoreError
from core import pipeline
from core.domain.dataset import DatasetDescription
from core.domain.labels import label_key
from core.domain.model import (
    CHECKPOINT_FILE,
    EPOCHS_FILE,
    FOLD_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    FoldRecord,
    fold_name,
)
from core.domain.pretraining import PRETRAINED_FILE, PretrainedRecord
from core.domain.progress import Observer
from core.domain.report import EvaluationReport
from core.domain.splits import SPLITS_FILE, Grouping, parse_patients, parse_splits
from core.domain.training import Split
from core.errors import TrainingError
from core.pipeline.cascades import NEXT_STAGE_FOLDER
from core.pipeline.crossval import REFERENCES_FOLDER, VALIDATION_FOLDER
from core.plots import PROGRESS_FILE
from worker.observer import CheckpointObserver, Message, PipeObserver, result_message
from worker.packing import bring_unpacked, pack
from worker.partner import Shared, Task
from worker.preprocessed import preprocessed_here, read_plan
from worker.together import fitting, train_together
from worker.workspace import Workspace, is_readable, link_or_copy

log = logging.getLogger(__name__)

MODEL_FILES = (WEIGHTS_FILE, FOLD_FILE, EPOCHS_FILE, PRETRAINED_FILE, "validation/summary.json")
"""What of a trained fold becomes part of a model; a fold that validated nothing has no summary."""

FOLD_FILES = (*MODEL_FILES, PROGRESS_FILE, CHECKPOINT_FILE)
"""What of a trained fold is kept; from its checkpoint it can be trained further."""

NEXT_STAGE_FILE = "predicted_next_stage.zip"
"""What a fold segmented for later stages of a cascade: a folder per configuration, a file per case."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How this machine works."""

    threads: int | None
    """For the arithmetic; None: one per core."""
    checkpoint_seconds: float
    """How often a training hands its checkpoint over."""
    processes: int = 1
    """How many train a fold together."""
    log_format: LogFormat = "plain"
    log_level: str = "INFO"


def train(
    order: WorkOrder,
    payload: TrainPayload,
    workspace: Workspace,
    observer: PipeObserver,
    conditions: Conditions,
) -> Message:
    """Train one fold, or go on where its last checkpoint stands, and score its validation cases.

    Raises:
        CancelledError: The observer asked to stop; the last checkpoint was handed over.
    """
    raw, plan_ = workspace.raw_dataset(payload.archive, observer), read_plan(workspace, payload.plans)
    model, outbox = workspace.training(order), workspace.outbox(order)
    folder = model / fold_name(payload.fold)
    watched = CheckpointObserver(observer, folder / CHECKPOINT_FILE, outbox, conditions.checkpoint_seconds)
    begin_where_others_stopped(order, folder, workspace, watched)
    if order.preprocessed is None or not is_readable(order.preprocessed):
        arrays, _ = preprocessed_here(payload, workspace, observer, threads=conditions.threads)
    else:
        recipe = pipeline.preprocessing_digest(plan_, payload.configuration)
        arrays = workspace.fetch_preprocessed(order.preprocessed, recipe, observer)
    before = _segmented_before(order, payload, model, workspace, observer)
    task = Task(
        raw=raw,
        plan=plan_,
        configuration=payload.configuration,
        fold=payload.fold,
        settings=payload.settings,
        model=model,
        preprocessed=arrays,
        threads=conditions.threads,
        splits=_splits(payload.beginning, workspace),
        previous=tuple(before),
        pretrained=_pretrained(payload.beginning, model, workspace, observer),
        goes_further=payload.goes_on_from is not None,
        save_probabilities=payload.kept == "probabilities",
    )
    try:
        report = _trained(task, str(order.job_id), conditions, outbox, watched)
    finally:
        watched.hand_over()
    record = FoldRecord.model_validate_json((folder / FOLD_FILE).read_bytes())
    result = TrainResult(
        files={},
        configuration=payload.configuration,
        fold=payload.fold,
        mean_dice=report.foreground_mean.dice,
        validation=_validation(report, raw),
        epochs=record.epochs,
        best_epoch=record.best_epoch,
        pretrained=_taken(folder),
    )
    keeps_validated = payload.kept != "nothing" and bool(report.metric_per_case)
    return result_message(result, _files(model, folder, outbox, keeps_validated=keeps_validated))


def _files(model: Path, folder: Path, outbox: Path, *, keeps_validated: bool) -> dict[str, Path]:
    """Return the files of a fold that are handed over; what is many files goes into a zip in the outbox.

    Raises:
        StorageFullError: The disk is full.
    """
    files = {name: folder / name for name in FOLD_FILES if (folder / name).is_file()}
    files |= {name: model / name for name in (MODEL_FILE, SPLITS_FILE) if (model / name).is_file()}
    handed_on = model / NEXT_STAGE_FOLDER
    if handed_on.is_dir():
        files[NEXT_STAGE_FILE] = pack(handed_on, handed_on.rglob("*"), outbox / NEXT_STAGE_FILE)
    if keeps_validated:
        paths = chain((folder / VALIDATION_FOLDER).iterdir(), (model / REFERENCES_FOLDER).iterdir())
        files[VALIDATED_FILE] = pack(model, paths, outbox / VALIDATED_FILE)
    return files


def _trained(
    task: Task, job_id: str, conditions: Conditions, outbox: Path, observer: Observer
) -> EvaluationReport:
    """Train a fold, with as many processes as the machine gives to one and the fold has use for."""
    processes = fitting(conditions.processes, task.plan.configuration(task.configuration))
    if processes == 1:
        return pipeline.train(task.order(), observer)
    shared = Shared(
        task=task, job_id=job_id, log_format=conditions.log_format, log_level=conditions.log_level
    )
    return train_together(shared, processes, outbox, observer)


def _splits(beginning: Beginning, workspace: Workspace) -> tuple[Split, ...] | Grouping | None:
    """Read the splits, or the patients, that a training brings along."""
    if beginning.splits is not None:
        return parse_splits(workspace.store.path(beginning.splits).read_bytes())
    if beginning.patients is not None:
        text = workspace.store.path(beginning.patients).read_bytes()
        return Grouping(patients=parse_patients(text, "the patients of the cases"))
    return None


def _pretrained(beginning: Beginning, model: Path, workspace: Workspace, observer: Observer) -> Path | None:
    """Bring the weights that a network begins with, into a folder that is named by their model."""
    wanted = beginning.pretrained
    if wanted is None:
        return None
    folder = model / "pretrained" / str(wanted.model_id)
    target = folder / fold_name(wanted.fold) / WEIGHTS_FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    workspace.fetch_file(wanted.weights, target, observer)
    return folder


def _taken(folder: Path) -> PretrainedRecord | None:
    """Return what a fold took from the weights that it began with."""
    file = folder / PRETRAINED_FILE
    return PretrainedRecord.model_validate_json(file.read_bytes()) if file.is_file() else None


def _segmented_before(
    order: WorkOrder, payload: TrainPayload, model: Path, workspace: Workspace, observer: Observer
) -> list[Path]:
    """Bring what the folds of the stage before segmented for this one; return a folder for each of them."""
    folders = []
    for result in order.trained:
        ref = result.files.get(NEXT_STAGE_FILE)
        if ref is None:
            continue
        target = model / "segmented_before" / f"{result.configuration}_{fold_name(result.fold)}"
        bring_unpacked(ref, target, workspace, observer)
        if (target / payload.configuration).is_dir():
            folders.append(target / payload.configuration)
    return folders


def begin_where_others_stopped(
    order: WorkOrder, folder: Path, workspace: Workspace, observer: CheckpointObserver
) -> None:
    """Give a fold's fresh folder the checkpoint of whichever earlier claim came furthest.

    On this machine there is one after each epoch; the store has what was last handed over. One that is
    damaged counts for nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, stored = folder / CHECKPOINT_FILE, order.checkpoint
    earlier = (_whole_checkpoint(model / folder.name) for model in workspace.earlier_trainings(order))
    source, epochs = max((found for found in earlier if found), default=(None, 0), key=lambda found: found[1])
    if stored is not None and stored.epochs > epochs and _fetch(workspace, stored, target, observer):
        source, epochs = None, stored.epochs
    if source is not None:
        link_or_copy(source, target)
    observer.starts_from(epochs, is_stored=stored is not None and stored.epochs == epochs)


def _whole_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """Return how far the training in a folder came, and the file that holds it."""
    try:
        return pipeline.find_checkpoint(folder)
    except TrainingError as error:
        log.warning("a local checkpoint cannot be used", extra={"reason": error.message})
        return None


def _fetch(workspace: Workspace, stored: Checkpoint, target: Path, observer: Observer) -> bool:
    """Bring a checkpoint from the store; return whether it was there, and whole."""
    try:
        workspace.fetch_file(stored.file, target, observer)
    except StoreError as error:
        log.warning("a stored checkpoint cannot be used", extra={"reason": error.message})
        target.unlink(missing_ok=True)
        return False
    return True


def _validation(report: EvaluationReport, raw: Path) -> tuple[ValidationScore, ...]:
    """Reduce a report to the Dice of each case and label."""
    description = DatasetDescription.parse((raw / "dataset.json").read_bytes())
    names, ending = _label_names(description), description.file_ending
    return tuple(
        ValidationScore(
            case=Path(scores.prediction_file).name.removesuffix(ending),
            dice={names[key]: value.dice for key, value in scores.metrics.items() if key in names},
        )
        for scores in report.metric_per_case
    )


def _label_names(description: DatasetDescription) -> dict[str, str]:
    """Return the name that stands for each label key of a report."""
    labels = description.label_set()
    return {
        label_key(head): name
        for head, name in zip(labels.foreground_heads, labels.foreground_names, strict=True)
    }
