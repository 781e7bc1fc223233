"""One function per job kind: payload → workspace → verb of core → files and a result."""

import json
import logging
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from app.payloads import (
    CaseSummary,
    Checkpoint,
    ClassSummary,
    IngestPayload,
    IngestResult,
    ObjectRef,
    PlannedConfiguration,
    PlanPayload,
    PlanResult,
    PredictPayload,
    PredictResult,
    PreprocessPayload,
    PreprocessResult,
    SelectPayload,
    SelectResult,
    TrainPayload,
    TrainResult,
    ValidationScore,
    WorkOrder,
)
from app.storage import StoreError
from core import pipeline
from core.domain.dataset import DatasetDescription, DatasetProblem
from core.domain.fingerprint import Fingerprint
from core.domain.labels import label_key
from core.domain.model import (
    CHECKPOINT_FILE,
    EPOCHS_FILE,
    FOLD_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
    fold_name,
)
from core.domain.plan import ConfigurationName
from core.domain.progress import Observer
from core.domain.record import Record, write_json
from core.domain.report import EvaluationReport
from core.errors import DatasetError, PlanError, TrainingError
from worker.archive import ArchiveError
from worker.observer import CheckpointObserver, Message, PipeObserver
from worker.preprocessed import preprocessed_here, preprocessing_digest, read_plan
from worker.raw import conversion_of
from worker.workspace import Workspace, case_object, is_readable, link_or_copy

if TYPE_CHECKING:
    from core.inference.model import LoadedModel

log = logging.getLogger(__name__)

Files = Mapping[str, Path]

PLANS_FILE, FINGERPRINT_FILE = "plans.json", "dataset_fingerprint.json"

DEFAULT_CONFIGURATIONS = ("3d_fullres", "2d")
"""What a training takes when the request leaves it open: the first that the plan has, else whatever it has."""

FOLD_FILES = (WEIGHTS_FILE, FOLD_FILE, EPOCHS_FILE, "validation/summary.json")
"""What of a trained fold is kept; a fold that validated nothing has no summary."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How this machine works."""

    threads: int | None
    """For the arithmetic; None: one per core."""
    checkpoint_seconds: float
    """How often a training hands its checkpoint over."""


def perform(
    order: WorkOrder, workspace: Workspace, observer: PipeObserver, conditions: Conditions
) -> Message:
    """Carry out any order but a prediction, which the warm predictor does.

    Args:
        order: Names the work.
        workspace: Where files are.
        observer: Told of progress.
        conditions: Of this machine.

    Raises:
        DomainError: The work cannot be done as it was ordered.
    """
    payload = order.payload
    match payload:
        case IngestPayload():
            return _message(ingest(payload, workspace, observer))
        case PlanPayload():
            return plan(order, payload, workspace, observer)
        case PreprocessPayload():
            return preprocess(order, payload, workspace, observer, threads=conditions.threads)
        case TrainPayload():
            return train(order, payload, workspace, observer, conditions)
        case SelectPayload():
            return select(order, payload, workspace, observer)
        case PredictPayload():
            raise TypeError("predictions belong to the predictor")


def ingest(payload: IngestPayload, workspace: Workspace, observer: Observer) -> IngestResult:
    """Unpack an archive and verify the dataset in it; what is wrong is a finding, not an error.

    Of a dataset that was converted, what could not be is found as well; the rest is verified all the same.
    """
    try:
        raw = workspace.raw_dataset(payload.archive, observer)
        found = pipeline.verify(raw, observer)
    except (ArchiveError, DatasetError) as error:
        problem = DatasetProblem(case=None, kind=error.kind, message=error.message)
        return IngestResult(description={}, reader=None, cases=(), problems=(problem,))
    conversion = conversion_of(raw)
    problems, notes = found.problems, found.notes
    if conversion is not None:
        problems = tuple(dict.fromkeys((*conversion.problems, *problems)))  # Both look at the labels.
        notes = (*conversion.notes, *notes)
    return IngestResult(
        description={} if found.description is None else found.description.to_json(),
        reader=found.reader,
        cases=tuple(CaseSummary(case=c.case_id, shape=c.shape, spacing=c.spacing) for c in found.cases),
        problems=problems,
        notes=notes,
        classes=tuple(ClassSummary.model_validate(one.to_json()) for one in found.classes),
    )


def plan(order: WorkOrder, payload: PlanPayload, workspace: Workspace, observer: Observer) -> Message:
    """Fingerprint the dataset and plan for it; what is there already is taken as it is."""
    outbox = workspace.outbox(order)
    reused: dict[str, ObjectRef] = {}
    files: dict[str, Path] = {}
    if payload.fingerprint is None:
        measured = files[FINGERPRINT_FILE] = outbox / FINGERPRINT_FILE
        pipeline.fingerprint(workspace.raw_dataset(payload.archive, observer), measured, observer)
    else:
        reused[FINGERPRINT_FILE] = payload.fingerprint
        measured = workspace.store.path(payload.fingerprint)
    if payload.plans is None:
        files[PLANS_FILE] = outbox / PLANS_FILE
        raw, request = workspace.raw_dataset(payload.archive, observer), _plan_request(payload)
        made = pipeline.plan_dataset(raw, _fingerprint(measured), request, files[PLANS_FILE])
    else:
        reused[PLANS_FILE] = payload.plans
        made = read_plan(workspace, payload.plans)
    stages = {name: made.configuration(name).previous_stage for name in made.configurations}
    chosen = () if payload.training_id is None else _configurations(stages, payload.configurations)
    result = PlanResult(
        files=reused,
        configurations=chosen,
        planned=tuple(PlannedConfiguration(name=name, previous_stage=one) for name, one in stages.items()),
        digests={name: preprocessing_digest(payload.archive, made, name) for name in chosen},
    )
    return _message(result, files)


def _plan_request(payload: PlanPayload) -> pipeline.PlanRequest:
    """Return what the planner needs to know of a payload."""
    return pipeline.PlanRequest(
        dataset_name=payload.dataset_name,
        preset=payload.preset,
        gpu_memory_gb=payload.gpu_memory_gb,
        target_spacing=payload.target_spacing,
        suppress_transpose=payload.suppress_transpose,
        plans_name=payload.plans_name,
    )


def preprocess(
    order: WorkOrder,
    payload: PreprocessPayload,
    workspace: Workspace,
    observer: Observer,
    *,
    threads: int | None,
) -> Message:
    """Preprocess every case, unless an earlier job did so with the same plan; the arrays go to the store."""
    if order.preprocessed is not None and _are_stored(workspace, order.preprocessed):
        return _message(order.preprocessed)
    folder, digest = preprocessed_here(payload, workspace, observer, threads=threads)
    cases, outbox = pipeline.preprocessed_cases(folder), workspace.outbox(order)
    files = {case_object(number): outbox / case_object(number) for number in range(len(cases))}
    for file, handed_over in zip(cases.values(), files.values(), strict=True):
        link_or_copy(file, handed_over)  # Nobody holds the folder while the parent brings them to the store.
    return _message(PreprocessResult(files={}, cases=tuple(cases), digest=digest), files)


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
    _begin_where_others_stopped(order, folder, workspace, watched)
    if order.preprocessed is None or not is_readable(order.preprocessed):
        arrays, _ = preprocessed_here(payload, workspace, observer, threads=conditions.threads)
    else:
        recipe = pipeline.preprocessing_digest(plan_, payload.configuration)
        arrays = workspace.fetch_preprocessed(order.preprocessed, recipe, observer)
    task = pipeline.TrainOrder(
        raw=raw,
        plan=plan_,
        configuration=payload.configuration,
        fold=payload.fold,
        settings=payload.settings,
        model=model,
        preprocessed=arrays,
        threads=conditions.threads,
    )
    try:
        report = pipeline.train(task, watched)
    finally:
        watched.hand_over()
    result = TrainResult(
        files={},
        configuration=payload.configuration,
        fold=payload.fold,
        mean_dice=report.foreground_mean.dice,
        validation=_validation(report, raw),
    )
    files = {name: folder / name for name in FOLD_FILES if (folder / name).is_file()}
    return _message(result, files | {MODEL_FILE: model / MODEL_FILE})


def _begin_where_others_stopped(
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
        workspace.fetch_checkpoint(stored.file, target, observer)
    except StoreError as error:
        log.warning("a stored checkpoint cannot be used", extra={"reason": error.message})
        target.unlink(missing_ok=True)
        return False
    return True


def _are_stored(workspace: Workspace, result: PreprocessResult) -> bool:
    """Whether every case of an earlier job is still in the store, in the form of this release."""
    if not is_readable(result):
        return False
    try:
        for ref in result.files.values():
            workspace.store.path(ref)
    except StoreError as error:
        log.warning("arrays are missing in the store and are made again", extra={"reason": error.message})
        return False
    return True


def select(order: WorkOrder, payload: SelectPayload, workspace: Workspace, observer: Observer) -> Message:
    """Choose the configuration that segments its validation cases best, and put the model together."""
    best, mean_dice, reason = _best(order.trained)
    folds = [result for result in order.trained if result.configuration == best]
    reused = {
        f"{fold_name(result.fold)}/{name}": ref
        for result in folds
        for name, ref in sorted(result.files.items())
        if name != MODEL_FILE
    }
    reused |= {
        MODEL_FILE: folds[0].files[MODEL_FILE],
        PLANS_FILE: payload.plans,
        FINGERPRINT_FILE: payload.fingerprint,
    }
    outbox = workspace.outbox(order)
    link_or_copy(workspace.raw_dataset(payload.archive, observer) / "dataset.json", outbox / "dataset.json")
    write_json(outbox / "provenance.json", _provenance(order, payload, reused))
    result = SelectResult(
        files=reused,
        configuration=best,
        folds=tuple(result.fold for result in folds),
        mean_dice=mean_dice,
        reason=reason,
    )
    return _message(result, {file.name: file for file in outbox.iterdir()})


def predict(
    order: WorkOrder,
    model: "LoadedModel",
    workspace: Workspace,
    observer: Observer,
    *,
    was_warm: bool,
) -> Message:
    """Segment one image with a loaded model."""
    payload = order.payload
    if not isinstance(payload, PredictPayload):
        raise TypeError(f"not a prediction: {payload.kind}")
    outbox = workspace.outbox(order)
    channels = []
    for number, ref in enumerate(payload.channels):
        channel = outbox / f"image_{number:04d}{payload.file_ending}"
        link_or_copy(workspace.store.path(ref), channel)
        channels.append(channel)
    segmentation = f"segmentation{payload.file_ending}"
    targets = pipeline.PredictionFiles(outbox / segmentation, outbox / "preview.png")
    done = pipeline.predict_files(model, channels, targets, observer)
    result = PredictResult(
        files={},
        volumes=done.volumes,
        timings=done.seconds,
        provenance={
            **done.provenance,
            "model_id": str(payload.model_id),
            "weights_sha256": _weights(payload.model_files),
            "input_sha256": [ref.sha256 for ref in payload.channels],
            "warm": was_warm,
            "versions": _versions(),
        },
    )
    return _message(result, {segmentation: targets.segmentation, "preview.png": outbox / "preview.png"})


def _message(result: Record, files: Files | None = None) -> Message:
    """Put a result and the files that belong to it into the last message of a child."""
    paths = {name: str(path) for name, path in (files or {}).items()}
    return {"event": "result", "result": result.to_json(), "files": paths}


def _fingerprint(path: Path) -> Fingerprint:
    """Read a fingerprint that the engine wrote."""
    return Fingerprint.model_validate_json(path.read_text())


def _configurations(
    stages: Mapping[ConfigurationName, str | None], wanted: tuple[ConfigurationName, ...] | None
) -> tuple[ConfigurationName, ...]:
    """Return the configurations to train.

    Args:
        stages: Every configuration of the plan, and the one whose segmentation it refines, if it does.
        wanted: What was asked for; None for what the plan suggests.

    Raises:
        PlanError: The plan does not have one that was asked for, or it cannot be trained by itself.
    """
    trainable = [name for name, previous in stages.items() if previous is None]
    choose = f"ask for: {', '.join(trainable)}" if trainable else "add one without previous_stage"
    if wanted is None:
        found = next((name for name in (*DEFAULT_CONFIGURATIONS, *trainable) if name in trainable), None)
        if found is None:
            raise PlanError(f"every configuration of the plan refines another one's segmentation; {choose}")
        return (found,)
    missing = [name for name in wanted if name not in stages]
    if missing:
        raise PlanError(
            f"the plan has no configuration {', '.join(missing)} for this dataset; {choose}",
            missing=[*missing],
        )
    later = [name for name in wanted if name not in trainable]
    if later:
        raise PlanError(
            f"{', '.join(later)} refines what {stages[later[0]]} has segmented; cascades are trained in a later "
            f"release; {choose}",
            configurations=[*later],
        )
    return wanted


def _label_names(description: DatasetDescription) -> dict[str, str]:
    """Return the name that stands for each label key of a report."""
    labels = description.label_set()
    return {
        label_key(head): name
        for head, name in zip(labels.foreground_heads, labels.foreground_names, strict=True)
    }


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


def _best(results: Iterable[TrainResult]) -> tuple[ConfigurationName, float | None, str]:
    """Return the configuration with the highest mean Dice over its validation cases, its Dice and why.

    Source:
        Engine specification B 7.6: mean over cases per label, then over labels; the first wins a tie.
    """
    cases: dict[ConfigurationName, list[ValidationScore]] = defaultdict(list)
    for result in results:
        cases[result.configuration].extend(result.validation)
    scored = {name: _mean_dice(scores) for name, scores in cases.items()}
    best = max(scored, key=lambda name: -1.0 if scored[name] is None else float(scored[name] or 0.0))
    figures = ", ".join(
        f"{name} {'not measured' if dice is None else f'{dice:.4f}'}" for name, dice in scored.items()
    )
    return best, scored[best], f"mean Dice of the validation cases: {figures}"


def _mean_dice(scores: Iterable[ValidationScore]) -> float | None:
    """Average over cases per label, then over labels, leaving out what is undefined."""
    per_label: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        for name, dice in score.dice.items():
            if dice is not None:
                per_label[name].append(dice)
    return fmean(fmean(values) for values in per_label.values()) if per_label else None


def _provenance(order: WorkOrder, payload: SelectPayload, files: Mapping[str, ObjectRef]) -> dict[str, Any]:
    """Say where a model comes from: what went in, by hash, and what computed it."""
    return {
        "version": 1,
        "training_id": str(payload.training_id),
        "dataset_sha256": payload.archive.sha256,
        "plans_sha256": payload.plans.sha256,
        "weights_sha256": _weights(files),
        "validation": [json.loads(result.model_dump_json(exclude={"files"})) for result in order.trained],
        "versions": _versions(),
        "machine": platform.machine(),
    }


def _weights(files: Mapping[str, ObjectRef]) -> dict[str, str]:
    """Hash of the weights per fold."""
    return {path.split("/")[0]: ref.sha256 for path, ref in files.items() if path.endswith(WEIGHTS_FILE)}


def _versions() -> dict[str, str]:
    """Versions of what computes."""
    found = {"python": platform.python_version()}
    for name in ("nnunet-service", "torch", "numpy", "SimpleITK"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
