"""The history of a job, and of a training's jobs: every transition and epoch, in the order in which it came."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.db.models import Job, JobEvent
from app.jobs import EventKind
from app.services import following, graph
from app.services.following import JobStatus

LARGEST_PORTION = 500
"""So many entries are read at once."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened to a job."""

    id: int
    """Grows with time within a job and its training."""
    kind: EventKind
    at: datetime
    job_id: UUID
    title: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class News:
    """How a job stands, and what happened since somebody last asked."""

    status: JobStatus
    entries: Sequence[Entry]
    is_all: bool
    """Whether there are no more entries for now."""


def news(session: Session, job_id: UUID, after: int) -> News:
    """Return how a job stands and what happened after an entry, both of the same moment.

    Args:
        session: Reads from one snapshot.
        job_id: A training stands for all its jobs.
        after: Id of the last entry that is known; 0 for none.

    Raises:
        NotFoundError: There is no such job.
    """
    status = following.find(session, job_id)
    rows = session.execute(
        select(JobEvent, Job)
        .join(Job, Job.id == JobEvent.job_id)
        .where(or_(Job.id == job_id, Job.parent_id == job_id), JobEvent.id > after)
        .order_by(JobEvent.id)
        .limit(LARGEST_PORTION)
    ).all()
    return News(status, [_entry(event, job) for event, job in rows], is_all=len(rows) < LARGEST_PORTION)


def _entry(event: JobEvent, job: Job) -> Entry:
    moved = {"before": event.before, "after": event.after, "note": event.note}
    content = moved if event.kind is EventKind.STATE else (event.content or {})
    return Entry(event.id, event.kind, event.at, job.id, graph.title(job), content)
