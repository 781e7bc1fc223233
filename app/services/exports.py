"""Exports of models: ask for one, list, read, load and delete its zip."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.base import transaction
from app.db.models import Job, ModelExport, StoredObject
from app.errors import ConflictError, NotFoundError
from app.jobs import FINAL_STATES
from app.payloads import ExportPayload, ObjectRef
from app.requests import ExportTarget
from app.services import following, graph, models
from app.services.following import JobStatus
from app.services.paging import Page, PageRequest, read_page
from app.services.resources import (
    RequestKey,
    Resources,
    ResultFile,
    Submission,
    forget,
    insistently,
    submit_once,
)
from app.services.steering import RETRIED_STATES
from app.services.transitions import create

EXPORT_FILE = "model.zip"


@dataclass(frozen=True, slots=True)
class ExportStatus:
    """An export with its job."""

    export: ModelExport
    status: JobStatus
    file: ObjectRef | None
    """None until it is there."""


def submit(resources: Resources, model_id: UUID, target: ExportTarget, key: RequestKey | None) -> Submission:
    """Queue the export of a model, unless there is one for the same tools already: it would be the same zip.

    Raises:
        NotFoundError: There is no such model.
        ConflictError: It cannot be used.
        RequestError: The key was used otherwise.
    """
    return submit_once(resources, key, lambda session: _create(session, model_id, target))


def find(session: Session, model_id: UUID, export_id: UUID) -> ExportStatus:
    """Return one export of a model.

    Raises:
        NotFoundError: There is no such model or export.
    """
    models.find(session, model_id)
    row = session.get(ModelExport, export_id)
    if row is None or row.model_id != model_id:
        raise _unknown(model_id, export_id)
    return _status(session, row)


def read(session: Session, model_id: UUID, page: PageRequest) -> Page[ExportStatus]:
    """Return the exports of a model, newest first.

    Raises:
        NotFoundError: There is no such model.
    """
    models.find(session, model_id)
    query = select(ModelExport).where(ModelExport.model_id == model_id)
    rows = read_page(session, query, ModelExport, page)
    return Page([_status(session, row) for row in rows.items], rows.next_cursor)


def file(resources: Resources, model_id: UUID, export_id: UUID) -> ResultFile:
    """Return the zip.

    Raises:
        NotFoundError: There is no such model or export.
        ConflictError: It is not done, or has failed.
    """
    with transaction(resources.readers) as session:
        found = find(session, model_id, export_id)
    job = found.status.job
    if found.file is not None:
        return ResultFile(resources.store.path(found.file), found.file.sha256, "application/zip", ".zip")
    if job.state not in FINAL_STATES:
        raise ConflictError(
            f"the export is {job.state}; its zip is there once job {job.id} has succeeded",
            job_id=str(job.id),
            state=job.state,
        )
    detail = (job.error or {}).get("detail", "it did not say why")
    raise ConflictError(f"the export {job.state}: {detail}", job_id=str(job.id), state=job.state)


def remove(resources: Resources, model_id: UUID, export_id: UUID) -> None:
    """Delete an export and its zip; the model stays.

    Raises:
        NotFoundError: There is no such model or export.
        ConflictError: It is being made.
    """

    def write() -> str | None:
        with transaction(resources.sessions) as session:
            models.find(session, model_id)
            row = session.get(ModelExport, export_id, with_for_update=True, populate_existing=True)
            if row is None or row.model_id != model_id:
                raise _unknown(model_id, export_id)
            job = session.get_one(Job, row.job_id)
            if job.state not in FINAL_STATES:
                raise ConflictError(
                    f"the export is being made; cancel job {job.id} first, or wait for it",
                    job_id=str(job.id),
                )
            return _drop(session, row)

    key = insistently(write)
    if key is not None:
        resources.store.delete(key)


def _create(session: Session, model_id: UUID, target: ExportTarget) -> Submission:
    model = models.hold_ready(session, model_id)
    row: ModelExport | None = session.scalar(
        select(ModelExport)
        .where(ModelExport.model_id == model_id, ModelExport.format == target)
        .with_for_update()
    )
    if row is not None:
        if session.get_one(Job, row.job_id).state not in RETRIED_STATES:
            return Submission(row.id, row.job_id, replayed=True)
        _drop(session, row)  # It has no zip.
    export_id = uuid4()
    payload = ExportPayload(
        export_id=export_id,
        model_id=model.id,
        model_files={path: ObjectRef.model_validate(ref) for path, ref in model.files.items()},
        format=target,
    )
    job = create(session, graph.job_of(payload, model_id=model.id))
    session.add(ModelExport(id=export_id, model_id=model.id, format=target, job_id=job.id))
    session.flush()
    return Submission(export_id, job.id)


def _drop(session: Session, row: ModelExport) -> str | None:
    """Delete an export with its job; return the key of its zip, to be deleted once this is committed."""
    key, job_id = row.file_key, row.job_id
    forget(session, row.id)
    session.delete(row)
    session.flush()
    session.execute(delete(Job).where(Job.id == job_id))
    if key is not None:
        session.execute(delete(StoredObject).where(StoredObject.key == key))
    return key


def _status(session: Session, row: ModelExport) -> ExportStatus:
    job = session.get_one(Job, row.job_id)
    status = following.status_of(session, [job])[0]
    return ExportStatus(row, status, graph.stored_if_any(session, row.file_key))


def _unknown(model_id: UUID, export_id: UUID) -> NotFoundError:
    return NotFoundError(
        f"model {model_id} has no export {export_id}", model_id=str(model_id), export_id=str(export_id)
    )
