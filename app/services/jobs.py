"""The life of a job as workers steer it: claim, beat, record, end, give back, sweep."""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Update, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.db.clock import clock
from app.db.models import Epoch, Job, StoredObject
from app.errors import CrashedError, LeaseLostError
from app.jobs import (
    FINAL_STATES,
    INTERNAL_ERROR,
    LEASED_STATES,
    EventKind,
    JobKind,
    JobState,
    Lane,
    problem_document,
    problem_of,
)
from app.payloads import PAYLOAD, Checkpoint, PreprocessResult, TrainResult, WorkOrder
from app.queue import Announcement
from app.services import graph, outcomes
from app.services.transitions import lock_family, move, record_content, record_event, tell
from core.domain.progress import Progress
from core.domain.record import Record, describe
from core.domain.training import EpochRecord

LEASE_RAN_OUT = "its worker fell silent"
"""Why the sweep takes a job back."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a job once; every write carries its fence."""

    job_id: UUID
    fence: int
    kind: JobKind
    attempt: int
    order: WorkOrder


def next_queued(session: Session, lanes: Collection[Lane]) -> UUID | None:
    """Return the job of these lanes that is to be done next; None if there is none."""
    return session.scalar(
        select(Job.id)
        .where(Job.state == JobState.QUEUED, Job.lane.in_(lanes), Job.kind != JobKind.TRAINING)
        .order_by(Job.priority, Job.created_at, Job.id)
        .limit(1)
    )


def claim(session: Session, job_id: UUID, owner: str, lease_seconds: float) -> Claim | None:
    """Take a queued job; None if somebody else has it, or it is not there to be done any more.

    Args:
        session: The transaction.
        job_id: Which; a message that comes late, twice or without reason is harmless.
        owner: Names the worker, for people.
        lease_seconds: For how long the job is the worker's unless it renews.
    """
    lock_family(session, job_id)
    queued = update(Job).where(Job.id == job_id, Job.state == JobState.QUEUED, Job.kind != JobKind.TRAINING)
    job = _updated(
        session,
        queued,
        state=JobState.RUNNING,
        fence=Job.fence + 1,
        attempt=Job.attempt + 1,
        lease_owner=owner,
        lease_expires_at=clock(lease_seconds),
        started_at=func.coalesce(Job.started_at, clock()),
        eta_seconds=None,
    )
    if job is None:
        return None
    record_event(session, job, JobState.QUEUED, f"attempt {job.attempt}")
    parent = graph.parent_of(session, job)
    if parent is not None and parent.state is JobState.QUEUED:
        move(session, parent, JobState.RUNNING)
    try:
        order = _order(session, job)
    except ValidationError as error:  # Else a row of another release would be claimed for ever.
        outcomes.end(session, job, JobState.FAILED, _unreadable(error))
        return None
    return Claim(job_id=job.id, fence=job.fence, kind=job.kind, attempt=job.attempt, order=order)


def renew(session: Session, claim: Claim, lease_seconds: float) -> JobState:
    """Lengthen the lease; return whether the job is to go on (running), to end (canceling) or to pause.

    A lease that ran out is lengthened too, as long as nobody has taken the job back: after an outage of the
    database everybody's has, and whose fence is the newest is still the only one at work.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    return _fenced(session, claim, is_late=True, lease_expires_at=clock(lease_seconds)).state


def record_progress(session: Session, claim: Claim, progress: Progress, eta_seconds: float | None) -> None:
    """Note how far the job has come.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    _fenced(
        session,
        claim,
        stage=progress.stage,
        done=progress.done,
        total=progress.total,
        note=progress.note,
        eta_seconds=eta_seconds,
    )


def record_epoch(session: Session, claim: Claim, epoch: EpochRecord) -> None:
    """Note a finished epoch, once; later ones belong to a past that this run left.

    A resumed run tells all its epochs again. Those that are known already change nothing. Only an epoch
    that no attempt has finished before counts as progress, else a job that dies in the same place every
    time would be tried for ever.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    job, record = _hold(session, claim), _plain(epoch)
    known = session.get(Epoch, (claim.job_id, epoch.epoch))
    if known is not None and known.record == record:
        return
    if epoch.epoch >= job.reached:
        job.crashes, job.reached = 0, epoch.epoch + 1
    _step_back(session, job, epoch.epoch)
    session.add(Epoch(job_id=claim.job_id, epoch=epoch.epoch, record=record))
    record_content(session, job, EventKind.EPOCH, record)


def rewind(session: Session, claim: Claim, epochs: int) -> None:
    """Note that a training goes on from a checkpoint; what was recorded beyond it never was.

    Args:
        session: The transaction.
        claim: Whose job it is.
        epochs: How many are finished in the checkpoint.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    _step_back(session, _hold(session, claim), epochs)


def record_checkpoint(session: Session, claim: Claim, checkpoint: Checkpoint) -> str | None:
    """Make a checkpoint the one that the job goes on from; return the key of the one that it replaces.

    Recording it again changes nothing: the first commit may have gone unanswered.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    job = _hold(session, claim)
    if job.checkpoint == checkpoint.to_json():
        return None
    outcomes.register_objects(session, [checkpoint.file])
    replaced = drop_checkpoint(session, job)
    job.checkpoint = checkpoint.to_json()
    return replaced


def drop_checkpoint(session: Session, job: Job) -> str | None:
    """Forget a job's checkpoint; return the key of its object, to be deleted once this is committed."""
    if job.checkpoint is None:
        return None
    key = Checkpoint.model_validate(job.checkpoint).file.key
    job.checkpoint = None
    session.execute(delete(StoredObject).where(StoredObject.key == key))
    return key


def succeed(session: Session, claim: Claim, result: Record) -> None:
    """End the job well: its result, what follows from it, and the jobs that waited for it.

    A job that was asked to end in the meantime ends canceled, and nothing points at its files: who asked was
    told so.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    job = _hold(session, claim)
    if job.state is JobState.CANCELING:
        outcomes.cancel(session, job)
        return
    outcomes.register_objects(session, getattr(result, "files", {}).values())
    job.result = _plain(result)
    drop_checkpoint(session, job)
    outcomes.record_success(session, job, result)
    outcomes.end(session, job, JobState.SUCCEEDED)


def fail(session: Session, claim: Claim, problem: Mapping[str, Any]) -> None:
    """End the job with a problem document; what waited for it is canceled and says why.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    job = _hold(session, claim)
    if job.state is JobState.CANCELING:
        outcomes.cancel(session, job)
    else:
        outcomes.end(session, job, JobState.FAILED, problem)


def give_back(session: Session, claim: Claim, reason: str, *, max_crashes: int | None = None) -> None:
    """Hand a job back that did not end, to be claimed again from its last checkpoint.

    One that somebody asked to stop in the meantime is canceled or paused.

    Args:
        session: The transaction.
        claim: Whose job it is.
        reason: What happened, as the end of a sentence: "killed by signal 9, probably out of memory".
        max_crashes: How often its child may die before the job has failed. None: it did not die, the
            worker stops on purpose, and the job is handed back without a mark.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    _return_to_queue(session, _hold(session, claim), reason, max_crashes)


def objects_of(session: Session, job_id: UUID) -> set[str]:
    """Return the keys of the objects that a job's row points at: its result's files and its checkpoint."""
    row = session.execute(select(Job.result, Job.checkpoint).where(Job.id == job_id)).one_or_none()
    if row is None:
        return set()
    named = [*((row.result or {}).get("files") or {}).values()]
    if row.checkpoint is not None:
        named.append(row.checkpoint["file"])
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


def has_succeeded(session: Session, claim: Claim) -> bool:
    """Whether the job ended well by this very claim: its result stands, though its commit went unanswered."""
    job = session.get(Job, claim.job_id, populate_existing=True)
    return job is not None and job.state is JobState.SUCCEEDED and job.fence == claim.fence


def state_of(session: Session, job_id: UUID) -> JobState | None:
    """Return how a job stands; None if there is none."""
    return session.scalar(select(Job.state).where(Job.id == job_id))


def still_needed(session: Session, job_ids: Collection[UUID]) -> set[UUID]:
    """Return those of some jobs that have not ended."""
    rows = select(Job.id).where(Job.id.in_(job_ids), Job.state.not_in(FINAL_STATES))
    return set(session.scalars(rows))


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
    job = _updated(session, silent, lease_owner=None)
    if job is not None:
        _return_to_queue(session, job, LEASE_RAN_OUT, max_crashes)
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


def _order(session: Session, job: Job) -> WorkOrder:
    """Gather what the child needs to know.

    Raises:
        ValidationError: The row was written by another release, which this one does not understand.
    """
    needs = graph.needed_by(session, job.id)
    trained = [TrainResult.model_validate(one.result) for one in needs if one.kind is JobKind.TRAIN]
    return WorkOrder(
        job_id=job.id,
        fence=job.fence,
        payload=PAYLOAD.validate_python(job.payload),
        trained=tuple(trained),
        preprocessed=_preprocessed(session, job, needs),
        checkpoint=None if job.checkpoint is None else Checkpoint.model_validate(job.checkpoint),
    )


def _preprocessed(session: Session, job: Job, needs: Collection[Job]) -> PreprocessResult | None:
    """Return the arrays that a training learns from, or that an earlier job made of the same input."""
    found: Job | None = None
    if job.kind is JobKind.TRAIN:
        found = next((one for one in needs if one.kind is JobKind.PREPROCESS), None)
    digest = (job.payload or {}).get("digest")
    if job.kind is JobKind.PREPROCESS and digest is not None:
        found = session.scalars(
            select(Job)
            .where(
                Job.kind == JobKind.PREPROCESS,
                Job.state == JobState.SUCCEEDED,
                Job.payload["digest"].as_string() == digest,
            )
            .limit(1)
        ).first()
    return None if found is None else _arrays_of(found)


def _arrays_of(job: Job) -> PreprocessResult | None:
    """Return what a `preprocess` job stored; the release before stored nothing."""
    try:
        return PreprocessResult.model_validate(job.result)
    except ValidationError:
        return None


def _unreadable(error: ValidationError) -> dict[str, Any]:
    detail = f"the job was written by another release, which this one does not understand: {describe(error)}"
    return problem_document(INTERNAL_ERROR, detail)


def _updated(session: Session, statement: Update, **values: Any) -> Job | None:
    """Run an UPDATE of at most one job; return the row as it is now, or None if it matched nothing."""
    return session.scalars(
        statement.values(**values).returning(Job),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).one_or_none()


def _fenced(session: Session, claim: Claim, *, is_late: bool = False, **values: Any) -> Job:
    """Write to the job if it is still the claim's; the one place where fence and lease are checked.

    Args:
        session: The transaction.
        claim: Whose job it is.
        is_late: Whether the lease may have run out; only a renewal may come late.
        values: Columns to write.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    session.flush()
    still_ours = update(Job).where(
        Job.id == claim.job_id, Job.fence == claim.fence, Job.state.in_(LEASED_STATES)
    )
    if not is_late:
        still_ours = still_ours.where(Job.lease_expires_at > clock())
    job = _updated(session, still_ours, **(values or {"fence": Job.fence}))
    if job is None:
        raise LeaseLostError(
            f"job {claim.job_id} is no longer this worker's", job_id=str(claim.job_id), fence=claim.fence
        )
    return job


def _hold(session: Session, claim: Claim) -> Job:
    """Lock the claim's job and its parent, so that the job can move and its history be written."""
    lock_family(session, claim.job_id)
    return _fenced(session, claim)


def _plain(record: Record) -> dict[str, Any]:
    """Return JSON that any database takes: a loss that is not a number becomes null."""
    values: dict[str, Any] = json.loads(record.model_dump_json(by_alias=True))
    return values


def _step_back(session: Session, job: Job, to_epoch: int) -> None:
    """Forget this epoch and the later ones, and say so if there were any."""
    beyond = delete(Epoch).where(Epoch.job_id == job.id, Epoch.epoch >= to_epoch)
    if session.scalars(beyond.returning(Epoch.epoch)).all():
        record_content(session, job, EventKind.RESUMED, {"epoch": to_epoch})


def _return_to_queue(session: Session, job: Job, reason: str, max_crashes: int | None) -> None:
    """Queue a job again, unless it was asked to stop, or keeps dying."""
    if max_crashes is not None:
        job.crashes += 1
    if job.state is JobState.CANCELING:
        outcomes.cancel(session, job)
    elif max_crashes is not None and job.crashes >= max_crashes:
        error = CrashedError(
            f"{graph.title(job)} was given up after {job.crashes} attempts: {reason}", attempts=job.crashes
        )
        outcomes.end(session, job, JobState.FAILED, problem_of(error))
    elif job.state is JobState.PAUSING:
        _pause(session, job)
    else:
        move(session, job, JobState.QUEUED, reason)


def _pause(session: Session, job: Job) -> None:
    """Let a job rest, and its training once none of its jobs runs."""
    move(session, job, JobState.PAUSED)
    graph.follow_children(session, graph.parent_of(session, job))
