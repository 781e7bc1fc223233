"""Trained models: import, list, read, delete."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, undefer

from app.db.base import transaction
from app.db.models import (
    Dataset,
    DatasetPlan,
    Job,
    ModelAlias,
    ModelExport,
    Prediction,
    StoredObject,
    TrainedModel,
    Training,
)
from app.errors import ConflictError, NotFoundError
from app.jobs import FINAL_STATES, JobKind
from app.payloads import ImportPayload, ObjectRef
from app.requests import ImportRequest
from app.services import graph
from app.services.archives import zip_fault
from app.services.paging import Page, PageRequest, read_page
from app.services.resources import RequestKey, Resources, Submission, forget, insistently, submit_files
from app.services.transitions import create
from app.storage import Incoming
from core.errors import ArchiveError


@dataclass(frozen=True, slots=True)
class ModelFilter:
    """Which models a client wants to see; None: whatever it is."""

    name: str | None = None
    origin: str | None = None
    state: str | None = None
    dataset_id: UUID | None = None


def submit_import(
    resources: Resources, request: ImportRequest, archive: Incoming, key: RequestKey | None
) -> Submission:
    """Keep an archive and queue its import; the same one, asked for in the same way, is imported once.

    Raises:
        ArchiveError: It is no zip archive.
        RequestError: The key came with another request before.
    """
    archive.close()
    fault = zip_fault(archive, "model folder")
    if fault is not None:
        raise ArchiveError(fault)
    model_id, job_id = uuid4(), uuid4()
    # Below the job's own keys, so that it is deleted with whatever else the job leaves.
    ref = resources.store.adopt(f"{JobKind.IMPORT_MODEL}/{job_id}/0/archive.zip", archive)

    def write(session: Session) -> Submission:
        done = _same_import(session, request, ref.sha256)
        return done or _create(session, request, ref, Submission(model_id, job_id))

    return submit_files(resources, key, [ref], write)


def find(session: Session, model_id: UUID) -> TrainedModel:
    """Return one model.

    Raises:
        NotFoundError: There is no such model, or there is none any more.
    """
    return _require_there(session.get(TrainedModel, model_id), model_id)


def find_ready(session: Session, model_id: UUID) -> TrainedModel:
    """Return a model that can be used.

    Raises:
        NotFoundError: There is no such model.
        ConflictError: It is being imported, or could not be.
    """
    return _require_ready(session, find(session, model_id))


def hold_ready(session: Session, model_id: UUID) -> TrainedModel:
    """Do as `find_ready`, and hold the model: until the transaction ends, nobody deletes it.

    Raises:
        NotFoundError: There is no such model.
        ConflictError: It is being imported, or could not be.
    """
    lock = {"read": True, "key_share": True}
    model = session.get(TrainedModel, model_id, with_for_update=lock, populate_existing=True)
    return _require_ready(session, _require_there(model, model_id))


def hold_for_retry(session: Session, model_id: UUID) -> None:
    """Do as `hold_ready` for a prediction that is to be tried again.

    Raises:
        ConflictError: The model was deleted.
    """
    try:
        hold_ready(session, model_id)
    except NotFoundError as error:
        raise ConflictError(
            f"{error.message}, so this prediction cannot be tried again; send the image to another model",
            model_id=str(model_id),
        ) from error


def read(session: Session, page: PageRequest, wanted: ModelFilter) -> Page[TrainedModel]:
    """Return models, newest first."""
    query = select(TrainedModel).where(TrainedModel.state != "deleted")
    for column, value in (
        (TrainedModel.name, wanted.name),
        (TrainedModel.origin, wanted.origin),
        (TrainedModel.state, wanted.state),
        (TrainedModel.dataset_id, wanted.dataset_id),
    ):
        if value is not None:
            query = query.where(column == value)
    return read_page(session, query, TrainedModel, page)


def import_job(session: Session, model: TrainedModel) -> Job | None:
    """Return the job that imports a model or did; None for one that was trained."""
    query = select(Job).where(Job.kind == JobKind.IMPORT_MODEL, Job.model_id == model.id)
    return session.scalars(query).one_or_none()


def remove(resources: Resources, model_id: UUID) -> None:
    """Delete a model with its exports and every object that nothing else names.

    Its row stays, so that predictions can say what made them, and so that its version is not given again.

    Raises:
        NotFoundError: There is no such model.
        ConflictError: An alias points at it, or a job that has not ended needs it.
    """

    def write() -> list[str]:
        with transaction(resources.sessions) as session:
            model = session.get(TrainedModel, model_id, with_for_update=True, populate_existing=True)
            model = _require_there(model, model_id)
            _require_unused(session, model)
            keys = _objects_of(session, model)
            exports = list(session.scalars(select(ModelExport.id).where(ModelExport.model_id == model_id)))
            for thing in (model_id, *exports):
                forget(session, thing)
            forget_files(session, model.training_id, keys)
            session.execute(delete(ModelExport).where(ModelExport.model_id == model_id))
            session.execute(delete(Job).where(Job.model_id == model_id))
            model.state, model.files, model.archive_key = "deleted", {}, None
            session.flush()
            session.execute(delete(StoredObject).where(StoredObject.key.in_(keys)))
            return keys

    for key in insistently(write):
        resources.store.delete(key)


def _same_import(session: Session, request: ImportRequest, sha256: str) -> Submission | None:
    """Return the import of the same archive that was asked for in the same way, unless it failed."""
    alike = select(TrainedModel).where(
        TrainedModel.archive_sha256 == sha256, TrainedModel.state.in_(("importing", "ready"))
    )
    for model in session.scalars(alike.order_by(TrainedModel.created_at)):
        job = import_job(session, model)
        if job is not None and model.request == request.to_json():
            return Submission(model.id, job.id, replayed=True)
    return None


def _create(session: Session, request: ImportRequest, ref: ObjectRef, made: Submission) -> Submission:
    session.add(StoredObject(key=ref.key, sha256=ref.sha256, size_bytes=ref.size_bytes))
    session.flush()
    model = TrainedModel(
        id=made.id,
        name=request.name or "",
        origin="imported",
        state="importing",
        configuration="",
        folds=[],
        channels=[],
        labels={},
        request=request.to_json(),
        archive_sha256=ref.sha256,
        archive_key=ref.key,
        files={},
    )
    session.add(model)
    session.flush()
    payload = ImportPayload(model_id=made.id, archive=ref, options=request.options)
    create(session, graph.job_of(payload, id=made.job_id, model_id=made.id))
    return made


def _require_there(model: TrainedModel | None, model_id: UUID) -> TrainedModel:
    if model is None:
        raise NotFoundError(f"there is no model {model_id}", model_id=str(model_id))
    if model.state == "deleted":
        raise NotFoundError(f"model {model_id} was deleted", model_id=str(model_id))
    return model


def _require_ready(session: Session, model: TrainedModel) -> TrainedModel:
    if model.state == "ready":
        return model
    job = import_job(session, model)
    if model.state == "importing" and job is not None:
        raise ConflictError(f"the model is being imported; wait for job {job.id}", job_id=str(job.id))
    detail = (None if job is None else (job.error or {}).get("detail")) or "its job did not say why"
    raise ConflictError(f"the model could not be imported: {detail}", model_id=str(model.id))


def _require_unused(session: Session, model: TrainedModel) -> None:
    """Refuse to pull a model away from under what needs it."""
    alias = session.scalar(select(ModelAlias).where(ModelAlias.model_id == model.id).limit(1))
    if alias is not None:
        name = f"{alias.name}@{alias.alias}"
        raise ConflictError(
            f"the alias {name} points at the model; move it with PUT /models/aliases/{name}, or delete it first",
            alias=name,
        )
    waiting = Job.state.not_in(FINAL_STATES)
    begun_with = Training.request["pretrained"]["model_id"].as_string() == str(model.id)
    for needs, doing in (
        (select(Job.id).where(Job.model_id == model.id, waiting), "imports or exports it"),
        (
            select(Job.id)
            .join(Prediction, Prediction.id == Job.prediction_id)
            .where(Prediction.model_id == model.id, waiting),
            "predicts with it",
        ),
        (
            select(Job.id)
            .join(Training, Training.id == Job.training_id)
            .where(Job.kind == JobKind.TRAINING, waiting, begun_with),
            "begins with its weights",
        ),
    ):
        job_id = session.scalar(needs.limit(1))
        if job_id is not None:
            raise ConflictError(
                f"job {job_id} {doing}, so the model cannot be deleted; cancel that job first, or wait for it",
                job_id=str(job_id),
            )


def _objects_of(session: Session, model: TrainedModel) -> list[str]:
    """Return the keys of all that belongs to a model; its plan and fingerprint are those of its dataset too."""
    exported = session.scalars(select(ModelExport.file_key).where(ModelExport.model_id == model.id))
    keys = {str(ref["key"]) for ref in model.files.values()}
    for column in (Training.plans_key, DatasetPlan.plans_key, Dataset.fingerprint_key):
        keys -= {key for key in session.scalars(select(column).where(column.in_(keys))) if key is not None}
    return sorted({*keys, *(key for key in (model.archive_key, *exported) if key is not None)})


def forget_files(session: Session, training_id: UUID | None, keys: Collection[str]) -> None:
    """Let the jobs of a training name no object that is deleted."""
    made = select(Job).where(Job.training_id == training_id, Job.kind.in_((JobKind.TRAIN, JobKind.SELECT)))
    for job in session.scalars(made.options(undefer(Job.result)).with_for_update(key_share=True)):
        if job.result is not None:
            left: dict[str, Any] = {
                field: {name: ref for name, ref in job.result[field].items() if ref["key"] not in keys}
                for field in ("files", "reused")
                if field in job.result
            }
            job.result = {**job.result, **left}
