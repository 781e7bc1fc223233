"""What clients ask of a job: cancel, pause, resume, retry."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Job
from app.errors import ConflictError, NotFoundError
from app.jobs import FINAL_STATES, LEASED_STATES, JobKind, JobState
from app.services import graph, outcomes
from app.services.transitions import lock_family, move

RETRIED_STATES = frozenset({JobState.FAILED, JobState.CANCELED})
"""Ends that a user may take back."""

ASKED_TO_PAUSE = frozenset({JobState.PAUSED, JobState.PAUSING})
"""Whoever asks again is told so, and nothing changes."""


def cancel(session: Session, job_id: UUID) -> Job:
    """Ask that a job ends: at once if nobody runs it, else as soon as its child has stopped.

    Asking again changes nothing. Canceling a training cancels all its jobs.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It has already ended otherwise.
    """
    job = _hold(session, job_id)
    if job.state in (JobState.CANCELED, JobState.CANCELING):
        return job
    _require_unfinished(job, "canceled")
    if job.kind is JobKind.TRAINING:
        _cancel_training(session, job)
    else:
        _cancel_one(session, job)
    return job


def pause(session: Session, job_id: UUID) -> Job:
    """Ask that a job rests until it is resumed: at once, or as soon as its child has stopped.

    A training job writes a checkpoint first. Pausing a training holds all its jobs back, also those that
    become ready in the meantime. Asking again changes nothing.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It has already ended or been asked to, or waits for another job anyway.
    """
    job = _hold(session, job_id)
    if job.state in ASKED_TO_PAUSE:
        return job
    _require_unfinished(job, "paused")
    if job.kind is JobKind.TRAINING:
        for child in _children(session, job):
            if child.state in (JobState.QUEUED, JobState.RUNNING):
                _pause_one(session, child)
        _pause_one(session, job)
        graph.follow_children(session, job)
    elif job.state is JobState.WAITING:
        raise ConflictError(
            "the job waits for another one, so there is nothing to pause; pause its training instead",
            job_id=str(job.id),
        )
    else:
        _pause_one(session, job)
    return job


def resume(session: Session, job_id: UUID) -> Job:
    """Let a paused job go on, a training with all its jobs.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It is not paused, or its training is.
    """
    job = _hold(session, job_id)
    parent = graph.parent_of(session, job)
    if job.state not in ASKED_TO_PAUSE:
        raise ConflictError(
            f"the job is {job.state}, not paused, so it cannot be resumed",
            job_id=str(job_id),
            state=job.state,
        )
    if parent is not None and parent.state in ASKED_TO_PAUSE:
        raise ConflictError(
            "the job's training is paused; resume that instead", job_id=str(job_id), parent_id=str(parent.id)
        )
    for child in _children(session, job):
        if child.state in ASKED_TO_PAUSE:
            _resume_one(session, child)
    _resume_one(session, job)
    return job


def retry(session: Session, job_id: UUID) -> Job:
    """Try a job again that failed or was canceled, and what was canceled because of it.

    A training job goes on from its checkpoint. Retrying a training retries each of its jobs that did not
    succeed.

    Raises:
        NotFoundError: There is no such job.
        ConflictError: It has not ended, or has succeeded, or needs a job that has not; or its training is
            being canceled.
    """
    job = _hold(session, job_id)
    parent = graph.parent_of(session, job)
    if job.state not in RETRIED_STATES:
        raise ConflictError(
            f"the job is {job.state}; only one that failed or was canceled can be tried again",
            job_id=str(job_id),
            state=job.state,
        )
    if parent is not None and parent.state is JobState.CANCELING:
        raise ConflictError("the job's training is being canceled; try again once it is", job_id=str(job_id))
    _require_hope(session, job)
    if parent is not None and parent.state in RETRIED_STATES:
        _reopen(session, parent, JobState.QUEUED)
    _reopen(session, job, _state_to_retry(session, job))
    for child in _children(session, job):
        if child.state in RETRIED_STATES:
            _reopen(session, child, _state_to_retry(session, child))
    _reopen_dependants(session, job)
    return job


def _hold(session: Session, job_id: UUID) -> Job:
    """Lock a job and its parent.

    Raises:
        NotFoundError: There is no such job.
    """
    lock_family(session, job_id)
    job = session.get(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    if job is None:
        raise NotFoundError(f"there is no job {job_id}", job_id=str(job_id))
    return job


def _children(session: Session, job: Job) -> list[Job]:
    """Lock and return the jobs of a training, oldest first; any other job has none."""
    rows = select(Job).where(Job.parent_id == job.id).order_by(Job.created_at, Job.id)
    locked = rows.with_for_update(key_share=True)
    return list(session.scalars(locked, execution_options={"populate_existing": True}))


def _require_unfinished(job: Job, verb: str) -> None:
    if job.state in FINAL_STATES:
        raise ConflictError(
            f"the job has already {job.state}, so it cannot be {verb}", job_id=str(job.id), state=job.state
        )
    if job.state is JobState.CANCELING:
        raise ConflictError(f"the job is being canceled, so it cannot be {verb}", job_id=str(job.id))


def _require_hope(session: Session, job: Job) -> None:
    """Refuse to try a job that would wait for ever."""
    need = _bad_need(session, job)
    if need is not None:
        how = "failed" if need.state is JobState.FAILED else "was canceled"
        raise ConflictError(
            f"the job needs {graph.title(need)}, which {how}; try that again instead",
            job_id=str(job.id),
            needs_id=str(need.id),
        )


def _bad_need(session: Session, job: Job) -> Job | None:
    """Return a job that this one needs and that has ended without success, if there is one."""
    return next((need for need in graph.needed_by(session, job.id) if need.state in RETRIED_STATES), None)


def _cancel_one(session: Session, job: Job) -> None:
    """Cancel a job that nobody runs; ask the worker of one that runs."""
    if job.state in LEASED_STATES - {JobState.CANCELING}:
        move(session, job, JobState.CANCELING, "asked to cancel")
    elif job.state not in FINAL_STATES and job.state is not JobState.CANCELING:
        outcomes.cancel(session, job)


def _cancel_training(session: Session, parent: Job) -> None:
    """Cancel every job of a training, the last first, so that each says that it was asked for."""
    parent.error = outcomes.canceled_by_request()
    if parent.state in LEASED_STATES:
        move(session, parent, JobState.CANCELING, "asked to cancel")
    for job in reversed(_children(session, parent)):
        _cancel_one(session, job)


def _pause_one(session: Session, job: Job) -> None:
    """Hold back a job that nobody runs; ask the worker of one that runs."""
    state = JobState.PAUSING if job.state is JobState.RUNNING else JobState.PAUSED
    move(session, job, state, "asked to pause")


def _resume_one(session: Session, job: Job) -> None:
    """Queue a paused job; one that has not stopped yet just goes on, or is given back by its worker."""
    state = JobState.RUNNING if job.state is JobState.PAUSING else JobState.QUEUED
    move(session, job, state, "asked to resume")


def _state_to_retry(session: Session, job: Job) -> JobState:
    if not graph.are_needs_met(session, job):
        return JobState.WAITING
    return graph.ready_state(graph.parent_of(session, job))


def _reopen(session: Session, job: Job, state: JobState) -> None:
    """Take a bad end back, as if the job had not begun; its checkpoint stays."""
    job.error = job.finished_at = job.started_at = None
    job.stage, job.done, job.total, job.note = None, 0, 0, ""
    job.crashes = 0
    outcomes.record_retry(session, job)
    move(session, job, state, "asked to try again")


def _reopen_dependants(session: Session, job: Job) -> None:
    """Let those wait again that were canceled because a job did not succeed, unless they need another such."""
    for dependant in graph.dependants_of(session, job, JobState.CANCELED):
        if _bad_need(session, dependant) is None:
            _reopen(session, dependant, JobState.WAITING)
            _reopen_dependants(session, dependant)
