"""Plans of datasets: ask for one, take one from another dataset, upload, replace, delete."""

import json
from uuid import UUID, uuid4

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, undefer

from app.db.base import now, transaction
from app.db.models import DatasetPlan, Job, StoredObject, Training
from app.errors import ConflictError
from app.jobs import FINAL_STATES, JobKind
from app.payloads import ObjectRef, PlannedConfiguration, PlanPayload
from app.requests import DEFAULT_PRESET, PlanningRequest, PlanSource
from app.services import datasets, graph, kept_plans
from app.services.kept_plans import PlanStatus
from app.services.preconditions import Precondition
from app.services.resources import (
    RequestKey,
    Resources,
    Submission,
    forget,
    insistently,
    kept,
    replayed,
    submit_files,
    submit_once,
)
from app.services.transitions import create
from core.domain.plan import Plan
from core.planning.check import checked_plan
from core.planning.move import moved_plan
from core.planning.presets import PRESETS

NOUN = "plan"
"""In sentences about what a client expected."""


def submit(
    resources: Resources, dataset_id: UUID, request: PlanningRequest, key: RequestKey | None
) -> Submission:
    """Queue the making of a plan for a dataset.

    Raises:
        NotFoundError: There is no such dataset.
        ConflictError: It is not ready, or has a plan of this name that did not fail.
        RequestError: The key was used otherwise.
    """
    return submit_once(resources, key, lambda session: _create(session, dataset_id, request))


def take(
    resources: Resources,
    dataset_id: UUID,
    source: PlanSource,
    name: str | None,
    key: RequestKey | None,
) -> Submission:
    """Keep the plan of another dataset as one of this dataset.

    Args:
        resources: Where to.
        dataset_id: Of the dataset that it is for.
        source: The other dataset's plan.
        name: What to call it here; None keeps its name.
        key: The client's Idempotency-Key, if any.

    Raises:
        NotFoundError: There is no such dataset or plan.
        ConflictError: One of them is not ready, or the dataset has a plan of this name that did not fail.
        PlanError: The plan does not fit the dataset; every mistake is named.
        RequestError: The key was used otherwise.
    """
    with transaction(resources.readers) as session:
        done = replayed(session, key)
        if done is not None:  # Whatever has become of the other dataset since.
            return done
        dataset = datasets.find_ready(session, dataset_id)
    name = name or source.plan
    content = kept_plans.open_plan(resources, source.dataset_id, source.plan)
    if content.plan is None:
        raise kept_plans.unready(content.status)
    moved = moved_plan(
        content.plan,
        dataset_name=dataset.name,
        plans_name=name,
        reader=dataset.reader or content.plan.image_reader_writer,
    )
    plan = checked_plan(_text_of(moved), datasets.description_of(dataset))
    request = PlanningRequest.model_validate({"name": name, "from": source})
    ref = _store(resources, dataset_id, plan)

    def write(session: Session) -> Submission:
        datasets.hold_ready(session, dataset_id)
        _make_free(session, dataset_id, name)
        row = DatasetPlan(id=uuid4(), dataset_id=dataset_id, name=name, request=request.to_json())
        _fill(session, row, "moved", plan, ref)
        return Submission(row.id, row.id)

    return submit_files(resources, key, [ref], write)


def put(resources: Resources, dataset_id: UUID, name: str, text: bytes, precondition: Precondition) -> bool:
    """Keep an edited plans.json under a name; trainings keep the one that they began with.

    Args:
        resources: Where to.
        dataset_id: Of the dataset that it is for.
        name: Takes the place of the `plans_name` in the file.
        text: The file's content.
        precondition: What must be kept under the name so far.

    Returns:
        Whether it replaced another one.

    Raises:
        NotFoundError: There is no such dataset.
        ConflictError: It is not ready, or a job is just making a plan of this name.
        PreconditionError: Something else is kept under the name than the client says.
        PlanError: The file cannot be used; every mistake is named.
    """
    with transaction(resources.readers) as session:
        dataset = datasets.find_ready(session, dataset_id)
    checked = checked_plan(text, datasets.description_of(dataset))
    plan = checked.model_copy(
        update={"plans_name": name, "dataset_name": checked.dataset_name or dataset.name}
    )
    ref = _store(resources, dataset_id, plan)

    def write() -> tuple[bool, list[str]]:
        with transaction(resources.sessions) as session:
            datasets.hold_ready(session, dataset_id)
            row = _hold(session, dataset_id, name)
            status = None if row is None else kept_plans.statuses_of(session, [row])[0]
            precondition.require(None if status is None or status.file is None else status.file.sha256, NOUN)
            released = []
            if row is None or status is None:
                row = DatasetPlan(id=uuid4(), dataset_id=dataset_id, name=name)
            else:
                _require_made(status)
                released = _replace(session, row)
            _fill(session, row, "uploaded", plan, ref)
            return status is not None, released

    with kept(resources, [ref]):
        replaced, released = insistently(write)
    for key in released:
        resources.store.delete(key)
    return replaced


def remove(resources: Resources, dataset_id: UUID, name: str, precondition: Precondition) -> None:
    """Delete a plan; trainings that have ended keep the file that they began with.

    Raises:
        NotFoundError: There is no such dataset or plan.
        ConflictError: A job makes it or trains with it.
        PreconditionError: It is not what the client says.
    """

    def write() -> list[str]:
        with transaction(resources.sessions) as session:
            row = _hold(session, dataset_id, name)
            if row is None:
                raise kept_plans.unknown(session, dataset_id, name)
            status = kept_plans.statuses_of(session, [row])[0]
            precondition.require(None if status.file is None else status.file.sha256, NOUN)
            _require_made(status)
            _require_unused(session, row)
            released = _replace(session, row)
            forget(session, row.id)
            session.delete(row)
            return released

    for key in insistently(write):
        resources.store.delete(key)


def _create(session: Session, dataset_id: UUID, request: PlanningRequest) -> Submission:
    dataset = datasets.hold_ready(session, dataset_id)
    preset = request.preset or DEFAULT_PRESET
    name = request.name or PRESETS.get(preset).plans_name
    _make_free(session, dataset_id, name)
    row = DatasetPlan(
        id=uuid4(),
        dataset_id=dataset_id,
        name=name,
        origin="planned",
        state="planning",
        request=request.model_copy(update={"name": name, "preset": preset}).to_json(),
    )
    session.add(row)
    payload = PlanPayload(
        plan_id=row.id,
        plans_name=name,
        dataset_id=dataset.id,
        dataset_name=dataset.name,
        archive=graph.stored(session, dataset.archive_key),
        fingerprint=graph.stored_if_any(session, dataset.fingerprint_key),
        preset=preset,
        gpu_memory_gb=request.gpu_memory_gb,
        target_spacing=request.target_spacing,
        suppress_transpose=request.suppress_transpose,
    )
    job = create(session, graph.job_of(payload, dataset_id=dataset.id))
    row.job_id = job.id
    return Submission(row.id, job.id)


def _text_of(plan: Plan) -> bytes:
    """Write a plans.json as all files of the nnU-Net family are written."""
    return (json.dumps(plan.to_json(), indent=4, allow_nan=False) + "\n").encode()


def _store(resources: Resources, dataset_id: UUID, plan: Plan) -> ObjectRef:
    """Keep a plans.json as an object that no row names yet."""
    text = _text_of(plan)
    incoming = resources.store.receive(len(text))
    try:
        incoming.write(text)
        return resources.store.adopt(f"plans/{dataset_id}/{uuid4()}.json", incoming)
    finally:
        incoming.discard()


def _fill(session: Session, row: DatasetPlan, origin: str, plan: Plan, ref: ObjectRef) -> None:
    """Let a row name a plans.json that is in the store."""
    session.add(StoredObject(key=ref.key, sha256=ref.sha256, size_bytes=ref.size_bytes))
    session.flush()
    row.origin, row.state, row.plans_key = origin, "ready", ref.key
    row.configurations = [
        PlannedConfiguration(name=name, previous_stage=plan.configuration(name).previous_stage).to_json()
        for name in plan.configurations
    ]
    row.updated_at = now()
    session.add(row)


def _replace(session: Session, row: DatasetPlan) -> list[str]:
    """Let go of what a row names; return the keys of objects that nothing names any more.

    A training names what it began with. The job that made the plan stays, without what it made.
    """
    key, job_id = row.plans_key, row.job_id
    row.plans_key, row.state, row.job_id, row.request = None, "failed", None, None
    session.flush()
    if key is None or session.scalar(select(Training.id).where(Training.plans_key == key).limit(1)):
        return []
    job = None if job_id is None else session.get(Job, job_id, options=[undefer(Job.result)])
    if job is not None and job.result is not None:
        files = {name: ref for name, ref in job.result["files"].items() if ref["key"] != key}
        job.result = {**job.result, "files": files}
    session.execute(delete(StoredObject).where(StoredObject.key == key))
    return [key]


def _hold(session: Session, dataset_id: UUID, name: str) -> DatasetPlan | None:
    """Lock a plan, if there is one."""
    row: DatasetPlan | None = session.scalar(kept_plans.named(dataset_id, name).with_for_update())
    return row


def _make_free(session: Session, dataset_id: UUID, name: str) -> None:
    """Refuse a second plan of a name; one that could not be made gives way, having no file to be used.

    Its job stays, so that why it failed can still be read; it cannot be tried again.
    """
    row = _hold(session, dataset_id, name)
    if row is None:
        return
    if kept_plans.statuses_of(session, [row])[0].state != "failed":
        raise ConflictError(
            f"the dataset has a plan {name} already; give this one another name, upload it with PUT to replace "
            "that one, or delete that one first",
            plan=name,
        )
    forget(session, row.id)
    session.delete(row)
    session.flush()


def _require_made(status: PlanStatus) -> None:
    """Refuse to change what a job is just making."""
    if status.state == "planning" and status.job is not None:
        raise ConflictError(
            f"the plan {status.plan.name} is being made; cancel job {status.job.id} first, or wait for it",
            job_id=str(status.job.id),
        )


def _require_unused(session: Session, row: DatasetPlan) -> None:
    """Refuse to delete what is being trained with; a plan that failed has nothing to train with."""
    if row.plans_key is None:
        return
    job_id = session.scalar(
        select(Job.id)
        .join(Training, Training.id == Job.training_id)
        .where(
            Training.plans_key == row.plans_key, Job.kind == JobKind.TRAINING, Job.state.not_in(FINAL_STATES)
        )
        .limit(1)
    )
    if job_id is not None:
        raise ConflictError(
            f"the plan {row.name} is being trained with; cancel job {job_id} first, or wait for it",
            job_id=str(job_id),
        )
