"""Routes of exports of models: ask for one, list, read, load its zip, delete."""

from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api import waiting
from app.api.deps import BaseDep, Body, IdempotencyDep, NoQuery, PageDep, ResourcesDep, SessionDep
from app.api.files import sent_file
from app.api.jobs import ProgressView, view_of
from app.api.waiting import Accepted
from app.jobs import JobState
from app.requests import ExportRequest
from app.services import exports
from app.services.exports import EXPORT_FILE, ExportStatus
from app.services.following import JobStatus

router = APIRouter(prefix="/models/{model_id}/exports", tags=["models"])


class ExportView(Body):
    """One export and what came of it."""

    id: UUID
    model_id: UUID
    format: str
    """official, for nnU-Net v2; or native, for POST /models of another installation."""
    state: JobState
    job_id: UUID
    size_bytes: int | None
    sha256: str | None
    """Of the zip; null until it is there."""
    progress: ProgressView
    error: dict[str, Any] | None
    created_at: datetime
    links: dict[str, str]


class ExportPage(Body):
    """Some exports, newest first."""

    items: list[ExportView]
    next_cursor: str | None


@router.post("", status_code=202, response_model=Accepted, dependencies=[NoQuery])
async def export_model(
    request: Request,
    model_id: UUID,
    body: ExportRequest,
    *,
    resources: ResourcesDep,
    base: BaseDep,
    idempotency_key: IdempotencyDep = None,
) -> JSONResponse:
    """Write a zip of a model; one that is there already, or being made, is not made again."""
    parts = {"model": str(model_id), "format": body.format}
    key = waiting.request_key(idempotency_key, "POST /models/exports", parts)
    submission = await run_in_threadpool(exports.submit, resources, model_id, body.format, key)

    def view(_session: Session, status: JobStatus) -> Accepted:
        return Accepted(
            id=submission.id,
            state=status.job.state,
            job_id=submission.job_id,
            links=_links(model_id, submission.id, submission.job_id, base),
            error=status.job.error,
        )

    return await waiting.respond(request, base, submission, view)


@router.get("")
def list_exports(session: SessionDep, model_id: UUID, query: PageDep, base: BaseDep) -> ExportPage:
    """List the exports of a model, newest first."""
    page = exports.read(session, model_id, query.request())
    return ExportPage(items=[_view(found, base) for found in page.items], next_cursor=page.next_cursor)


@router.get("/{export_id}", dependencies=[NoQuery])
def get_export(session: SessionDep, model_id: UUID, export_id: UUID, base: BaseDep) -> ExportView:
    """Read one export."""
    return _view(exports.find(session, model_id, export_id), base)


@router.get(f"/{{export_id}}/{EXPORT_FILE}", dependencies=[NoQuery], response_class=FileResponse)
def get_export_file(request: Request, resources: ResourcesDep, model_id: UUID, export_id: UUID) -> Response:
    """Load the zip, whole or in ranges."""
    return sent_file(request, exports.file(resources, model_id, export_id), f"{model_id}", "attachment")


@router.delete("/{export_id}", dependencies=[NoQuery], status_code=204)
def delete_export(resources: ResourcesDep, model_id: UUID, export_id: UUID) -> None:
    """Delete an export and its zip."""
    exports.remove(resources, model_id, export_id)


def _view(found: ExportStatus, base: str) -> ExportView:
    export, job = found.export, found.status.job
    return ExportView(
        id=export.id,
        model_id=export.model_id,
        format=export.format,
        state=job.state,
        job_id=job.id,
        size_bytes=None if found.file is None else found.file.size_bytes,
        sha256=None if found.file is None else found.file.sha256,
        progress=view_of(found.status, base).progress,
        error=job.error,
        created_at=export.created_at,
        links=_links(export.model_id, export.id, job.id, base),
    )


def _links(model_id: UUID, export_id: UUID, job_id: UUID, base: str) -> dict[str, str]:
    model = f"{base}/models/{model_id}"
    address = f"{model}/exports/{export_id}"
    return {
        "self": address,
        "job": f"{base}/jobs/{job_id}",
        "model": model,
        "file": f"{address}/{EXPORT_FILE}",
    }
