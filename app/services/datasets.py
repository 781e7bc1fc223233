"""Datasets: upload an archive, list, read, delete."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from pydantic import ValidationError
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, selectinload, undefer

from app.db.base import transaction
from app.db.models import Dataset, DatasetCase, DatasetPlan, Job, StoredObject, TrainedModel, Training
from app.errors import ConflictError, NotFoundError
from app.jobs import FINAL_STATES, JobKind, JobState
from app.payloads import IngestPayload, ObjectRef, PlanResult
from app.services import graph
from app.services.archives import zip_fault
from app.services.paging import Page, PageRequest, read_page
from app.services.resources import RequestKey, Resources, Submission, forget, insistently, submit_files
from app.services.transitions import create
from app.storage import Incoming
from core.domain.dataset import DatasetDescription
from core.errors import DatasetError


@dataclass(frozen=True, slots=True)
class DatasetStatus:
    """A dataset with the job that ingests it."""

    dataset: Dataset
    job_id: UUID
    case_count: int

    @property
    def description(self) -> DatasetDescription | None:
        """What its dataset.json says; None as long as there is none that can be used."""
        return description_of(self.dataset)


def upload(resources: Resources, name: str, archive: Incoming, key: RequestKey | None) -> Submission:
    """Keep an archive as a new dataset, or as the next version of the one of this name, and queue its check.

    Raises:
        DatasetError: It is no zip archive.
        RequestError: The key came with another request before.
    """
    archive.close()
    fault = zip_fault(archive, "dataset folder")
    if fault is not None:
        raise DatasetError(fault)
    dataset_id = uuid4()
    ref = resources.store.adopt(f"datasets/{dataset_id}/archive.zip", archive)
    return submit_files(resources, key, [ref], lambda session: _create(session, dataset_id, name, ref))


def find(session: Session, dataset_id: UUID) -> DatasetStatus:
    """Return one dataset with its cases.

    Raises:
        NotFoundError: There is no such dataset.
    """
    dataset = session.get(Dataset, dataset_id, options=[selectinload(Dataset.cases)])
    if dataset is None:
        raise NotFoundError(f"there is no dataset {dataset_id}", dataset_id=str(dataset_id))
    return _with_jobs(session, [dataset])[0]


def find_ready(session: Session, dataset_id: UUID) -> Dataset:
    """Return a dataset that something can be learnt from.

    Raises:
        NotFoundError: There is no such dataset.
        ConflictError: It is still being checked, or has problems.
    """
    return _require_ready(session.get(Dataset, dataset_id), dataset_id)


def hold_ready(session: Session, dataset_id: UUID) -> Dataset:
    """Do as `find_ready`, and hold the dataset: until the transaction ends, nobody deletes it.

    Whoever writes what hangs on a dataset calls this first: `remove` takes the same lock before it looks for
    what is to go along, so that nothing comes after it has looked, and the two never wait for each other.

    Raises:
        NotFoundError: There is no such dataset.
        ConflictError: It is still being checked, or has problems.
    """
    lock = {"read": True, "key_share": True}
    return _require_ready(session.get(Dataset, dataset_id, with_for_update=lock), dataset_id)


def _require_ready(dataset: Dataset | None, dataset_id: UUID) -> Dataset:
    if dataset is None:
        raise NotFoundError(f"there is no dataset {dataset_id}", dataset_id=str(dataset_id))
    if dataset.state == "ingesting":
        raise ConflictError("the dataset is still being checked; wait until its state is ready")
    if dataset.state != "ready":
        first = dataset.problems[0]["message"] if dataset.problems else "see its problems"
        raise ConflictError(
            f"the dataset has {len(dataset.problems)} problem(s), so nothing can be learnt from it; "
            f"the first: {first}",
            problems=len(dataset.problems),
        )
    return dataset


def description_of(dataset: Dataset) -> DatasetDescription | None:
    """Return what a dataset's dataset.json says; None as long as there is none that can be used."""
    try:
        return DatasetDescription.model_validate(dataset.description)
    except ValidationError:
        return None


def fingerprint(resources: Resources, dataset_id: UUID) -> bytes:
    """Return the dataset's dataset_fingerprint.json.

    Raises:
        NotFoundError: There is no such dataset, or nobody has computed its fingerprint yet.
    """
    with transaction(resources.readers) as session:
        dataset = find(session, dataset_id).dataset
        if dataset.fingerprint_key is None:
            raise NotFoundError(
                "the dataset has no fingerprint yet; it is computed once, with the dataset's first plan or "
                f"training: POST /datasets/{dataset_id}/plans",
                dataset_id=str(dataset_id),
            )
        ref = graph.object_ref(session.get_one(StoredObject, dataset.fingerprint_key))
    return resources.store.path(ref).read_bytes()


def read(session: Session, page: PageRequest) -> Page[DatasetStatus]:
    """Return datasets without their cases, newest first."""
    rows = read_page(session, select(Dataset), Dataset, page)
    return Page(_with_jobs(session, rows.items), rows.next_cursor)


def remove(resources: Resources, dataset_id: UUID) -> None:
    """Delete a dataset, its archive, fingerprint and plans.

    Raises:
        NotFoundError: There is no such dataset.
        ConflictError: A training or model was made from it, or a job works on it.
    """

    def write() -> list[str]:
        with transaction(resources.sessions) as session:
            dataset = session.get(Dataset, dataset_id, with_for_update=True)
            if dataset is None:
                raise NotFoundError(f"there is no dataset {dataset_id}", dataset_id=str(dataset_id))
            _require_unused(session, dataset_id)
            keys = _objects_of(session, dataset)
            plans = select(DatasetPlan.id).where(DatasetPlan.dataset_id == dataset_id)
            for thing in (dataset_id, *session.scalars(plans)):
                forget(session, thing)
            session.execute(delete(DatasetPlan).where(DatasetPlan.dataset_id == dataset_id))
            session.execute(delete(Job).where(Job.dataset_id == dataset_id))
            session.execute(delete(Dataset).where(Dataset.id == dataset_id))
            session.execute(delete(StoredObject).where(StoredObject.key.in_(keys)))
            return keys

    for key in insistently(write):
        resources.store.delete(key)


def _create(session: Session, dataset_id: UUID, name: str, ref: ObjectRef) -> Submission:
    latest = session.scalar(select(func.max(Dataset.version)).where(Dataset.name == name))
    session.add(StoredObject(key=ref.key, sha256=ref.sha256, size_bytes=ref.size_bytes))
    session.flush()
    session.add(Dataset(id=dataset_id, name=name, version=(latest or 0) + 1, archive_key=ref.key))
    session.flush()
    payload = IngestPayload(dataset_id=dataset_id, archive=ref)
    job = graph.job_of(payload, dataset_id=dataset_id)
    return Submission(dataset_id, create(session, job).id)


def _with_jobs(session: Session, datasets: Sequence[Dataset]) -> list[DatasetStatus]:
    ids = [dataset.id for dataset in datasets]
    ingests = session.scalars(select(Job).where(Job.kind == JobKind.INGEST, Job.dataset_id.in_(ids)))
    job_ids = {job.dataset_id: job.id for job in ingests}
    counted = session.execute(
        select(DatasetCase.dataset_id, func.count())
        .where(DatasetCase.dataset_id.in_(ids))
        .group_by(DatasetCase.dataset_id)
    )
    counts = {row[0]: row[1] for row in counted}
    return [DatasetStatus(one, job_ids[one.id], counts.get(one.id, 0)) for one in datasets]


def _objects_of(session: Session, dataset: Dataset) -> list[str]:
    """Return the keys of all that belongs to a dataset which nothing was trained on."""
    plans = session.scalars(select(DatasetPlan.plans_key).where(DatasetPlan.dataset_id == dataset.id))
    keys = {dataset.archive_key, dataset.fingerprint_key, *plans}
    made = select(Job).where(
        Job.dataset_id == dataset.id, Job.kind == JobKind.PLAN, Job.state == JobState.SUCCEEDED
    )
    for job in session.scalars(made.options(undefer(Job.result))):
        keys |= {ref.key for ref in PlanResult.model_validate(job.result).files.values()}
    return sorted(key for key in keys if key is not None)


def _require_unused(session: Session, dataset_id: UUID) -> None:
    """Refuse to pull a dataset away from under what needs it."""
    for table, noun in ((Training, "training"), (TrainedModel, "model")):
        user = session.scalar(select(table.id).where(table.dataset_id == dataset_id).limit(1))
        if user is not None:
            raise ConflictError(
                f"the dataset is in use by {noun} {user}, so it cannot be deleted", used_by=str(user)
            )
    job = session.scalar(
        select(Job).where(Job.dataset_id == dataset_id, Job.state.not_in(FINAL_STATES)).limit(1)
    )
    if job is not None:
        doing = "checked" if job.kind is JobKind.INGEST else "planned for"
        raise ConflictError(
            f"the dataset is still being {doing}; cancel job {job.id} first, or wait for it",
            job_id=str(job.id),
        )
