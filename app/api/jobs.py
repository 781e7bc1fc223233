"""Routes of jobs: list, read (and wait), cancel; how a job looks to its clients."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.api.deps import BaseDep, Body, NoQuery, PageQuery, ResourcesDep, SessionDep
from app.api.waiting import RETRY_AFTER_SECONDS, applied, ended, wait_of
from app.db.base import transaction
from app.jobs import JobKind, JobState
from app.services import following, jobs
from app.services.following import JobStatus
from app.services.resources import Resources

router = APIRouter(prefix="/jobs", tags=["jobs"])


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
    """dataset_id, or training_id and model_id, or prediction_id; once the job has succeeded."""
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
    links = {"self": f"{base}/jobs/{job.id}"}
    if not status.has_ended:
        links["cancel"] = f"{base}/jobs/{job.id}/cancel"
    if job.parent_id is not None:
        links["parent"] = f"{base}/jobs/{job.parent_id}"
    for noun, row_id in (
        ("dataset", job.dataset_id),
        ("training", job.training_id),
        ("prediction", job.prediction_id),
    ):
        if row_id is not None:
            links[noun] = f"{base}/{noun}s/{row_id}"
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
    status = await run_in_threadpool(_cancel, resources, job_id)
    response.headers["Location"] = f"{base}/jobs/{job_id}"
    if status.has_ended:
        response.status_code = 200
    else:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return view_of(status, base)


def _cancel(resources: Resources, job_id: UUID) -> JobStatus:
    with transaction(resources.sessions) as session:
        jobs.cancel(session, job_id)
        return following.find(session, job_id)
