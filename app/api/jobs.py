"""Routes of jobs: list, read (and wait), cancel, pause, resume, retry; how a job looks to its clients."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api.deps import BaseDep, Body, NoQuery, PageQuery, ResourcesDep, SessionDep
from app.api.waiting import RETRY_AFTER_SECONDS, applied, ended, wait_of
from app.jobs import JobKind, JobState
from app.services import following, steering
from app.services.following import JobStatus
from app.services.offers import Verb
from app.services.resources import Resources, insistently
from app.services.transitions import announced

router = APIRouter(prefix="/jobs", tags=["jobs"])

STEERING: Mapping[Verb, Callable[[Session, UUID], object]] = {
    "cancel": steering.cancel,
    "pause": steering.pause,
    "resume": steering.resume,
    "retry": steering.retry,
}
"""What a client may ask of a job."""


class ProgressView(Body):
    """How far a job has come; percent covers all of its stages."""

    stage: str | None
    done: int
    total: int
    percent: float
    eta_seconds: float | None
    note: str


class QueueView(Body):
    """Where a job stands in the queue: 1 is next, null is not queued."""

    position: int | None


class JobView(Body):
    """One job; that of a training has its stages as children, and sums them up."""

    id: UUID
    kind: JobKind
    title: str
    state: JobState
    progress: ProgressView
    queue: QueueView
    attempt: int
    error: dict[str, Any] | None
    """Problem document (RFC 9457) of a failed or canceled job."""
    result: dict[str, Any] | None
    """dataset_id, or dataset_id and plan, or training_id and model_id, or prediction_id, or model_id, or model_id
    and export_id; once the job has succeeded."""
    children: list["JobView"]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: dict[str, str]


class JobPage(Body):
    """Some jobs, newest first."""

    items: list[JobView]
    next_cursor: str | None


class JobQuery(PageQuery):
    """Which jobs."""

    state: JobState | None = None
    kind: JobKind | None = None


def view_of(status: JobStatus, base: str) -> JobView:
    """Put a job into the form in which it goes over the wire."""
    job, progress = status.job, status.progress
    return JobView(
        id=job.id,
        kind=job.kind,
        title=status.title,
        state=job.state,
        progress=ProgressView(
            stage=progress.stage,
            done=progress.done,
            total=progress.total,
            percent=progress.percent,
            eta_seconds=progress.eta_seconds,
            note=progress.note,
        ),
        queue=QueueView(position=status.position),
        attempt=job.attempt,
        error=job.error,
        result=None if status.result is None else dict(status.result),
        children=[view_of(child, base) for child in status.children],
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        links=_links(status, base),
    )


def _links(status: JobStatus, base: str) -> dict[str, str]:
    job = status.job
    address = f"{base}/jobs/{job.id}"
    links = {"self": address, "events": f"{address}/events"}
    links |= {verb: f"{address}/{verb}" for verb in status.verbs}
    if job.parent_id is not None:
        links["parent"] = f"{base}/jobs/{job.parent_id}"
    for noun, row_id in (
        ("dataset", job.dataset_id),
        ("training", job.training_id),
        ("prediction", job.prediction_id),
        ("model", job.model_id),
    ):
        if row_id is not None:
            links[noun] = f"{base}/{noun}s/{row_id}"
    if job.kind is JobKind.PLAN and job.training_id is None:
        links["plan"] = f"{base}/datasets/{job.dataset_id}/plans/{(job.payload or {}).get('plans_name')}"
    if job.kind is JobKind.EXPORT_MODEL:
        links["export"] = f"{links['model']}/exports/{(job.payload or {}).get('export_id')}"
    if job.kind is JobKind.TRAINING and status.result and status.result.get("model_id"):
        links["model"] = f"{base}/models/{status.result['model_id']}"
    return links


@router.get("")
def list_jobs(session: SessionDep, query: Annotated[JobQuery, Query()], base: BaseDep) -> JobPage:
    """List jobs, newest first; those of a training stand below it."""
    page = following.read(session, query.request(), query.state, query.kind)
    return JobPage(items=[view_of(status, base) for status in page.items], next_cursor=page.next_cursor)


@router.get("/{job_id}", dependencies=[NoQuery])
async def get_job(
    request: Request,
    response: Response,
    job_id: UUID,
    resources: ResourcesDep,
    base: BaseDep,
) -> JobView:
    """Read one job; with `Prefer: wait=N`, once it has ended or N seconds have passed."""
    seconds = wait_of(request)
    status = await ended(request, resources, job_id, seconds or 0)
    response.headers.update(applied(seconds))
    if not status.has_ended:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return view_of(status, base)


@router.post("/{job_id}/cancel", dependencies=[NoQuery], status_code=202)
async def cancel_job(job_id: UUID, resources: ResourcesDep, base: BaseDep, response: Response) -> JobView:
    """Ask that a job ends; asking twice changes nothing. A training ends with all its jobs."""
    return await _steered(job_id, "cancel", resources, base, response)


@router.post("/{job_id}/pause", dependencies=[NoQuery], status_code=202)
async def pause_job(job_id: UUID, resources: ResourcesDep, base: BaseDep, response: Response) -> JobView:
    """Ask that a job rests; a training writes a checkpoint first, and all its jobs are held back."""
    return await _steered(job_id, "pause", resources, base, response)


@router.post("/{job_id}/resume", dependencies=[NoQuery], status_code=202)
async def resume_job(job_id: UUID, resources: ResourcesDep, base: BaseDep, response: Response) -> JobView:
    """Let a paused job go on where it stopped."""
    return await _steered(job_id, "resume", resources, base, response)


@router.post("/{job_id}/retry", dependencies=[NoQuery], status_code=202)
async def retry_job(job_id: UUID, resources: ResourcesDep, base: BaseDep, response: Response) -> JobView:
    """Try a job again that failed or was canceled, with what was canceled because of it."""
    return await _steered(job_id, "retry", resources, base, response)


async def _steered(job_id: UUID, verb: Verb, resources: Resources, base: str, response: Response) -> JobView:
    """Pass on what a client asks, and answer 200 if that is done at once, else 202."""
    status = await run_in_threadpool(_steer, resources, job_id, verb)
    response.headers["Location"] = f"{base}/jobs/{job_id}"
    if status.has_ended or status.job.state is JobState.PAUSED:
        response.status_code = 200
    else:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return view_of(status, base)


def _steer(resources: Resources, job_id: UUID, verb: Verb) -> JobStatus:
    def write() -> JobStatus:
        with announced(resources.sessions, resources.queue) as session:
            STEERING[verb](session, job_id)
            return following.find(session, job_id)

    return insistently(write)
