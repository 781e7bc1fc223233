"""Routes of plans: make one, take one from another dataset, list, read with reasons, upload, delete."""

import re
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi import Body as BodyParameter
from fastapi.responses import JSONResponse
from pydantic import Field
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
    precondition_of,
    resources_of,
)
from app.api.waiting import Accepted
from app.db.base import transaction
from app.errors import RequestError, UnsupportedMediaError
from app.requests import PlanName, PlanningRequest
from app.services import kept_plans, plans
from app.services.following import JobStatus
from app.services.kept_plans import ImageSize, PlanContent, PlanStatus
from app.services.resources import Submission
from core.domain.geometry import Spacing

router = APIRouter(prefix="/datasets/{dataset_id}/plans", tags=["plans"])

LARGEST_EDGE = 1_000_000
"""Voxels or millimetres of an image along one axis that anybody asks about."""

AXES = 3

WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")

DECIMAL = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,3})?|[0-9]+\.")

JSON_TYPES = frozenset({"application/json", "text/json"})

PlanNamePath = Annotated[PlanName, Path(description="What the plan is called.", examples=["nnUNetPlans"])]

EXAMPLES: dict[str, Any] = {
    "preset": {
        "summary": "Residual encoders for a GPU of 12 GB",
        "value": {"preset": "resenc_m", "gpu_memory_gb": 12, "name": "resenc_12gb"},
    },
    "spacing": {
        "summary": "Another target spacing, in millimetres (z, y, x)",
        "value": {"preset": "default", "target_spacing": [3.0, 1.0, 1.0], "name": "thick_slices"},
    },
    "move": {
        "summary": "The plan of another dataset",
        "value": {"from": {"dataset_id": "5f0c1d9e-6a55-4d0f-9f7e-0a3a0a9f6f10", "plan": "nnUNetPlans"}},
    },
}
"""Of the body of POST."""

UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "description": "A plans.json of nnU-Net v2, from 2.0 on."}
            }
        },
    }
}


class PlanQuery(Body):
    """What to tell beside the plan."""

    image_shape: Annotated[str, Field(max_length=100, examples=["120,512,512"])] | None = None
    """Voxels `z,y,x` of an image that is to be segmented; a flat one has z = 1."""
    image_spacing: Annotated[str, Field(max_length=100, examples=["5,0.8,0.8"])] | None = None
    """Its millimetres `z,y,x`; without them, those of the median training case."""

    def image(self) -> ImageSize | None:
        """Return both as numbers.

        Raises:
            RequestError: They are none.
        """
        if self.image_shape is None:
            if self.image_spacing is not None:
                raise RequestError("image_spacing says nothing without image_shape; send both")
            return None
        edges = _triple(self.image_shape, WHOLE_NUMBER)
        if edges is None:
            raise RequestError(
                "image_shape must be three positive whole numbers, the voxels along z, y and x: "
                "image_shape=120,512,512; a flat image has z = 1"
            )
        z, y, x = (int(edge) for edge in edges)
        if self.image_spacing is None:
            return ImageSize((z, y, x), None)
        spacing = _triple(self.image_spacing, DECIMAL)
        if spacing is None:
            raise RequestError(
                "image_spacing must be three positive numbers, the millimetres between voxels along z, y and x: "
                "image_spacing=5,0.8,0.8"
            )
        return ImageSize((z, y, x), spacing)


def _triple(text: str, number: re.Pattern[str]) -> Spacing | None:
    """Read three positive numbers of a kind; None if they are not."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != AXES or not all(number.fullmatch(part) for part in parts):
        return None
    z, y, x = (float(part) for part in parts)
    return (z, y, x) if all(0 < edge <= LARGEST_EDGE for edge in (z, y, x)) else None


class PlanSummary(Body):
    """A plan in a list."""

    name: str
    origin: str
    """planned, uploaded or moved."""
    state: str
    """planning, ready or failed."""
    configurations: list[str]
    """In the order of the file; empty until it is ready."""
    job_id: UUID | None
    """Of the job that makes it; null if none was needed."""
    created_at: datetime
    updated_at: datetime
    links: dict[str, str]


class PlanView(PlanSummary):
    """One plan, with the reason of each decision."""

    request: dict[str, Any] | None
    """What was asked for, with the defaults filled in; null for an upload."""
    error: dict[str, Any] | None
    """Problem document, if it could not be made."""
    plan: dict[str, Any] | None
    """plans.json; null until it is ready."""
    decisions: list[dict[str, Any]]
    """configuration (null: all of them), topic, value, reason."""
    prediction: list[dict[str, Any]] | None
    """Per configuration: what segmenting an image of `image_shape` takes at most; null without one."""


class PlanPage(Body):
    """Some plans, newest first."""

    items: list[PlanSummary]
    next_cursor: str | None


@router.post(
    "",
    status_code=202,
    response_model=Accepted,
    dependencies=[NoQuery],
    responses={201: {"model": PlanView, "description": "The plan was taken from another dataset."}},
)
async def make_plan(
    request: Request,
    dataset_id: UUID,
    body: Annotated[PlanningRequest, BodyParameter(openapi_examples=EXAMPLES)],
    *,
    resources: ResourcesDep,
    base: BaseDep,
    idempotency_key: IdempotencyDep = None,
) -> Response:
    """Plan for a dataset, as a preset and its overrides say; or take the plan of another dataset as it is.

    Planning is a job: poll it, or prefer to wait. Taking a plan is done at once.
    """
    parts = {"dataset": str(dataset_id), "body": body.model_dump_json()}
    key = waiting.request_key(idempotency_key, "POST /datasets/plans", parts)
    if body.source is not None:
        taken = await run_in_threadpool(plans.take, resources, dataset_id, body.source, body.name, key)
        return await run_in_threadpool(_created, request, taken, base)
    submission = await run_in_threadpool(plans.submit, resources, dataset_id, body, key)

    def view(session: Session, status: JobStatus) -> Accepted:
        found = kept_plans.find_by_id(session, submission.id)
        return Accepted(
            id=submission.id,
            state=found.state,
            job_id=submission.job_id,
            links=_links(found, base) | {"job": f"{base}/jobs/{submission.job_id}"},
            error=status.job.error,
        )

    return await waiting.respond(request, base, submission, view)


@router.get("")
def list_plans(session: SessionDep, dataset_id: UUID, query: PageDep, base: BaseDep) -> PlanPage:
    """List the plans of a dataset, newest first."""
    page = kept_plans.read(session, dataset_id, query.request())
    items = [PlanSummary(**_summary(found, base)) for found in page.items]
    return PlanPage(items=items, next_cursor=page.next_cursor)


@router.get("/{name}")
def get_plan(
    dataset_id: UUID,
    name: PlanNamePath,
    query: Annotated[PlanQuery, Query()],
    *,
    resources: ResourcesDep,
    base: BaseDep,
    response: Response,
) -> PlanView:
    """Read a plan and why it is as it is; for the shape of an image also what prediction will take."""
    image = query.image()
    content = kept_plans.open_plan(resources, dataset_id, name)
    response.headers.update(_tag(content.status))
    return _view(content, image, base)


@router.put(
    "/{name}",
    response_model=PlanView,
    dependencies=[NoQuery],
    openapi_extra=UPLOAD_BODY,
    responses={201: {"model": PlanView, "description": "There was no plan of this name before."}},
)
async def put_plan(
    request: Request, dataset_id: UUID, name: PlanNamePath, resources: ResourcesDep, base: BaseDep
) -> Response:
    """Upload a plans.json; every mistake in it is named at once. Trainings keep the one that they began with.

    `If-Match` with the ETag of what you have read refuses to overwrite what somebody else changed since.
    """
    _require_json(request)
    text = await request.body()
    precondition = precondition_of(request)

    def write() -> Response:
        replaced = plans.put(resources, dataset_id, name, text, precondition)
        content = kept_plans.open_plan(resources, dataset_id, name)
        return _answer(content, base, status=200 if replaced else 201)

    return await run_in_threadpool(write)


@router.delete("/{name}", dependencies=[NoQuery], status_code=204)
def delete_plan(request: Request, dataset_id: UUID, name: PlanNamePath, resources: ResourcesDep) -> None:
    """Delete a plan that no job works with; models that were trained with it keep it."""
    plans.remove(resources, dataset_id, name, precondition_of(request))


def _created(request: Request, taken: Submission, base: str) -> Response:
    resources = resources_of(request)
    with transaction(resources.readers) as session:
        row = kept_plans.find_by_id(session, taken.id).plan
    response = _answer(kept_plans.open_plan(resources, row.dataset_id, row.name), base, status=201)
    if taken.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def _answer(content: PlanContent, base: str, status: int) -> Response:
    """Answer with a plan that was just written."""
    headers = _tag(content.status)
    if status == 201:  # noqa: PLR2004 - created
        headers["Location"] = _links(content.status, base)["self"]
    view = _view(content, None, base)
    return JSONResponse(view.model_dump(mode="json"), status_code=status, headers=headers)


def _view(content: PlanContent, image: ImageSize | None, base: str) -> PlanView:
    found, explained = content.status, content.explained(image)
    reasons = {} if explained is None else explained.to_json()
    return PlanView(
        **_summary(found, base),
        request=found.plan.request,
        error=None if found.job is None else found.job.error,
        plan=content.values,
        decisions=reasons.get("decisions", []),
        prediction=None if image is None else reasons.get("prediction"),
    )


def _summary(found: PlanStatus, base: str) -> dict[str, Any]:
    plan = found.plan
    return {
        "name": plan.name,
        "origin": plan.origin,
        "state": found.state,
        "configurations": [one.name for one in kept_plans.configurations_of(plan)],
        "job_id": plan.job_id,
        "created_at": plan.created_at,
        "updated_at": plan.updated_at,
        "links": _links(found, base),
    }


def _links(found: PlanStatus, base: str) -> dict[str, str]:
    dataset = f"{base}/datasets/{found.plan.dataset_id}"
    links = {"self": f"{dataset}/plans/{found.plan.name}", "dataset": dataset, "train": f"{base}/train"}
    return links if found.plan.job_id is None else {**links, "job": f"{base}/jobs/{found.plan.job_id}"}


def _tag(found: PlanStatus) -> dict[str, str]:
    """Return the header that tells one content of a plan from another."""
    return {} if found.file is None else {"ETag": f'"{found.file.sha256}"'}


def _require_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in JSON_TYPES:
        raise UnsupportedMediaError(
            f"a body of type {media_type or 'unknown'} is not taken; send the plans.json as it is"
            " (curl: -T plans.json -H 'Content-Type: application/json')"
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaError("send the file as it is, without Content-Encoding")
