"""Routes of datasets: upload, list, read, read the fingerprint, delete."""

import re
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api import waiting
from app.api.deps import (
    BaseDep,
    Body,
    IdempotencyDep,
    NoQuery,
    PageDep,
    ResourcesDep,
    SessionDep,
    settings_of,
)
from app.api.uploads import Expected, received, require_zip_type, zip_body
from app.api.waiting import Accepted
from app.errors import RequestError
from app.requests import Name
from app.services import datasets
from app.services.datasets import DatasetStatus
from app.services.following import JobStatus

router = APIRouter(prefix="/datasets", tags=["datasets"])

EXPECTED = Expected(
    raw_field="file",
    files=re.compile("file"),
    texts=(),
    hint="send the zipped dataset folder as multipart field `file`, or as a raw application/zip body",
)


class UploadQuery(Body):
    """How the dataset is called; the same name again makes its next version."""

    name: Name


class CaseView(Body):
    """One case: voxels and millimetres, ordered (z, y, x)."""

    case: str
    shape: list[int]
    spacing: list[float]


class ClassView(Body):
    """How often a label value occurs, and what it is called: by its own name, or by its regions'."""

    label: int
    names: list[str]
    cases: int
    voxels: int


class DatasetSummary(Body):
    """A dataset in a list."""

    id: UUID
    name: str
    version: int
    state: str
    """ingesting, ready or invalid."""
    case_count: int
    problem_count: int
    created_at: datetime
    links: dict[str, str]


class DatasetView(DatasetSummary):
    """One dataset, with every problem of every case."""

    labels: dict[str, Any] | None
    """Name → value, or the values of a region; null until dataset.json was read."""
    channels: list[str] | None
    cases: list[CaseView]
    problems: list[dict[str, Any]]
    """case (null: the dataset as a whole), kind, message with the cure."""
    notes: list[dict[str, Any]]
    """The same of what keeps nobody from training, yet deserves a look."""
    classes: list[ClassView]
    """Every label that is declared or occurs."""
    has_fingerprint: bool
    """Whether `GET /datasets/{id}/fingerprint` has one: computed once, with the first plan or training."""
    job_id: UUID


class DatasetPage(Body):
    """Some datasets, newest first."""

    items: list[DatasetSummary]
    next_cursor: str | None


@router.post("", status_code=202, response_model=Accepted, openapi_extra=zip_body())
async def upload_dataset(
    request: Request,
    query: Annotated[UploadQuery, Query()],
    resources: ResourcesDep,
    base: BaseDep,
    idempotency_key: IdempotencyDep = None,
) -> JSONResponse:
    """Take a zipped dataset; a job checks it. Poll the job, or prefer to wait."""
    require_zip_type(request, EXPECTED)
    async with received(request, resources.store, settings_of(request).max_upload_bytes, EXPECTED) as upload:
        if len(upload.parts) != 1:
            raise RequestError(f"{len(upload.parts)} files came; {EXPECTED.hint}")
        archive = upload.parts[0].file
        key = waiting.request_key(
            idempotency_key, "POST /datasets", {"name": query.name, "sha256": archive.sha256}
        )
        submission = await run_in_threadpool(datasets.upload, resources, query.name, archive, key)

    def view(session: Session, _job: JobStatus) -> Accepted:
        found = datasets.find(session, submission.id)
        return Accepted(
            id=submission.id,
            state=found.dataset.state,
            job_id=submission.job_id,
            links=_links(found, base),
        )

    return await waiting.respond(request, base, submission, view)


@router.get("")
def list_datasets(session: SessionDep, query: PageDep, base: BaseDep) -> DatasetPage:
    """List datasets, newest first."""
    page = datasets.read(session, query.request())
    items = [DatasetSummary(**_summary(found, base)) for found in page.items]
    return DatasetPage(items=items, next_cursor=page.next_cursor)


@router.get("/{dataset_id}", dependencies=[NoQuery])
def get_dataset(session: SessionDep, dataset_id: UUID, base: BaseDep) -> DatasetView:
    """Read one dataset: its state, what is in it, and every problem."""
    found = datasets.find(session, dataset_id)
    description = found.description
    return DatasetView(
        **_summary(found, base),
        labels=None if description is None else dict(description.labels),
        channels=None if description is None else list(description.channels),
        cases=[
            CaseView(case=case.case_id, shape=case.shape, spacing=case.spacing)
            for case in found.dataset.cases
        ],
        problems=found.dataset.problems,
        notes=found.dataset.notes,
        classes=[ClassView(**one) for one in found.dataset.classes],
        has_fingerprint=found.dataset.fingerprint_key is not None,
        job_id=found.job_id,
    )


@router.get("/{dataset_id}/fingerprint", dependencies=[NoQuery])
def get_fingerprint(resources: ResourcesDep, dataset_id: UUID) -> Response:
    """Read dataset_fingerprint.json: shapes, spacings and intensities, as they were measured for planning."""
    return Response(datasets.fingerprint(resources, dataset_id), media_type="application/json")


@router.delete("/{dataset_id}", dependencies=[NoQuery], status_code=204)
def delete_dataset(resources: ResourcesDep, dataset_id: UUID) -> None:
    """Delete a dataset that nothing was trained on, with its plans."""
    datasets.remove(resources, dataset_id)


def _summary(found: DatasetStatus, base: str) -> dict[str, Any]:
    dataset = found.dataset
    return {
        "id": dataset.id,
        "name": dataset.name,
        "version": dataset.version,
        "state": dataset.state,
        "case_count": found.case_count,
        "problem_count": len(dataset.problems),
        "created_at": dataset.created_at,
        "links": _links(found, base),
    }


def _links(found: DatasetStatus, base: str) -> dict[str, str]:
    address = f"{base}/datasets/{found.dataset.id}"
    links = {
        "self": address,
        "job": f"{base}/jobs/{found.job_id}",
        "plans": f"{address}/plans",
        "train": f"{base}/train",
    }
    has_fingerprint = found.dataset.fingerprint_key is not None
    return {**links, "fingerprint": f"{address}/fingerprint"} if has_fingerprint else links
