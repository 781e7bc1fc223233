"""What is kept of plans: rows and files by name, with the job that makes them, and why they are as they are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.db.base import transaction
from app.db.models import Dataset, DatasetPlan, Job, StoredObject
from app.errors import ConflictError, NotFoundError
from app.jobs import FINAL_STATES
from app.payloads import ObjectRef, PlannedConfiguration
from app.services import datasets, graph
from app.services.paging import Page, PageRequest, read_page
from app.services.resources import Resources
from app.storage import StoreError
from core.domain.dataset import DatasetDescription
from core.domain.explanation import Explanation
from core.domain.fingerprint import Fingerprint
from core.domain.geometry import Shape, Spacing
from core.domain.plan import Plan
from core.planning.explain import explain
from core.planning.presets import PRESETS


@dataclass(frozen=True, slots=True)
class PlanStatus:
    """A plan with the job that makes it."""

    plan: DatasetPlan
    job: Job | None
    file: ObjectRef | None
    """plans.json; None until it is ready."""

    @property
    def state(self) -> str:
        """`ready`, `planning` or `failed`; the job's word counts, should it have ended without telling its plan."""
        if self.plan.state != "planning":
            return self.plan.state
        return "planning" if self.job is not None and self.job.state not in FINAL_STATES else "failed"


@dataclass(frozen=True, slots=True)
class ImageSize:
    """An image that is to be segmented."""

    shape: Shape
    """Voxels (z, y, x)."""
    spacing: Spacing | None
    """Millimetres, same order; None: those of the median training case."""


@dataclass(frozen=True, slots=True)
class PlanContent:
    """A plan with what stands in it, and what is known of its dataset."""

    status: PlanStatus
    values: dict[str, Any] | None
    """plans.json as it is kept; None until it is ready."""
    plan: Plan | None
    description: DatasetDescription | None
    fingerprint: Fingerprint | None

    def explained(self, image: ImageSize | None) -> Explanation | None:
        """Say why the plan is as it is and, for an image, what prediction will take; None until it is ready."""
        if self.plan is None:
            return None
        return explain(
            self.plan,
            fingerprint=self.fingerprint,
            description=self.description,
            gpu_memory_gb=_memory_of(self.status.plan),
            is_moved=self.status.plan.origin == "moved",
            image_shape=None if image is None else image.shape,
            image_spacing=None if image is None else image.spacing,
        )


def _memory_of(row: DatasetPlan) -> float | None:
    """Return what a plan was planned for; None where it was made elsewhere, or by a preset that is gone."""
    if row.origin != "planned" or row.request is None:
        return None
    asked, preset = row.request.get("gpu_memory_gb"), row.request.get("preset", "")
    if asked is None and preset in PRESETS:
        return PRESETS.get(preset).reference_gb
    return asked


def find(session: Session, dataset_id: UUID, name: str) -> PlanStatus:
    """Return one plan of a dataset.

    Raises:
        NotFoundError: There is no such dataset or plan.
    """
    row: DatasetPlan | None = session.scalar(named(dataset_id, name))
    if row is None:
        raise unknown(session, dataset_id, name)
    return statuses_of(session, [row])[0]


def find_by_id(session: Session, plan_id: UUID) -> PlanStatus:
    """Return a plan that was made just now.

    Raises:
        NotFoundError: It was deleted meanwhile.
    """
    row = session.get(DatasetPlan, plan_id)
    if row is None:
        raise NotFoundError("the plan was deleted in the meantime", plan_id=str(plan_id))
    return statuses_of(session, [row])[0]


def find_usable(session: Session, dataset_id: UUID, name: str) -> DatasetPlan:
    """Return a plan to train with, and hold it: until the transaction ends, nobody replaces it.

    Raises:
        NotFoundError: There is no such dataset or plan.
        ConflictError: It is not ready.
    """
    row: DatasetPlan | None = session.scalar(named(dataset_id, name).with_for_update(read=True))
    if row is None:
        raise unknown(session, dataset_id, name)
    if row.state != "ready":
        raise unready(statuses_of(session, [row])[0])
    return row


def read(session: Session, dataset_id: UUID, page: PageRequest) -> Page[PlanStatus]:
    """Return the plans of a dataset, newest first.

    Raises:
        NotFoundError: There is no such dataset.
    """
    if session.get(Dataset, dataset_id) is None:
        raise NotFoundError(f"there is no dataset {dataset_id}", dataset_id=str(dataset_id))
    query = select(DatasetPlan).where(DatasetPlan.dataset_id == dataset_id)
    rows = read_page(session, query, DatasetPlan, page)
    return Page(statuses_of(session, rows.items), rows.next_cursor)


def open_plan(resources: Resources, dataset_id: UUID, name: str) -> PlanContent:
    """Return a plan with what stands in it.

    Raises:
        NotFoundError: There is no such dataset or plan.
    """
    lost: ObjectRef | None = None
    while True:
        found = _find_with_dataset(resources, dataset_id, name)
        try:
            return _content(resources, *found)
        except (StoreError, FileNotFoundError):
            named_now = found[0].file
            if named_now is None or named_now == lost:  # Nobody has replaced it: it is really not there.
                raise
            lost = named_now


def configurations_of(row: DatasetPlan) -> list[PlannedConfiguration]:
    """Return the configurations of a plan, in the order of the file."""
    return [PlannedConfiguration.model_validate(one) for one in row.configurations]


def named(dataset_id: UUID, name: str) -> Select[Any]:
    """Select the plan of a name."""
    return select(DatasetPlan).where(DatasetPlan.dataset_id == dataset_id, DatasetPlan.name == name)


def statuses_of(session: Session, rows: Sequence[DatasetPlan]) -> list[PlanStatus]:
    """Return plans with their jobs and files, with few queries."""
    jobs = {
        job.id: job for job in session.scalars(select(Job).where(Job.id.in_([one.job_id for one in rows])))
    }
    keys = [one.plans_key for one in rows]
    files = {one.key: one for one in session.scalars(select(StoredObject).where(StoredObject.key.in_(keys)))}
    return [
        PlanStatus(
            one,
            None if one.job_id is None else jobs.get(one.job_id),
            None if one.plans_key is None else graph.object_ref(files[one.plans_key]),
        )
        for one in rows
    ]


def unready(status: PlanStatus) -> ConflictError:
    """Say why a plan cannot be used."""
    name, job = status.plan.name, status.job
    if job is not None and status.state == "planning":
        return ConflictError(f"the plan {name} is being made; wait for job {job.id}", job_id=str(job.id))
    detail = (None if job is None else (job.error or {}).get("detail")) or "its job did not say why"
    return ConflictError(f"the plan {name} could not be made: {detail}", plan=name)


def unknown(session: Session, dataset_id: UUID, name: str) -> NotFoundError:
    """Say that there is no such plan, and which there are."""
    if session.get(Dataset, dataset_id) is None:
        return NotFoundError(f"there is no dataset {dataset_id}", dataset_id=str(dataset_id))
    query = select(DatasetPlan.name).where(DatasetPlan.dataset_id == dataset_id).order_by(DatasetPlan.name)
    names = list(session.scalars(query))
    cure = f"it has: {', '.join(names)}" if names else f"make one with POST /datasets/{dataset_id}/plans"
    return NotFoundError(f"the dataset has no plan {name}; {cure}", dataset_id=str(dataset_id), plan=name)


def _find_with_dataset(
    resources: Resources, dataset_id: UUID, name: str
) -> tuple[PlanStatus, DatasetDescription | None, ObjectRef | None]:
    """Return a plan, and dataset.json and fingerprint of its dataset."""
    with transaction(resources.readers) as session:
        status = find(session, dataset_id, name)
        dataset = session.get_one(Dataset, dataset_id)
        measured = graph.stored_if_any(session, dataset.fingerprint_key)
    return status, datasets.description_of(dataset), measured


def _content(
    resources: Resources,
    status: PlanStatus,
    description: DatasetDescription | None,
    measured: ObjectRef | None,
) -> PlanContent:
    """Read a plan and the fingerprint from the store, from which another request may be deleting them."""
    if status.file is None:
        return PlanContent(status, None, None, description, None)
    text = resources.store.path(status.file).read_bytes()
    fingerprint = (
        None
        if measured is None
        else Fingerprint.model_validate_json(resources.store.path(measured).read_bytes())
    )
    return PlanContent(status, json.loads(text), Plan.parse(text), description, fingerprint)
