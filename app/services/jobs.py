"""The life of a job as workers and clients steer it: claim, beat, record, end, cancel, sweep."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import Update, case, delete, func, select, update
from sqlalchemy.orm import Session

from app.db.clock import clock
from app.db.models import Epoch, Job
from app.errors import ConflictError, CrashedError, LeaseLostError, NotFoundError
from app.jobs import (
    FINAL_STATES,
    LEASED_STATES,
    MAX_ATTEMPTS,
    PAYLOAD,
    JobKind,
    JobState,
    Lane,
    TrainResult,
    WorkOrder,
    problem_document,
    problem_of,
)
from app.services import graph, outcomes
from app.services.transitions import lock_family, move, record_event
from core.domain.progress import Progress
from core.domain.record import Record
from core.domain.training import EpochRecord

LANE_ORDER = {Lane.PREDICT: 0, Lane.CPU: 1, Lane.TRAIN: 2}
"""A worker of several lanes takes first what somebody waits for."""

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


def claim(session: Session, lanes: Collection[Lane], owner: str, lease_seconds: float) -> Claim | None:
    """Take the oldest queued job of these lanes, predictions first; None if there is none.

    Args:
        session: The transaction.
        lanes: Whose jobs this worker runs.
        owner: Names the worker, for people.
        lease_seconds: For how long the job is the worker's unless it renews.
    """
    priority = case(LANE_ORDER, value=Job.lane)
    oldest = (
        select(Job.id)
        .where(Job.lane.in_(lanes), Job.state == JobState.QUEUED, Job.kind != JobKind.TRAINING)
        .order_by(priority, Job.created_at, Job.id)
        .limit(1)
    )
    while (candidate := session.scalar(oldest)) is not None:
        lock_family(session, candidate)
        taken = (
            update(Job)
            .where(Job.id == candidate, Job.state == JobState.QUEUED)
            .values(lease_owner=owner, lease_expires_at=clock(lease_seconds))
            .values(started_at=func.coalesce(Job.started_at, clock()), eta_seconds=None)
        )
        job = _updated(session, taken, state=JobState.RUNNING, fence=Job.fence + 1, attempt=Job.attempt + 1)
        if job is not None:
            return _start(session, job)
    return None


def renew(session: Session, claim: Claim, lease_seconds: float) -> bool:
    """Lengthen the lease; return whether the job was asked to stop.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    return _fenced(session, claim, lease_expires_at=clock(lease_seconds)).state is JobState.CANCELING


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
    """Note a finished epoch, once; rows beyond it belong to a past that the resumed run left.

    A resumed run tells all its epochs again. Those that are known already change nothing: above all they
    are no progress, else a job that dies in the same epoch every time would be tried for ever.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    _fenced(session, claim)
    known, record = session.get(Epoch, (claim.job_id, epoch.epoch)), _plain(epoch)
    if known is None or known.record != record:
        _fenced(session, claim, crashes=0)
        drop_epochs(session, claim, epoch.epoch)
        session.add(Epoch(job_id=claim.job_id, epoch=epoch.epoch, record=record))


def drop_epochs(session: Session, claim: Claim, from_epoch: int) -> None:
    """Forget this epoch and the later ones: the run goes on from a checkpoint before them.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    _fenced(session, claim)
    session.execute(delete(Epoch).where(Epoch.job_id == claim.job_id, Epoch.epoch >= from_epoch))


def succeed(session: Session, claim: Claim, result: Record) -> None:
    """End the job well: its result, what follows from it, and the jobs that waited for it.

    A job that was asked to stop in the meantime ends canceled: who asked was told so.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    job = _hold(session, claim)
    outcomes.register_objects(session, getattr(result, "files", {}).values())
    if job.state is JobState.CANCELING:
        _end(session, job, JobState.CANCELED, _canceled_by_request())
    else:
        job.result = _plain(result)
        outcomes.record_success(session, job, result)
        _end(session, job, JobState.SUCCEEDED)


def fail(session: Session, claim: Claim, problem: Mapping[str, Any]) -> None:
    """End the job with a problem document; what waited for it is canceled and says why.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    job = _hold(session, claim)
    if job.state is JobState.CANCELING:
        _end(session, job, JobState.CANCELED, _canceled_by_request())
    else:
        _end(session, job, JobState.FAILED, dict(problem))


def canceled(session: Session, claim: Claim) -> None:
    """End a job whose child stopped because a client asked for it.

    Raises:
        LeaseLostError: The job is no longer this worker's.
        ConflictError: Nobody asked; hand the job back instead.
    """
    job = _hold(session, claim)
    if job.state is not JobState.CANCELING:
        raise ConflictError("nobody asked to cancel this job; hand it back instead", job_id=str(job.id))
    _end(session, job, JobState.CANCELED, _canceled_by_request())


def give_back(session: Session, claim: Claim, reason: str, *, crashed: bool = True) -> None:
    """Hand a job back that did not end, to be claimed again from its last checkpoint.

    Args:
        session: The transaction.
        claim: Whose job it is.
        reason: What happened, as the end of a sentence: "killed by signal 9, probably out of memory".
        crashed: Whether its child died. A worker that stops on purpose hands back without a mark; a job
            that crashed `MAX_ATTEMPTS` times without coming further has failed.

    Raises:
        LeaseLostError: The job is no longer this worker's.
    """
    _return_to_queue(session, _hold(session, claim), reason, crashed=crashed)


def sweep(session: Session) -> int:
    """Take back the jobs whose lease ran out; return how many. Anybody may call it at any time."""
    expired = select(Job.id).where(Job.state.in_(LEASED_STATES), Job.lease_expires_at <= clock())
    taken = 0
    for job_id in session.scalars(expired).all():
        lock_family(session, job_id)
        guarded = update(Job).where(
            Job.id == job_id, Job.state.in_(LEASED_STATES), Job.lease_expires_at <= clock()
        )
        job = _updated(session, guarded, lease_owner=None)
        if job is not None:
            _return_to_queue(session, job, LEASE_RAN_OUT, crashed=True)
            taken += 1
    return taken


def cancel(session: Session, job_id: UUID) -> Job:
    """Ask that a job ends: at once if nobody runs it, else as soon as its child has stopped.

    Asking again changes nothing. Canceling a training cancels all its jobs.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It has already ended otherwise.
    """
    lock_family(session, job_id)
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None:
        raise NotFoundError(f"there is no job {job_id}", job_id=str(job_id))
    if job.state in (JobState.CANCELED, JobState.CANCELING):
        return job
    if job.state in FINAL_STATES:
        raise ConflictError(
            f"the job has already {job.state}, so it cannot be canceled", job_id=str(job_id), state=job.state
        )
    if job.kind is JobKind.TRAINING:
        _cancel_training(session, job)
    else:
        _cancel_one(session, job)
    return job


def _start(session: Session, job: Job) -> Claim:
    """Record the claim, wake the parent, and gather what the child needs to know."""
    record_event(session, job, JobState.QUEUED, f"claimed by {job.lease_owner}")
    if job.parent_id is not None:
        parent = session.get_one(Job, job.parent_id, populate_existing=True)
        if parent.state is JobState.QUEUED:
            move(session, parent, JobState.RUNNING)
    inputs: tuple[TrainResult, ...] = ()
    if job.kind is JobKind.SELECT:
        inputs = tuple(TrainResult.model_validate(one.result) for one in graph.needed_by(session, job.id))
    order = WorkOrder(
        job_id=job.id, fence=job.fence, payload=PAYLOAD.validate_python(job.payload), inputs=inputs
    )
    return Claim(job_id=job.id, fence=job.fence, kind=job.kind, attempt=job.attempt, order=order)


def _updated(session: Session, statement: Update, **values: Any) -> Job | None:
    """Run an UPDATE of at most one job; return the row as it is now, or None if it matched nothing."""
    return session.scalars(
        statement.values(**values).returning(Job),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).one_or_none()


def _fenced(session: Session, claim: Claim, **values: Any) -> Job:
    """Write to the job if it is still the claim's; the one place where fence and lease are checked."""
    session.flush()
    still_ours = update(Job).where(
        Job.id == claim.job_id,
        Job.fence == claim.fence,
        Job.state.in_(LEASED_STATES),
        Job.lease_expires_at > clock(),
    )
    job = _updated(session, still_ours, **(values or {"fence": Job.fence}))
    if job is None:
        raise LeaseLostError(
            f"job {claim.job_id} is no longer this worker's", job_id=str(claim.job_id), fence=claim.fence
        )
    return job


def _plain(record: Record) -> dict[str, Any]:
    """Return JSON that any database takes: a loss that is not a number becomes null."""
    values: dict[str, Any] = json.loads(record.model_dump_json(by_alias=True))
    return values


def _hold(session: Session, claim: Claim) -> Job:
    """Lock the claim's job and its parent, so that the job can end."""
    lock_family(session, claim.job_id)
    return _fenced(session, claim)


def _end(session: Session, job: Job, state: JobState, error: Mapping[str, JsonValue] | None = None) -> None:
    """Bring a job to a final state, and everything that hangs on it."""
    job.error = None if error is None else dict(error)
    move(session, job, state, "" if error is None else str(error.get("detail", "")))
    if state is not JobState.SUCCEEDED:
        outcomes.record_end_without_success(session, job)
    graph.settle(session, job)


def _return_to_queue(session: Session, job: Job, reason: str, *, crashed: bool) -> None:
    """Queue a job again, or end it: canceled if that was asked, failed if it keeps dying."""
    job.crashes += int(crashed)
    if job.state is JobState.CANCELING:
        _end(session, job, JobState.CANCELED, _canceled_by_request())
    elif job.crashes >= MAX_ATTEMPTS:
        error = CrashedError(
            f"{graph.title(job)} was given up after {job.crashes} attempts: {reason}", attempts=job.crashes
        )
        _end(session, job, JobState.FAILED, problem_of(error))
    else:
        move(session, job, JobState.QUEUED, reason)


def _cancel_one(session: Session, job: Job) -> None:
    """Cancel a job that nobody runs; ask the worker of one that runs."""
    if job.state is JobState.RUNNING:
        move(session, job, JobState.CANCELING, "asked to cancel")
    elif job.state not in FINAL_STATES and job.state is not JobState.CANCELING:
        _end(session, job, JobState.CANCELED, _canceled_by_request())


def _cancel_training(session: Session, parent: Job) -> None:
    """Cancel every job of a training, the last first, so that each says that it was asked for."""
    parent.error = _canceled_by_request()
    if parent.state is JobState.RUNNING:
        move(session, parent, JobState.CANCELING, "asked to cancel")
    children = select(Job).where(Job.parent_id == parent.id).order_by(Job.created_at.desc(), Job.id)
    for job in session.scalars(children.with_for_update()).all():
        _cancel_one(session, job)


def _canceled_by_request() -> dict[str, JsonValue]:
    return problem_document(graph.CANCELED, "canceled by request")
