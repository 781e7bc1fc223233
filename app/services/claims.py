"""How a job becomes a worker's: which is the next, the right to run it once, and all that its child needs to know."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.clock import clock
from app.db.models import Job
from app.jobs import INTERNAL_ERROR, JobKind, JobState, Lane, problem_document
from app.payloads import (
    PAYLOAD,
    Checkpoint,
    JobPayload,
    PreprocessResult,
    TrainPayload,
    TrainResult,
    WorkOrder,
)
from app.services import graph, outcomes
from app.services.transitions import lock_family, move, record_event, update_one
from core.domain.record import describe


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
    job = update_one(
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


def _order(session: Session, job: Job) -> WorkOrder:
    """Gather what the child needs to know.

    Raises:
        ValidationError: The row was written by another release, which this one does not understand.
    """
    needs, payload = graph.needed_by(session, job.id), PAYLOAD.validate_python(job.payload)
    trained = [TrainResult.model_validate(one.result) for one in needs if one.kind is JobKind.TRAIN]
    return WorkOrder(
        job_id=job.id,
        fence=job.fence,
        payload=payload,
        trained=tuple(trained),
        preprocessed=_preprocessed(session, job, needs),
        checkpoint=_checkpoint(job, payload),
    )


def _checkpoint(job: Job, payload: JobPayload) -> Checkpoint | None:
    """Return where a training goes on: where an attempt stood that came further than what it began with."""
    if job.checkpoint is not None:
        return Checkpoint.model_validate(job.checkpoint)
    return payload.goes_on_from if isinstance(payload, TrainPayload) else None


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
