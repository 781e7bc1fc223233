"""What the end of a job means for the thing that it was about: dataset, plan, training, model or prediction."""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import delete, select
from sqlalchemy.orm import Session, undefer

from app.db.base import now
from app.db.models import (
    Dataset,
    DatasetCase,
    DatasetPlan,
    Job,
    ModelExport,
    Prediction,
    StoredObject,
    TrainedModel,
    Training,
)
from app.errors import ConflictError
from app.jobs import JobKind, JobState, problem_document
from app.payloads import (
    ENSEMBLE_SIGN,
    PROBABILITIES_FILE,
    PROPERTIES_FILE,
    UNCERTAINTY_FILE,
    VALIDATED_FILE,
    ExportPayload,
    ExportResult,
    ImportResult,
    IngestResult,
    ObjectRef,
    PlanPayload,
    PlanResult,
    PredictResult,
    SelectResult,
)
from app.requests import TrainingRequest
from app.services import aliases, graph, models
from app.services.transitions import move
from core.domain.dataset import DatasetDescription, DatasetProblem
from core.domain.record import Record

KEYS_PER_QUERY = 1000
"""SQLite takes 32 766 parameters, PostgreSQL 65 535; preprocessed arrays of a large dataset are more files."""


def end(session: Session, job: Job, state: JobState, error: Mapping[str, JsonValue] | None = None) -> None:
    """Bring a job to a final state, and everything that hangs on it.

    Args:
        session: The transaction; it has locked the job and its parent.
        job: Which.
        state: Succeeded, failed or canceled.
        error: Problem document, unless it succeeded.
    """
    job.error = None if error is None else dict(error)
    move(session, job, state, "" if error is None else str(error.get("detail", "")))
    if state is not JobState.SUCCEEDED:
        _record_end_without_success(session, job)
    graph.settle(session, job)


def cancel(session: Session, job: Job) -> None:
    """End a job because a client asked for it."""
    end(session, job, JobState.CANCELED, canceled_by_request())


def canceled_by_request() -> dict[str, JsonValue]:
    """Describe why a job was canceled that somebody asked to cancel."""
    return problem_document(graph.CANCELED, "canceled by request")


def record_retry(session: Session, job: Job) -> None:
    """Take back what the bad end of a job meant for the thing that it was about.

    Raises:
        ConflictError: That is a plan which was deleted or replaced in the meantime, or needs a deleted model.
    """
    if job.kind is JobKind.INGEST:
        dataset = session.get_one(Dataset, job.dataset_id)
        dataset.state = "ingesting"
        dataset.problems = []
    elif job.kind is JobKind.PLAN and job.training_id is None:
        plan = _plan_of(session, job)
        if plan is None:
            raise ConflictError(
                "the plan that this job was to make was deleted or replaced; ask for a new one with "
                f"POST /datasets/{job.dataset_id}/plans",
                job_id=str(job.id),
            )
        plan.state = "planning"
    elif job.kind is JobKind.IMPORT_MODEL:
        session.get_one(TrainedModel, job.model_id).state = "importing"
    elif job.kind is JobKind.PREDICT:
        models.hold_for_retry(session, session.get_one(Prediction, job.prediction_id).model_id)


def record_success(session: Session, job: Job, result: Record) -> None:
    """Write what a finished job found to where users look for it, and the jobs that follow from it."""
    match result:
        case IngestResult():
            _record_ingest(session, job, result)
        case PlanResult():
            _record_plan(session, job, result)
        case SelectResult():
            _record_model(session, job, result)
        case PredictResult():
            _record_prediction(session, job, result)
        case ImportResult():
            _record_import(session, job, result)
        case ExportResult():
            payload = ExportPayload.model_validate(job.payload)
            session.get_one(ModelExport, payload.export_id).file_key = result.files["model.zip"].key
        case _:  # Preprocessing and training leave nothing but their result.
            pass


def _record_end_without_success(session: Session, job: Job) -> None:
    """Leave nothing behind that waits for a job that has ended: a dataset becomes invalid and says why."""
    if job.kind is JobKind.INGEST:
        dataset = session.get_one(Dataset, job.dataset_id)
        document = job.error or {}
        problem = DatasetProblem(
            case=None,
            kind=str(document.get("code", "canceled")),
            message=str(document.get("detail", "the upload was canceled; send it again")),
        )
        dataset.state = "invalid"
        dataset.problems = [problem.to_json()]
    elif job.kind is JobKind.PLAN and (plan := _plan_of(session, job)) is not None:
        plan.state = "failed"
    elif job.kind is JobKind.IMPORT_MODEL:
        session.get_one(TrainedModel, job.model_id).state = "failed"


def register_objects(session: Session, refs: Iterable[ObjectRef]) -> None:
    """Write the rows of files that were published; those already known stay as they are."""
    wanted = {ref.key: ref for ref in refs}
    for keys in _portions(list(wanted)):
        known = session.scalars(select(StoredObject.key).where(StoredObject.key.in_(keys)))
        for key in sorted(set(keys) - set(known)):
            ref = wanted[key]
            session.add(StoredObject(key=ref.key, sha256=ref.sha256, size_bytes=ref.size_bytes))
    session.flush()


def _portions(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    """Cut a list into as many keys as one query may name."""
    return (keys[start : start + KEYS_PER_QUERY] for start in range(0, len(keys), KEYS_PER_QUERY))


def _record_ingest(session: Session, job: Job, result: IngestResult) -> None:
    dataset = session.get_one(Dataset, job.dataset_id)
    dataset.state = "invalid" if result.problems else "ready"
    dataset.description = result.description
    dataset.reader = result.reader
    dataset.problems = [problem.to_json() for problem in result.problems]
    dataset.notes = [note.to_json() for note in result.notes]
    dataset.classes = [one.to_json() for one in result.classes]
    session.add_all(
        DatasetCase(
            dataset_id=dataset.id, case_id=case.case, shape=list(case.shape), spacing=list(case.spacing)
        )
        for case in result.cases
    )


def _record_plan(session: Session, job: Job, result: PlanResult) -> None:
    payload = PlanPayload.model_validate(job.payload)
    plans_key = result.files["plans.json"].key
    dataset = session.get_one(Dataset, payload.dataset_id)
    dataset.fingerprint_key = dataset.fingerprint_key or result.files["dataset_fingerprint.json"].key
    if payload.training_id is not None:
        session.get_one(Training, payload.training_id).plans_key = plans_key
        graph.expand(session, job, result)
    elif (plan := _plan_of(session, job)) is not None:
        plan.state, plan.plans_key, plan.updated_at = "ready", plans_key, now()
        plan.configurations = [configuration.to_json() for configuration in result.planned]


def _plan_of(session: Session, job: Job) -> DatasetPlan | None:
    """Lock the plan that a job is to make; None if it is gone or something else is kept in its place."""
    return session.scalar(select(DatasetPlan).where(DatasetPlan.job_id == job.id).with_for_update())


def _record_model(session: Session, job: Job, result: SelectResult) -> None:
    training = session.get_one(Training, job.training_id)
    dataset = session.get_one(Dataset, training.dataset_id)
    request = TrainingRequest.model_validate(training.request)
    description = DatasetDescription.model_validate(dataset.description)
    model = TrainedModel(
        name=request.name or training.name,
        training_id=training.id,
        dataset_id=dataset.id,
        configuration=result.configuration,
        folds=list(result.folds),
        channels=list(description.channels),
        labels=dict((dataset.description or {})["labels"]),
        mean_dice=result.mean_dice,
        reason=result.reason,
        image=None if result.image is None else result.image.to_json(),
        files={path: ref.to_json() for path, ref in {**result.reused, **_by_path(result)}.items()},
    )
    session.add(model)
    aliases.number(session, model)
    _let_go_of_validated(session, training.id)


def _let_go_of_validated(session: Session, training_id: UUID) -> None:
    """Delete what the folds of a training segmented in their validation cases; the choice is made."""
    trained = select(Job).where(Job.training_id == training_id, Job.kind == JobKind.TRAIN)
    results = [job.result or {} for job in session.scalars(trained.options(undefer(Job.result)))]
    keys = [
        result["files"][VALIDATED_FILE]["key"]
        for result in results
        if VALIDATED_FILE in result.get("files", {})
    ]
    models.forget_files(session, training_id, keys)
    session.execute(delete(StoredObject).where(StoredObject.key.in_(keys)))


def _record_import(session: Session, job: Job, result: ImportResult) -> None:
    """Fill in what was imported, and let go of the zip: the model has all that is needed of it."""
    model = session.get_one(TrainedModel, job.model_id)
    archive_key, model.archive_key = model.archive_key, None
    model.state = "ready"
    model.name = model.name or result.name
    model.configuration = ENSEMBLE_SIGN.join(result.configurations)
    model.folds = list(result.folds)
    model.channels = list(result.channels)
    model.labels = dict(result.labels)
    model.reason = "; ".join(result.notes)
    model.image = result.image.to_json()
    model.files = {path: ref.to_json() for path, ref in _by_path(result).items()}
    aliases.number(session, model)
    session.execute(delete(StoredObject).where(StoredObject.key == archive_key))


def _by_path(result: SelectResult | ImportResult) -> dict[str, ObjectRef]:
    """Return the files of a model folder that a job made, by their paths there."""
    return {path: result.files[str(number)] for number, path in enumerate(result.paths)}


def _record_prediction(session: Session, job: Job, result: PredictResult) -> None:
    prediction = session.get_one(Prediction, job.prediction_id)
    prediction.segmentation_key = result.files["segmentation" + prediction.file_ending].key
    for column, name in (
        ("preview_key", "preview.png"),
        ("probabilities_key", PROBABILITIES_FILE),
        ("properties_key", PROPERTIES_FILE),
        ("uncertainty_key", UNCERTAINTY_FILE),
    ):
        ref = result.files.get(name)
        setattr(prediction, column, None if ref is None else ref.key)
    prediction.volumes = dict(result.volumes)
    prediction.timings = dict(result.timings)
    prediction.provenance = result.provenance
