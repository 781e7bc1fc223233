"""What a client sees of a job: how far it is, how long it will take, what is before it in the queue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from app.db.base import now
from app.db.models import Job, Training
from app.errors import NotFoundError
from app.jobs import FINAL_STATES, JobKind, JobState
from app.requests import TrainingRequest
from app.services import graph
from app.services.offers import Verbs, verbs_of
from app.services.paging import Page, PageRequest, read_page

STAGE_SHARES: Mapping[JobKind, Mapping[str, tuple[float, float]]] = {
    JobKind.INGEST: {"unpack": (0, 15), "convert": (15, 30), "verify": (30, 100)},
    JobKind.PLAN: {"unpack": (0, 5), "convert": (5, 10), "fingerprint": (10, 95)},
    JobKind.PREPROCESS: {"unpack": (0, 5), "convert": (5, 10), "preprocess": (10, 100)},
    JobKind.TRAIN: {
        "unpack": (0, 1),
        "convert": (1, 2),
        "fetch": (2, 5),
        "train": (5, 95),
        "validate": (95, 100),
    },
    JobKind.PREDICT: {"fetch": (0, 5), "predict": (5, 95)},
    JobKind.EXPORT_MODEL: {"fetch": (0, 20), "export": (20, 100)},
}
"""From which percent to which each stage of a job leads; a stage that is not named fills the whole."""

WEIGHTS: Mapping[JobKind, float] = {
    JobKind.PLAN: 2,
    JobKind.PREPROCESS: 3,
    JobKind.TRAIN: 20,
    JobKind.SELECT: 1,
}
"""What one job contributes to the percent of its training: about how long it takes, beside the others."""


NEWSWORTHY = (
    JobState.RUNNING,
    JobState.PAUSING,
    JobState.CANCELING,
    JobState.FAILED,
    JobState.QUEUED,
    JobState.PAUSED,
)
"""Which of a training's jobs is named first, by state."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job has come."""

    stage: str | None
    done: int
    total: int
    percent: float
    eta_seconds: float | None
    note: str


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job as its clients see it."""

    job: Job
    title: str
    progress: JobProgress
    position: int | None
    """In its lane, 1 is next; None unless it is queued."""
    result: Mapping[str, Any] | None
    verbs: Verbs
    """What may be asked of it."""
    children: tuple["JobStatus", ...]

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.job.state in FINAL_STATES


def find(session: Session, job_id: UUID) -> JobStatus:
    """Return one job with its children.

    Raises:
        NotFoundError: There is no such job.
    """
    job = session.get(Job, job_id)
    if job is None:
        raise NotFoundError(f"there is no job {job_id}", job_id=str(job_id))
    return status_of(session, [job])[0]


def read(
    session: Session, page: PageRequest, state: JobState | None, kind: JobKind | None
) -> Page[JobStatus]:
    """Return jobs, newest first; the jobs of a training stand below it."""
    query = select(Job).where(Job.parent_id.is_(None))
    if state is not None:
        query = query.where(Job.state == state)
    if kind is not None:
        query = query.where(Job.kind == kind)
    rows = read_page(session, query, Job, page)
    return Page(status_of(session, rows.items), rows.next_cursor)


def status_of(session: Session, jobs: Sequence[Job]) -> list[JobStatus]:
    """Return what clients see of these jobs, children included, with few queries."""
    parents = [job.id for job in jobs if job.kind is JobKind.TRAINING]
    children: dict[UUID | None, list[Job]] = {}
    if parents:
        rows = select(Job).where(Job.parent_id.in_(parents)).order_by(Job.created_at, Job.id)
        for child in session.scalars(rows):
            children.setdefault(child.parent_id, []).append(child)
    offered = verbs_of(session, [*jobs, *chain.from_iterable(children.values())])
    return [
        _training_status(session, job, children.get(job.id, []), offered)
        if job.kind is JobKind.TRAINING
        else _single_status(session, job, offered[job.id])
        for job in jobs
    ]


def _single_status(session: Session, job: Job, verbs: Verbs) -> JobStatus:
    progress = JobProgress(job.stage, job.done, job.total, _percent(job), job.eta_seconds, job.note)
    return JobStatus(job, graph.title(job), progress, _position(session, job), _result(job), verbs, ())


def _percent(job: Job) -> float:
    """Place the stage's share within the whole job."""
    if job.state is JobState.SUCCEEDED:
        return 100.0
    if job.stage is None:
        return 0.0
    low, high = STAGE_SHARES.get(job.kind, {}).get(job.stage, (0.0, 100.0))
    share = min(job.done / job.total, 1.0) if job.total > 0 else 0.0
    return round(low + (high - low) * share, 1)


def _position(session: Session, job: Job) -> int | None:
    """Count those of the lane that workers take first."""
    if job.state is not JobState.QUEUED:
        return None
    ahead = select(func.count()).where(
        Job.lane == job.lane,
        Job.state == JobState.QUEUED,
        Job.kind != JobKind.TRAINING,
        tuple_(Job.priority, Job.created_at, Job.id)
        < tuple_(
            job.priority,
            job.created_at,
            job.id,
            types=[Job.priority.type, Job.created_at.type, Job.id.type],
        ),
    )
    return 1 + (session.scalar(ahead) or 0)


def _result(job: Job) -> Mapping[str, Any] | None:
    """Name what the job made; its files and figures are at the thing itself."""
    if job.state is not JobState.SUCCEEDED:
        return None
    if job.kind is JobKind.TRAINING:
        return job.result
    payload = job.payload or {}
    if job.kind is JobKind.PLAN and job.training_id is None:
        return {"dataset_id": str(job.dataset_id), "plan": payload.get("plans_name")}
    named: Mapping[JobKind, Mapping[str, Any]] = {
        JobKind.INGEST: {"dataset_id": str(job.dataset_id)},
        JobKind.PREDICT: {"prediction_id": str(job.prediction_id)},
        JobKind.IMPORT_MODEL: {"model_id": str(job.model_id)},
        JobKind.EXPORT_MODEL: {"model_id": str(job.model_id), "export_id": payload.get("export_id")},
    }
    return named.get(job.kind, {"training_id": str(job.training_id)})


def _training_status(
    session: Session, parent: Job, children: Sequence[Job], offered: Mapping[UUID, Verbs]
) -> JobStatus:
    """Sum the children up; those that the plan has yet to bring are counted by the request."""
    statuses = tuple(_single_status(session, child, offered[child.id]) for child in children)
    training = session.get_one(Training, parent.training_id)
    expected = _expected(TrainingRequest.model_validate(training.request), children)
    current = _current(statuses)
    progress = JobProgress(
        stage=None if current is None else current.job.kind.value,
        done=sum(status.job.state is JobState.SUCCEEDED for status in statuses),
        total=sum(expected.values()),
        percent=100.0 if parent.state is JobState.SUCCEEDED else _weighted_percent(statuses, expected),
        eta_seconds=_training_eta(statuses, expected),
        note=_training_note(statuses, current),
    )
    queued = [status.position for status in statuses if status.position is not None]
    waiting = parent.state is JobState.QUEUED or not any(
        one.job.state is JobState.RUNNING for one in statuses
    )
    position = min(queued) if queued and waiting else None
    verbs = offered[parent.id]
    return JobStatus(parent, graph.title(parent), progress, position, _result(parent), verbs, statuses)


def _expected(request: TrainingRequest, children: Sequence[Job]) -> dict[JobKind, int]:
    """Count the jobs of each kind that the training has or will have."""
    if len(children) > 1:
        return {kind: sum(child.kind is kind for child in children) for kind in WEIGHTS}
    configurations = len(request.configurations or ("the plan's choice",))
    return {
        JobKind.PLAN: 1,
        JobKind.PREPROCESS: configurations,
        JobKind.TRAIN: configurations * len(request.folds),
        JobKind.SELECT: 1,
    }


def _weighted_percent(statuses: Sequence[JobStatus], expected: Mapping[JobKind, int]) -> float:
    whole = sum(WEIGHTS[kind] * count for kind, count in expected.items())
    done = sum(WEIGHTS[status.job.kind] * status.progress.percent for status in statuses)
    return round(done / whole, 1)


def _current(statuses: Sequence[JobStatus]) -> JobStatus | None:
    """Return the job that a person would name when asked what is going on."""
    for wanted in NEWSWORTHY:
        found = [status for status in statuses if status.job.state is wanted]
        if found:
            return found[0]
    return statuses[-1] if statuses else None


def _training_note(statuses: Sequence[JobStatus], current: JobStatus | None) -> str:
    """Say what runs, and whether something has failed already."""
    if current is None:
        return ""
    note = _line(current)
    failed = [status.title for status in statuses if status.job.state is JobState.FAILED]
    goes_on = current.job.state is JobState.RUNNING
    return f"{note}; {', '.join(failed)} failed" if failed and goes_on else note


def _line(status: JobStatus) -> str:
    """Describe one job: `train 3d_fullres fold 0: epoch 3 of 10, loss -0.61, pseudo Dice 0.71`."""
    job, progress = status.job, status.progress
    if job.state is not JobState.RUNNING:
        return f"{status.title}: {job.state.value}"
    if progress.stage is None:
        return f"{status.title}: starting"
    if progress.stage == job.kind and progress.note:
        return f"{status.title}: {progress.note}"
    return f"{status.title}: {progress.stage} {progress.done}/{progress.total}"


def _training_eta(statuses: Sequence[JobStatus], expected: Mapping[JobKind, int]) -> float | None:
    """Estimate the seconds left, once a training job has shown how long one takes.

    Preprocessing and selection are short beside it and left out.
    """
    trains = [status for status in statuses if status.job.kind is JobKind.TRAIN]
    running = [
        one for one in trains if one.job.state is JobState.RUNNING and one.progress.eta_seconds is not None
    ]
    if not running:
        return None
    left = max(one.progress.eta_seconds or 0.0 for one in running)
    finished = sum(one.has_ended for one in trains)
    pending = expected[JobKind.TRAIN] - finished - len(running)
    if pending <= 0:
        return left
    durations = [_seconds(one.job) + (one.progress.eta_seconds or 0.0) for one in running]
    return left + pending * (sum(durations) / len(durations)) / len(running)


def _seconds(job: Job) -> float:
    """Return for how long a job has run so far."""
    started: datetime | None = job.started_at
    return 0.0 if started is None else max(0.0, (now() - started).total_seconds())
