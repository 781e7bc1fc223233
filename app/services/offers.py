"""What may be asked of jobs as they stand: the verbs that `app.services.steering` would carry out, and no others."""

from collections.abc import Iterable, Sequence
from typing import Literal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from app.db.models import DatasetPlan, Job, JobDependency, Prediction, TrainedModel
from app.jobs import FINAL_STATES, JobKind, JobState
from app.services.steering import ASKED_TO_PAUSE, RETRIED_STATES

Verb = Literal["cancel", "pause", "resume", "retry"]

Verbs = tuple[Verb, ...]


def verbs_of(session: Session, jobs: Sequence[Job]) -> dict[UUID, Verbs]:
    """Return what may be asked of each job, with few queries; of a job that runs, with none."""
    parents = _parents_of(session, [job for job in jobs if job.state in ASKED_TO_PAUSE | RETRIED_STATES])
    hopeless = _hopeless(session, [job for job in jobs if job.state in RETRIED_STATES])
    return {job.id: _verbs(job, parents.get(job.parent_id), is_hopeless=job.id in hopeless) for job in jobs}


def _verbs(job: Job, parent: JobState | None, *, is_hopeless: bool) -> Verbs:
    """Return what may be asked of a job.

    Args:
        job: As it stands.
        parent: How its training stands, if it has one; looked up only where that matters.
        is_hopeless: Whether it would wait for ever if it were tried again, or for something that is gone.
    """
    if job.state in RETRIED_STATES:
        return () if is_hopeless or parent is JobState.CANCELING else ("retry",)
    if job.state in FINAL_STATES or job.state is JobState.CANCELING:
        return ()
    if job.state is JobState.WAITING:
        return ("cancel",)
    if job.state in ASKED_TO_PAUSE:
        return ("cancel",) if parent in ASKED_TO_PAUSE else ("cancel", "resume")
    return ("cancel", "pause")


def _parents_of(session: Session, jobs: Iterable[Job]) -> dict[UUID | None, JobState]:
    """Return how the trainings of some jobs stand."""
    ids = {job.parent_id for job in jobs if job.parent_id is not None}
    rows = session.execute(select(Job.id, Job.state).where(Job.id.in_(ids))) if ids else ()
    return {row[0]: row[1] for row in rows}


def _hopeless(session: Session, jobs: Sequence[Job]) -> set[UUID]:
    """Return those of some ended jobs that cannot be tried again: what they need failed, or plan or model are gone."""
    if not jobs:
        return set()
    need, ids = aliased(Job), [job.id for job in jobs]
    unmet = session.scalars(
        select(JobDependency.job_id)
        .join(need, need.id == JobDependency.needs_id)
        .where(JobDependency.job_id.in_(ids), need.state.in_(RETRIED_STATES))
    )
    for_themselves = {job.id for job in jobs if job.kind is JobKind.PLAN and job.training_id is None}
    kept: set[UUID | None] = set()
    if for_themselves:
        kept = set(session.scalars(select(DatasetPlan.job_id).where(DatasetPlan.job_id.in_(for_themselves))))
    predicted = {job.prediction_id: job.id for job in jobs if job.kind is JobKind.PREDICT}
    lost: list[UUID] = []
    if predicted:
        of_deleted = (
            select(Prediction.id)
            .join(TrainedModel, TrainedModel.id == Prediction.model_id)
            .where(Prediction.id.in_(predicted), TrainedModel.state == "deleted")
        )
        lost = [predicted[prediction_id] for prediction_id in session.scalars(of_deleted)]
    return {*unmet, *(for_themselves - kept), *lost}
