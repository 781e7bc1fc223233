"""The life of a job as the worker that has it steers it: beat, record, end, give back."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.db.clock import clock
from app.db.models import Epoch, Job, StoredObject
from app.errors import CrashedError, LeaseLostError
from app.jobs import LEASED_STATES, EventKind, JobState, problem_of
from app.payloads import Checkpoint
from app.services import graph, outcomes
from app.services.claims import Claim
from app.services.transitions import lock_family, move, record_content, update_one
from core.domain.progress import Progress
from core.domain.record import Record
from core.domain.training import EpochRecord


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
    return_to_queue(session, _hold(session, claim), reason, max_crashes)


def has_succeeded(session: Session, claim: Claim) -> bool:
    """Whether the job ended well by this very claim: its result stands, though its commit went unanswered."""
    job = session.get(Job, claim.job_id, populate_existing=True)
    return job is not None and job.state is JobState.SUCCEEDED and job.fence == claim.fence


def state_of(session: Session, job_id: UUID) -> JobState | None:
    """Return how a job stands; None if there is none."""
    return session.scalar(select(Job.state).where(Job.id == job_id))


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
    job = update_one(session, still_ours, **(values or {"fence": Job.fence}))
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


def return_to_queue(session: Session, job: Job, reason: str, max_crashes: int | None) -> None:
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
