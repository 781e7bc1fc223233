"""What workers that are gone left behind: jobs to take back, messages to send again, objects that no row names."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app.db.clock import clock
from app.db.models import Job, StoredObject
from app.jobs import FINAL_STATES, LEASED_STATES, JobKind, JobState, Lane
from app.queue import Announcement
from app.services.jobs import return_to_queue
from app.services.transitions import lock_family, tell, update_one

LEASE_RAN_OUT = "its worker fell silent"
"""Why the sweep takes a job back."""


def expired(session: Session) -> list[UUID]:
    """Return the jobs whose lease ran out: their worker is gone, or froze."""
    rows = select(Job.id).where(Job.state.in_(LEASED_STATES), Job.lease_expires_at <= clock())
    return list(session.scalars(rows))


def take_back(session: Session, job_id: UUID, max_crashes: int) -> bool:
    """Take a job back whose lease ran out; return whether it still had. Anybody may try, at any time."""
    lock_family(session, job_id)
    silent = update(Job).where(
        Job.id == job_id, Job.state.in_(LEASED_STATES), Job.lease_expires_at <= clock()
    )
    job = update_one(session, silent, lease_owner=None)
    if job is not None:
        return_to_queue(session, job, LEASE_RAN_OUT, max_crashes)
    return job is not None


def announce_again(session: Session, messages: Mapping[Lane, int], older_than_seconds: float) -> int:
    """Announce the queued jobs of some lanes anew whose message may be lost; return how many.

    A lane with fewer messages than queued rows has lost some; which, nobody knows, so all those are announced
    that have not been for a while. Then it has enough, and is left alone. One UPDATE marks them, so that
    however many workers sweep, each does so once. A row that somebody holds is about to change; passing it
    by, the sweep waits for nobody and nobody for it.

    Args:
        session: The transaction, see `transitions.announced`.
        messages: How many each lane has.
        older_than_seconds: A younger announcement may still be under way.
    """
    queued = (Job.state == JobState.QUEUED, Job.kind != JobKind.TRAINING)
    rows = select(Job.lane, func.count()).where(*queued, Job.lane.in_(messages)).group_by(Job.lane)
    short = [lane for lane, count in session.execute(rows) if count > messages[lane]]
    if not short:
        return 0
    forgotten = (
        select(Job.id)
        .where(
            *queued,
            Job.lane.in_(short),
            or_(Job.announced_at.is_(None), Job.announced_at <= clock(-older_than_seconds)),
        )
        .order_by(Job.priority, Job.created_at)
        .with_for_update(skip_locked=True, key_share=True)
    )
    marked = (
        update(Job)
        .where(Job.id.in_(forgotten))
        .values(announced_at=clock())
        .returning(Job.id, Job.lane, Job.priority)
    )
    found = session.execute(marked, execution_options={"synchronize_session": False}).all()
    for job_id, lane, priority in sorted(found, key=lambda row: row.priority):
        tell(session, Announcement(job_id, lane, priority))
    return len(found)


def objects_of(session: Session, job_id: UUID) -> set[str]:
    """Return the keys of the objects that a job's row points at: its result's files, its checkpoint, its archive.

    An archive that is imported is needed no more once that has succeeded.
    """
    columns = (Job.kind, Job.state, Job.payload, Job.result, Job.checkpoint)
    row = session.execute(select(*columns).where(Job.id == job_id)).one_or_none()
    if row is None:
        return set()
    named = [*((row.result or {}).get("files") or {}).values()]
    if row.checkpoint is not None:
        named.append(row.checkpoint["file"])
    if row.kind is JobKind.IMPORT_MODEL and row.state is not JobState.SUCCEEDED:
        named.append(row.payload["archive"])
    return {ref["key"] for ref in named}


def orphans(session: Session, keys: Collection[str]) -> list[str]:
    """Return those keys, as claims make them, that no row names although their job has ended, sorted."""
    owners = {key: _owner_of(key) for key in keys}
    wanted = {job_id for job_id in owners.values() if job_id is not None}
    ended = set(session.scalars(select(Job.id).where(Job.id.in_(wanted), Job.state.in_(FINAL_STATES))))
    known = set(session.scalars(select(StoredObject.key).where(StoredObject.key.in_(keys))))
    return sorted(key for key in keys if owners[key] in ended and key not in known)


def _owner_of(key: str) -> UUID | None:
    """Return the job whose claim stored an object: `<kind>/<job>/<fence>/…`."""
    with suppress(IndexError, ValueError):
        return UUID(key.split("/")[1])
    return None


def still_needed(session: Session, job_ids: Collection[UUID]) -> set[UUID]:
    """Return those of some jobs that have not ended."""
    rows = select(Job.id).where(Job.id.in_(job_ids), Job.state.not_in(FINAL_STATES))
    return set(session.scalars(rows))
