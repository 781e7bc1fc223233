"""The jobs of one training: which waits for which, and what the end of one means for the others."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.base import now
from app.db.models import Job, JobDependency, StoredObject, TrainedModel, Training
from app.jobs import FINAL_STATES, LANES, LEASED_STATES, PRIORITIES, JobState, problem_document
from app.payloads import (
    JobPayload,
    Kept,
    ObjectRef,
    PlanPayload,
    PlanResult,
    PreprocessPayload,
    SelectPayload,
    TrainPayload,
)
from app.requests import TrainingRequest
from app.services.stages import checkpoints_of, stages
from app.services.transitions import create, move
from core.domain.plan import ConfigurationName
from core.domain.training import Fold

CANCELED = "canceled"
"""Kind of the problem that a canceled job carries."""


def title(job: Job) -> str:
    """Name a job for a person: `train 3d_fullres fold 0`."""
    payload = job.payload or {}
    words = [
        job.kind.value.replace("_", " "),
        str(payload.get("configuration") or payload.get("plans_name") or ""),
    ]
    if "fold" in payload:
        words.append(f"fold {payload['fold']}")
    return " ".join(word for word in words if word)


def job_of(payload: JobPayload, **columns: Any) -> Job:
    """Return the row of a job that does what a payload says; not yet added."""
    lane = LANES[payload.kind]
    values = {"lane": lane, "priority": PRIORITIES[lane], **columns}
    return Job(kind=payload.kind, payload=payload.model_dump(mode="json"), **values)


def child(parent: Job, payload: JobPayload, state: JobState, created_at: datetime) -> Job:
    """Return the row of one stage of a training; not yet added."""
    return job_of(
        payload, parent_id=parent.id, training_id=parent.training_id, state=state, created_at=created_at
    )


def ready_state(parent: Job | None) -> JobState:
    """Return how a job stands that could be done now: it is held back while its training is paused."""
    is_held = parent is not None and parent.state in (JobState.PAUSED, JobState.PAUSING)
    return JobState.PAUSED if is_held else JobState.QUEUED


def expand(session: Session, plan_job: Job, result: PlanResult) -> None:
    """Write the jobs that follow a plan: preprocess per configuration, train per fold, select.

    Every training waits for its configuration's preprocessing, in a later stage of a cascade also for all folds
    of the stage before, and the selection waits for all trainings.
    """
    parent = session.get_one(Job, plan_job.parent_id)
    training = session.get_one(Training, parent.training_id)
    request = TrainingRequest.model_validate(training.request)
    plan = PlanPayload.model_validate(plan_job.payload)
    moments = _moments()
    trains: dict[str, list[Job]] = {}
    ended_at = checkpoints_of(session, plan.continues)
    for stage in stages(result, request.folds, request.numbered_folds):
        beginning = plan.beginning
        if stage.name not in result.configurations:  # The weights are those of another network.
            beginning = beginning.model_copy(update={"pretrained": None})
        first = PreprocessPayload(
            training_id=training.id,
            archive=plan.archive,
            plans=result.files["plans.json"],
            configuration=stage.name,
            digest=result.digests.get(stage.name),
        )
        preprocess = create(session, child(parent, first, ready_state(parent), next(moments)))
        trains[stage.name] = []
        for fold in stage.folds:
            payload = TrainPayload(
                training_id=training.id,
                archive=plan.archive,
                plans=result.files["plans.json"],
                fingerprint=result.files["dataset_fingerprint.json"],
                configuration=stage.name,
                fold=fold,
                settings=request.all_settings,
                beginning=beginning,
                goes_on_from=ended_at.get((stage.name, fold)),
                kept=_kept(request, result, stage.name, fold),
            )
            train = create(session, child(parent, payload, JobState.WAITING, next(moments)))
            for need in (preprocess, *trains.get(stage.previous or "", ())):
                _need(session, train, need)
            trains[stage.name].append(train)
    last = SelectPayload(
        training_id=training.id,
        archive=plan.archive,
        plans=result.files["plans.json"],
        fingerprint=result.files["dataset_fingerprint.json"],
        configurations=result.configurations,
        previous_stages={one.name: one.previous_stage for one in result.planned if one.previous_stage},
        ensembling=_compares_ensembles(request, result),
    )
    select_job = create(session, child(parent, last, JobState.WAITING, next(moments)))
    for jobs in trains.values():
        for train in jobs:
            _need(session, select_job, train)


def _compares_ensembles(request: TrainingRequest, result: PlanResult) -> bool:
    """Whether there are ensembles to choose from."""
    return request.ensembling and len(result.configurations) > 1


def _kept(request: TrainingRequest, result: PlanResult, name: ConfigurationName, fold: Fold) -> Kept:
    """Return what the selection needs of a fold: nothing of one that it does not compare.

    The fold of all cases validates none that it had not seen; stages and folds that only a later stage needs are not
    to choose from.
    """
    if fold == "all" or fold not in request.folds or name not in result.configurations:
        return "nothing"
    return "probabilities" if _compares_ensembles(request, result) else "segmentations"


def settle(session: Session, job: Job) -> None:
    """Draw the consequences of a job's end: free or cancel what waits for it, then its parent's state."""
    if job.state is JobState.SUCCEEDED:
        _free_dependants(session, job)
    else:
        _cancel_dependants(session, job)
    follow_children(session, parent_of(session, job))


def follow_children(session: Session, parent: Job | None) -> None:
    """Let a training follow its jobs: paused once none runs, ended once all have ended.

    Failed goes before canceled, and that before succeeded.
    """
    session.flush()
    if parent is None or parent.state in FINAL_STATES:
        return
    children = list(
        session.scalars(select(Job).where(Job.parent_id == parent.id).order_by(Job.created_at, Job.id))
    )
    if any(one.state not in FINAL_STATES for one in children):
        if parent.state is JobState.PAUSING and all(one.state not in LEASED_STATES for one in children):
            move(session, parent, JobState.PAUSED)
        return
    _end_parent(session, parent, children)


def parent_of(session: Session, job: Job) -> Job | None:
    """Return the training that a job belongs to, as it is now."""
    session.flush()
    if job.parent_id is None:
        return None
    return session.get_one(Job, job.parent_id, populate_existing=True)


def are_needs_met(session: Session, job: Job) -> bool:
    """Whether everything that a job waits for has succeeded."""
    return all(need.state is JobState.SUCCEEDED for need in needed_by(session, job.id))


def dependants_of(session: Session, job: Job, state: JobState) -> list[Job]:
    """Return the jobs in some state that need this one, oldest first."""
    session.flush()
    return list(
        session.scalars(
            select(Job)
            .join(JobDependency, JobDependency.job_id == Job.id)
            .where(JobDependency.needs_id == job.id, Job.state == state)
            .order_by(Job.created_at, Job.id)
        )
    )


def needed_by(session: Session, job_id: UUID) -> list[Job]:
    """Return the jobs that a job waited for, oldest first."""
    return list(
        session.scalars(
            select(Job)
            .join(JobDependency, JobDependency.needs_id == Job.id)
            .where(JobDependency.job_id == job_id)
            .order_by(Job.created_at, Job.id)
        )
    )


def object_ref(stored: StoredObject) -> ObjectRef:
    """Return what a payload says of a stored object."""
    return ObjectRef(key=stored.key, sha256=stored.sha256, size_bytes=stored.size_bytes)


def stored(session: Session, key: str) -> ObjectRef:
    """Return what a payload says of the object that has this key."""
    return object_ref(session.get_one(StoredObject, key))


def stored_if_any(session: Session, key: str | None) -> ObjectRef | None:
    """Return what a payload says of an object that may not be there yet."""
    return None if key is None else stored(session, key)


def _moments() -> Iterator[datetime]:
    """Yield growing times, so that jobs created together keep their order."""
    start, number = now(), 0
    while True:
        yield start + timedelta(microseconds=number)
        number += 1


def _need(session: Session, job: Job, needs: Job) -> None:
    session.add(JobDependency(job_id=job.id, needs_id=needs.id))


def _free_dependants(session: Session, job: Job) -> None:
    """Queue each dependant whose every need is met."""
    ready = ready_state(parent_of(session, job))
    for dependant in dependants_of(session, job, JobState.WAITING):
        if are_needs_met(session, dependant):
            move(session, dependant, ready)


def _cancel_dependants(session: Session, job: Job) -> None:
    """Cancel all that can no longer be done, and say why in each."""
    for dependant in dependants_of(session, job, JobState.WAITING):
        because = f"canceled because {title(job)} {_ended(job)}"
        dependant.error = problem_document(CANCELED, because, {"because_of": str(job.id)})
        move(session, dependant, JobState.CANCELED, because)
        _cancel_dependants(session, dependant)


def _ended(job: Job) -> str:
    """Say how a job ended, with its reason."""
    detail = (job.error or {}).get("detail")
    return (
        job.state.value
        if detail is None or job.state is JobState.CANCELED
        else f"{job.state.value}: {detail}"
    )


def _end_parent(session: Session, parent: Job, children: Sequence[Job]) -> None:
    failed = next((one for one in children if one.state is JobState.FAILED), None)
    canceled = next((one for one in children if one.state is JobState.CANCELED), None)
    if failed is not None and parent.error is None:  # Else somebody asked to cancel it.
        parent.error = {**(failed.error or {}), "job_id": str(failed.id), "job": title(failed)}
        move(session, parent, JobState.FAILED, f"{title(failed)} failed")
    elif failed is not None or canceled is not None:
        parent.error = parent.error or _canceled_like(canceled or failed)
        move(session, parent, JobState.CANCELED)
    else:
        parent.result = _training_result(session, parent)
        move(session, parent, JobState.SUCCEEDED)


def _canceled_like(job: Job | None) -> dict[str, JsonValue]:
    """Say that a training ended because one of its jobs was canceled."""
    name = "a job of it" if job is None else title(job)
    return problem_document(CANCELED, f"canceled because {name} was canceled")


def _training_result(session: Session, parent: Job) -> dict[str, JsonValue]:
    model_id = session.scalar(select(TrainedModel.id).where(TrainedModel.training_id == parent.training_id))
    return {"training_id": str(parent.training_id), "model_id": None if model_id is None else str(model_id)}
