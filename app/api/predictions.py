"""Routes of predictions: send an image, read the result, its label map and its picture."""

import re
from datetime import datetime
from typing import Annotated, Any, cast, get_args
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api import problems, waiting
from app.api.deps import BaseDep, Body, IdempotencyDep, NoQuery, ResourcesDep, SessionDep, settings_of
from app.api.files import sent_file
from app.api.jobs import ProgressView, view_of
from app.api.uploads import Expected, Part, Upload, received
from app.api.waiting import Accepted
from app.errors import NotAcceptableError, RequestError, UnsupportedMediaError
from app.jobs import JobState, Urgency
from app.services import aliases, predictions
from app.services.aliases import FORMS, LONGEST_REFERENCE, ModelReference, reference_of
from app.services.following import JobStatus
from app.services.formats import MEDIA_TYPES, file_ending
from app.services.predictions import PredictionRequest, PredictionStatus
from app.services.resources import Resources, Submission

router = APIRouter(tags=["predictions"])

EXPECTED = Expected(
    raw_field="image",
    files=re.compile(r"image(_\d{4})?"),
    texts=("model", "urgency"),
    hint="send the field `image` once per channel, in the model's order, or `image_0000`, `image_0001` …",
)

TEXT_TYPES = frozenset({"application/json", "application/x-www-form-urlencoded", "text/html"})
"""What no image is declared as; curl declares the second when it is told nothing."""

FILE_TYPES = frozenset({"application/gzip", "application/x-gzip"})
"""An Accept header that asks for the label map itself."""

UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "model": {"type": "string", "description": f"It is {FORMS}."},
                        "urgency": {"type": "string", "enum": list(get_args(Urgency))},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class PredictQuery(Body):
    """Which model, and whether a person waits; may stand here, must if the body is the image itself."""

    model: Annotated[str, Field(max_length=LONGEST_REFERENCE)] | None = None
    """Its id, or `name:version`, or `name@alias`."""
    urgency: Urgency | None = None
    """`interactive`, the default, goes before `batch`."""


class PredictionView(Body):
    """One prediction and what came of it."""

    id: UUID
    state: JobState
    job_id: UUID
    model_id: UUID
    """Which one it was, whatever an alias points at by now."""
    model: str
    """Its name and version: `liver:3`."""
    file_ending: str
    """Of the image, and of the segmentation."""
    volumes: dict[str, float] | None
    """Millilitres per label or region; empty for a 2D image."""
    timings: dict[str, float] | None
    """Seconds per stage."""
    provenance: dict[str, Any] | None
    progress: ProgressView
    error: dict[str, Any] | None
    created_at: datetime
    links: dict[str, str]


@router.post("/predict", status_code=202, response_model=Accepted, openapi_extra=UPLOAD_BODY)
async def predict(
    request: Request,
    query: Annotated[PredictQuery, Query()],
    resources: ResourcesDep,
    base: BaseDep,
    idempotency_key: IdempotencyDep = None,
) -> Response:
    """Segment an image; with `Prefer: wait=N` and `Accept: application/gzip`, the answer is the .nii.gz."""
    _require_image_type(request)
    async with received(request, resources.store, settings_of(request).max_upload_bytes, EXPECTED) as upload:
        wanted = _wanted(query, upload)
        _require_acceptable(request, wanted.ending)
        key = waiting.request_key(idempotency_key, "POST /predict", _content_of(wanted))
        submission = await run_in_threadpool(predictions.submit, resources, wanted, key)
    if _wants_file(request) and waiting.wait_of(request) is not None:
        return await _file_or_status(request, resources, submission, base)
    return await waiting.respond(request, base, submission, _accepted(submission, base))


@router.get("/predictions/{prediction_id}", dependencies=[NoQuery])
def get_prediction(session: SessionDep, prediction_id: UUID, base: BaseDep) -> PredictionView:
    """Read one prediction: volumes per label, seconds per stage, where it comes from."""
    return _view(predictions.find(session, prediction_id), base)


@router.get("/predictions/{prediction_id}/segmentation", dependencies=[NoQuery], response_class=FileResponse)
def get_segmentation(request: Request, resources: ResourcesDep, prediction_id: UUID) -> Response:
    """Load the label map, in the format and geometry of the image that was sent."""
    return sent_file(
        request, predictions.segmentation(resources, prediction_id), f"{prediction_id}", "attachment"
    )


@router.get("/predictions/{prediction_id}/preview.png", dependencies=[NoQuery], response_class=FileResponse)
def get_preview(request: Request, resources: ResourcesDep, prediction_id: UUID) -> Response:
    """Look at the segmentation over the image."""
    return sent_file(request, predictions.preview(resources, prediction_id), f"{prediction_id}", "inline")


def _require_image_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in TEXT_TYPES:
        raise UnsupportedMediaError(
            f"a body of type {media_type} is not taken; send the image as it is, with ?model= and"
            f" -H 'Content-Type: application/octet-stream', or a form: {EXPECTED.hint}"
        )


def _wanted(query: PredictQuery, upload: Upload) -> PredictionRequest:
    """Put together what the address and the form say."""
    parts = _in_order(upload.parts)
    return PredictionRequest(
        model=_model_of(query, upload),
        images=[part.file for part in parts],
        ending=_common_ending(parts),
        urgency=_urgency_of(query, upload),
    )


def _content_of(wanted: PredictionRequest) -> dict[str, object]:
    """Return what makes two requests the same; how urgent they are does not."""
    hashes = [image.sha256 for image in wanted.images]
    return {"model": str(wanted.model), "images": hashes, "ending": wanted.ending}


def _urgency_of(query: PredictQuery, upload: Upload) -> Urgency:
    """Return what the query or the form says; interactive if neither does."""
    sent = upload.texts.get("urgency", query.urgency or "interactive")
    if query.urgency not in (None, sent):
        raise RequestError("the address and the form name different urgencies; name one")
    for urgency in get_args(Urgency):
        if sent == urgency:
            return cast("Urgency", urgency)
    raise RequestError(f"`urgency` must be one of {', '.join(get_args(Urgency))}")


def _model_of(query: PredictQuery, upload: Upload) -> ModelReference:
    """Return the model that the query or the form names.

    Raises:
        RequestError: Neither does, or both do differently, or what they say is no name of a model.
    """
    named = [aliases.parsed(one) for one in (upload.texts.get("model"), query.model) if one is not None]
    if not named:
        raise RequestError(f"no model is named; send the form field `model`, or ?model= with {FORMS}")
    if named[0] != named[-1]:
        raise RequestError("the address and the form name different models; name one")
    return named[0]


def _in_order(parts: list[Part]) -> list[Part]:
    """Sort the files by channel: as sent, or by the numbers in their field names."""
    numbered = [part for part in parts if part.field != "image"]
    if not numbered:
        return parts
    ordered = sorted(parts, key=lambda part: part.field)
    wanted = [f"image_{number:04d}" for number in range(len(parts))]
    if [part.field for part in ordered] != wanted:
        raise RequestError(f"the fields must be {', '.join(wanted)}, each once; or name all of them `image`")
    return ordered


def _common_ending(parts: list[Part]) -> str:
    """Tell the format of the image; its channels must share it."""
    endings = [file_ending(part.name, part.file.head) for part in parts]
    if len(set(endings)) > 1:
        raise RequestError(
            f"the channels have different formats ({', '.join(endings)}); send all in the same one"
        )
    return endings[0]


def _accepts(request: Request) -> frozenset[str]:
    """Return the media types that the client takes, without their weights."""
    entries = request.headers.get("accept", "").split(",")
    return frozenset(entry.partition(";")[0].strip().lower() for entry in entries)


def _wants_file(request: Request) -> bool:
    return bool(_accepts(request) & (FILE_TYPES | {"application/octet-stream"}))


def _require_acceptable(request: Request, ending: str) -> None:
    """Refuse at once what would be refused after minutes."""
    accepted = _accepts(request)
    wants_gzip_alone = bool(accepted & FILE_TYPES) and accepted <= FILE_TYPES
    if wants_gzip_alone and MEDIA_TYPES[ending] != "application/gzip":
        raise NotAcceptableError(
            f"the segmentation comes in the format of the image, {ending}; send a .nii.gz, "
            "or Accept: application/octet-stream"
        )


async def _file_or_status(
    request: Request, resources: Resources, submission: Submission, base: str
) -> Response:
    """Answer with the label map if it is there in time, with the job's problem if it failed, else 202."""
    seconds = waiting.wait_of(request)
    status = await waiting.ended(request, resources, submission.job_id, seconds or 0)
    if status.job.state is JobState.SUCCEEDED:
        found = await run_in_threadpool(predictions.segmentation, resources, submission.id)
        if found.media_type in _accepts(request) or "application/octet-stream" in _accepts(request):
            response = sent_file(request, found, str(submission.id), "attachment")
            response.headers.update(waiting.applied(seconds))
            response.headers["Location"] = f"{base}/predictions/{submission.id}"
            return response
    elif status.has_ended:
        return problems.from_document(status.job.error or {})
    return await waiting.respond(request, base, submission, _accepted(submission, base))


def _accepted(submission: Submission, base: str) -> Any:
    """Return how a submitted prediction is described."""

    def view(_session: Session, status: JobStatus) -> Accepted:
        return Accepted(
            id=submission.id,
            state=status.job.state,
            job_id=submission.job_id,
            links=_links(submission.id, submission.job_id, base),
            error=status.job.error,
        )

    return view


def _view(found: PredictionStatus, base: str) -> PredictionView:
    prediction, job = found.prediction, found.status.job
    return PredictionView(
        id=prediction.id,
        state=job.state,
        job_id=job.id,
        model_id=prediction.model_id,
        model=reference_of(prediction.model),
        file_ending=prediction.file_ending,
        volumes=prediction.volumes,
        timings=prediction.timings,
        provenance=prediction.provenance,
        progress=view_of(found.status, base).progress,
        error=job.error,
        created_at=prediction.created_at,
        links={
            **_links(prediction.id, job.id, base),
            **(
                {}
                if prediction.model.state == "deleted"
                else {"model": f"{base}/models/{prediction.model_id}"}
            ),
        },
    )


def _links(prediction_id: UUID, job_id: UUID, base: str) -> dict[str, str]:
    own = f"{base}/predictions/{prediction_id}"
    return {
        "self": own,
        "job": f"{base}/jobs/{job_id}",
        "segmentation": f"{own}/segmentation",
        "preview": f"{own}/preview.png",
    }
