"""One step of a job's life cycle: checked, recorded in its history, and announced where it queues the job."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import Update, select
from sqlalchemy.orm import Session

from app.db.base import Sessions, transaction
from app.db.clock import clock
from app.db.models import Job, JobEvent
from app.errors import ConflictError
from app.jobs import FINAL_STATES, LEASED_STATES, TRANSITIONS, EventKind, JobKind, JobState
from app.queue import Announcement, Queue

log = logging.getLogger(__name__)

QUEUED_HERE = "queued_here"
"""Where a session keeps the jobs that its transaction queues."""


@contextmanager
def announced(sessions: Sessions, queue: Queue) -> Iterator[Session]:
    """Run one transaction, and announce the jobs that it queued once it is committed.

    A crash between commit and announcement loses nothing: the sweep announces again.
    """
    with transaction(sessions) as session:
        yield session
        waiting: list[Announcement] = session.info.pop(QUEUED_HERE, [])
    try:
        queue.announce(waiting)
    except Exception:  # What is committed stands; nobody may be told otherwise, or undo what it points at.
        log.exception("jobs could not be announced; the sweep will")


def move(session: Session, job: Job, state: JobState, note: str = "") -> None:
    """Change a job's state and write down that it did.

    Args:
        session: The transaction.
        job: A row that this transaction has locked.
        state: Where it goes.
        note: Why, for a person.

    Raises:
        ConflictError: The life cycle has no such step.
    """
    before = job.state
    if state not in TRANSITIONS[before]:
        raise ConflictError(f"a {before} job cannot become {state}", job_id=str(job.id), state=before)
    if state not in LEASED_STATES:
        job.lease_owner = job.lease_expires_at = None
    if state in FINAL_STATES:
        job.finished_at = clock()
        job.eta_seconds = None
    if state is JobState.RUNNING and job.started_at is None:
        job.started_at = clock()
    job.state = state
    record_event(session, job, before, note)
    session.flush()
    if state is JobState.QUEUED:
        announce(session, job)


def create(session: Session, job: Job, note: str = "") -> Job:
    """Insert a job and the event of its birth."""
    session.add(job)
    session.flush()
    record_event(session, job, None, note)
    if job.state is JobState.QUEUED:
        announce(session, job)
    return job


def announce(session: Session, job: Job) -> None:
    """Have a queued job announced once the transaction is committed; nobody ever claims a parent."""
    if job.kind is not JobKind.TRAINING:
        job.announced_at = clock()
        session.flush()
        tell(session, Announcement(job.id, job.lane, job.priority))


def tell(session: Session, announcement: Announcement) -> None:
    """Have a message sent once the transaction is committed."""
    session.info.setdefault(QUEUED_HERE, []).append(announcement)


def record_event(session: Session, job: Job, before: JobState | None, note: str = "") -> None:
    """Write down a transition that has been made."""
    session.add(JobEvent(job_id=job.id, before=before, after=job.state, note=note))


def record_content(session: Session, job: Job, kind: EventKind, content: dict[str, Any]) -> None:
    """Write down what happened to a job while it stayed where it is."""
    session.add(JobEvent(job_id=job.id, kind=kind, before=job.state, after=job.state, content=content))


def update_one(session: Session, statement: Update, **values: Any) -> Job | None:
    """Run an UPDATE of at most one job; return the row as it is now, or None if it matched nothing."""
    return session.scalars(
        statement.values(**values).returning(Job),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).one_or_none()


def lock_family(session: Session, job_id: UUID) -> None:
    """Lock a job's parent, if it has one, before any of its children is written.

    Everybody takes these locks in the same order, parent first, so two workers that finish children of
    one training see each other's results and never wait in a circle. Whoever writes the history of a job
    holds them, so that its entries become visible in the order of their ids. SQLite has one writer anyway.

    Locks of jobs leave the key to others (FOR NO KEY UPDATE): PostgreSQL locks the key of a parent whenever
    a transaction writes to a child for the second time, in the wrong order where nobody took the lock before.
    """
    parent_id = session.scalar(select(Job.parent_id).where(Job.id == job_id))
    if parent_id is not None:
        session.execute(select(Job.id).where(Job.id == parent_id).with_for_update(key_share=True))
