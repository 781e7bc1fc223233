"""One step of a job's life cycle: checked, recorded as an event, never out of a final state."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.clock import clock
from app.db.models import Job, JobEvent
from app.errors import ConflictError
from app.jobs import FINAL_STATES, TRANSITIONS, JobState


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
    if state is not JobState.CANCELING:
        job.lease_owner = job.lease_expires_at = None
    if state in FINAL_STATES:
        job.finished_at = clock()
        job.eta_seconds = None
    if state is JobState.RUNNING:
        job.started_at = clock()
    job.state = state
    record_event(session, job, before, note)
    session.flush()


def record_event(session: Session, job: Job, before: JobState | None, note: str = "") -> None:
    """Write down a transition that has been made."""
    session.add(JobEvent(job_id=job.id, before=before, after=job.state, note=note))


def create(session: Session, job: Job, note: str = "") -> Job:
    """Insert a job and the event of its birth."""
    session.add(job)
    session.flush()
    record_event(session, job, None, note)
    return job


def lock_family(session: Session, job_id: UUID) -> None:
    """Lock a job's parent, if it has one, before any of its children is written.

    Everybody takes these locks in the same order, parent first, so two workers that finish children of
    one training see each other's results and never wait in a circle. SQLite has one writer anyway.
    """
    parent_id = session.scalar(select(Job.parent_id).where(Job.id == job_id))
    if parent_id is not None:
        session.execute(select(Job.id).where(Job.id == parent_id).with_for_update())
