"""Routes of trained models: import a zip, list, read, delete."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api import waiting
from app.api.deps import (
    BaseDep,
    Body,
    IdempotencyDep,
    NoQuery,
    PageQuery,
    ResourcesDep,
    SessionDep,
    settings_of,
)
from app.api.uploads import Expected, received, require_zip_type, zip_body
from app.api.waiting import Accepted
from app.db.models import TrainedModel
from app.errors import RequestError
from app.payloads import ExpectedImage
from app.requests import AliasName, ImportRequest, Name
from app.services import aliases, model_files, models
from app.services.aliases import reference_of
from app.services.following import JobStatus
from app.services.models import ModelFilter

router = APIRouter(prefix="/models", tags=["models"])

EXPECTED = Expected(
    raw_field="file",
    files=re.compile("file"),
    texts=(),
    hint="send the zip of a trained model as multipart field `file`, or as a raw application/zip body",
)


class ModelQuery(PageQuery):
    """Which models."""

    name: Name | None = None
    origin: Literal["trained", "imported"] | None = None
    state: Literal["importing", "ready", "failed"] | None = None
    dataset_id: UUID | None = None


class ModelSummary(Body):
    """A model in a list: what it takes, what it tells apart, how good it was."""

    id: UUID
    name: str | None
    """Null while it is being imported and nobody has named it."""
    version: int | None
    """Within its name; null until it is ready."""
    reference: str | None
    """How POST /predict takes it beside its id: `name:version`."""
    aliases: list[AliasName]
    """Those that point at it."""
    origin: str
    """trained or imported."""
    state: str
    """importing, ready or failed."""
    configuration: str | None
    """Of an ensemble several, with plus signs between them."""
    folds: list[int | str]
    channels: list[str]
    """In the order in which POST /predict takes images."""
    labels: dict[str, Any]
    image: ExpectedImage | None
    """What the images were like that it learnt from; null where an earlier release made the model."""
    mean_dice: float | None
    """Over the validation cases of all folds."""
    reason: str
    """Why this configuration."""
    training_id: UUID | None
    dataset_id: UUID | None
    size_bytes: int
    created_at: datetime
    links: dict[str, str]


class ModelView(ModelSummary):
    """One model, with what its files say."""

    description: dict[str, Any] | None
    """dataset.json."""
    selection: dict[str, Any] | None
    """Why it was chosen: all that was compared, if its files tell; null where nothing was to be chosen from."""
    members: list[str]
    """Of an ensemble; empty where it is a single model."""
    postprocessing: dict[str, Any] | None
    """What is removed from every segmentation; null for nothing."""
    provenance: dict[str, Any] | None
    """What it was made from, each by its hash, and what made it."""
    request: dict[str, Any] | None
    """Of an imported one: what was asked for, with the defaults filled in."""
    job_id: UUID | None
    """Of the job that imports it; null for one that was trained."""
    error: dict[str, Any] | None
    """Problem document, if it could not be imported."""


class ModelPage(Body):
    """Some models, newest first."""

    items: list[ModelSummary]
    next_cursor: str | None


@router.post("", status_code=202, response_model=Accepted, openapi_extra=zip_body())
async def import_model(
    request: Request,
    query: Annotated[ImportRequest, Query()],
    resources: ResourcesDep,
    base: BaseDep,
    idempotency_key: IdempotencyDep = None,
) -> JSONResponse:
    """Take a zip of a trained model: of nnU-Net v2, or exported from here; nothing that it names is run.

    A job makes a model of it. The same zip, asked for in the same way, is imported once.
    """
    require_zip_type(request, EXPECTED)
    async with received(request, resources.store, settings_of(request).max_upload_bytes, EXPECTED) as upload:
        if len(upload.parts) != 1:
            raise RequestError(f"{len(upload.parts)} files came; {EXPECTED.hint}")
        archive = upload.parts[0].file
        parts = {"request": query.model_dump_json(), "sha256": archive.sha256}
        key = waiting.request_key(idempotency_key, "POST /models", parts)
        submission = await run_in_threadpool(models.submit_import, resources, query, archive, key)

    def view(session: Session, status: JobStatus) -> Accepted:
        address = f"{base}/models/{submission.id}"
        return Accepted(
            id=submission.id,
            state=models.find(session, submission.id).state,
            job_id=submission.job_id,
            links={"self": address, "job": f"{base}/jobs/{submission.job_id}"},
            error=status.job.error,
        )

    return await waiting.respond(request, base, submission, view)


@router.get("")
def list_models(session: SessionDep, query: Annotated[ModelQuery, Query()], base: BaseDep) -> ModelPage:
    """List models, newest first."""
    wanted = ModelFilter(query.name, query.origin, query.state, query.dataset_id)
    page = models.read(session, query.request(), wanted)
    named = aliases.of_models(session, [model.id for model in page.items])
    items = [ModelSummary(**_summary(model, named.get(model.id, ()), base)) for model in page.items]
    return ModelPage(items=items, next_cursor=page.next_cursor)


@router.get("/{model_id}", dependencies=[NoQuery])
def get_model(resources: ResourcesDep, model_id: UUID, base: BaseDep) -> ModelView:
    """Read one model: its dataset, why it was chosen, where it comes from."""
    content = model_files.open_model(resources, model_id)
    summary, job = _summary(content.model, content.aliases, base), content.job
    if job is not None:
        summary["links"]["job"] = f"{base}/jobs/{job.id}"
    return ModelView(
        **summary,
        description=content.description,
        selection=content.selection,
        members=list(content.members),
        postprocessing=content.postprocessing,
        provenance=content.provenance,
        request=content.model.request,
        job_id=None if job is None else job.id,
        error=None if job is None else job.error,
    )


@router.delete("/{model_id}", dependencies=[NoQuery], status_code=204)
def delete_model(resources: ResourcesDep, model_id: UUID) -> None:
    """Delete a model to which no alias points and that no job needs; what it segmented stays."""
    models.remove(resources, model_id)


def _summary(model: TrainedModel, named: Sequence[str], base: str) -> dict[str, Any]:
    return {
        "id": model.id,
        "name": model.name or None,
        "version": model.version,
        "reference": None if model.version is None else reference_of(model),
        "aliases": list(named),
        "origin": model.origin,
        "state": model.state,
        "configuration": model.configuration or None,
        "folds": model.folds,
        "channels": model.channels,
        "labels": model.labels,
        "image": model.image,
        "mean_dice": model.mean_dice,
        "reason": model.reason,
        "training_id": model.training_id,
        "dataset_id": model.dataset_id,
        "size_bytes": sum(int(ref["size_bytes"]) for ref in model.files.values()),
        "created_at": model.created_at,
        "links": _links(model, base),
    }


def _links(model: TrainedModel, base: str) -> dict[str, str]:
    address = f"{base}/models/{model.id}"
    links = {"self": address}
    if model.state == "ready":
        links |= {"predict": f"{base}/predict?model={model.id}", "exports": f"{address}/exports"}
    if model.training_id is not None:
        links["training"] = f"{base}/trainings/{model.training_id}"
    if model.dataset_id is not None:
        links["dataset"] = f"{base}/datasets/{model.dataset_id}"
    return links
