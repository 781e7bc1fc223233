"""Routes of predictions: send an image, read the result, its label map, its picture, and what else was asked for."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api import problems, waiting
from app.api.deps import BaseDep, Body, IdempotencyDep, NoQuery, ResourcesDep, SessionDep, settings_of
from app.api.files import sent_file
from app.api.jobs import ProgressView, view_of
from app.api.prediction_form import EXPECTED, UPLOAD_BODY, PredictQuery, request_of
from app.api.uploads import received
from app.api.waiting import Accepted
from app.errors import NotAcceptableError, UnsupportedMediaError
from app.jobs import JobState
from app.requests import PredictionChoices
from app.services import predictions
from app.services.aliases import reference_of
from app.services.following import JobStatus
from app.services.formats import MEDIA_TYPES
from app.services.predictions import PredictionRequest, PredictionStatus
from app.services.resources import Resources, Submission

router = APIRouter(tags=["predictions"])

TEXT_TYPES = frozenset({"application/json", "application/x-www-form-urlencoded", "text/html"})
"""What no image is declared as; curl declares the second when it is told nothing."""

FILE_TYPES = frozenset({"application/gzip", "application/x-gzip"})
"""An Accept header that asks for the label map itself."""


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
    options: PredictionChoices
    """What was asked for, with the defaults filled in; `provenance` says which folds and precision that meant."""
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
        wanted = request_of(query, upload)
        _require_acceptable(request, wanted.ending)
        key = waiting.request_key(idempotency_key, "POST /predict", _content_of(wanted))
        submission = await run_in_threadpool(predictions.submit, resources, wanted, key)
    if _wants_file(request) and waiting.wait_of(request) is not None:
        return await _file_or_status(request, resources, submission, base, wanted.choices)
    return await waiting.respond(request, base, submission, _accepted(submission, base, wanted.choices))


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


@router.get("/predictions/{prediction_id}/probabilities", dependencies=[NoQuery], response_class=FileResponse)
def get_probabilities(request: Request, resources: ResourcesDep, prediction_id: UUID) -> Response:
    """Load the probabilities, if `probabilities=true` was sent: an npz whose one array has the heads first."""
    found = predictions.chosen_file(resources, prediction_id, predictions.PROBABILITIES)
    return sent_file(request, found, f"{prediction_id}", "attachment")


@router.get("/predictions/{prediction_id}/properties", dependencies=[NoQuery], response_class=FileResponse)
def get_properties(request: Request, resources: ResourcesDep, prediction_id: UUID) -> Response:
    """Load where the case lies, which nnU-Net's tools read beside its probabilities: a pickle."""
    found = predictions.chosen_file(resources, prediction_id, predictions.PROPERTIES)
    return sent_file(request, found, f"{prediction_id}", "attachment")


@router.get("/predictions/{prediction_id}/uncertainty", dependencies=[NoQuery], response_class=FileResponse)
def get_uncertainty(request: Request, resources: ResourcesDep, prediction_id: UUID) -> Response:
    """Load the map of uncertainty, 0 to 1, if `uncertainty=true` was sent: a .nii.gz where the image lies."""
    found = predictions.chosen_file(resources, prediction_id, predictions.UNCERTAINTY)
    return sent_file(request, found, f"{prediction_id}", "attachment")


def _require_image_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in TEXT_TYPES:
        raise UnsupportedMediaError(
            f"a body of type {media_type} is not taken; send the image as it is, with ?model= and"
            f" -H 'Content-Type: application/octet-stream', or a form: {EXPECTED.hint}"
        )


def _content_of(wanted: PredictionRequest) -> dict[str, object]:
    """Return what makes two requests the same; how urgent they are does not, nor a default that is named."""
    hashes = [image.sha256 for image in wanted.images]
    chosen = wanted.choices.model_dump(exclude_defaults=True)
    return {"model": str(wanted.model), "images": hashes, "ending": wanted.ending, **chosen}


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
    request: Request, resources: Resources, submission: Submission, base: str, choices: PredictionChoices
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
    return await waiting.respond(request, base, submission, _accepted(submission, base, choices))


def _accepted(submission: Submission, base: str, choices: PredictionChoices) -> Any:
    """Return how a submitted prediction is described."""

    def view(_session: Session, status: JobStatus) -> Accepted:
        return Accepted(
            id=submission.id,
            state=status.job.state,
            job_id=submission.job_id,
            links=_links(submission.id, submission.job_id, base, choices),
            error=status.job.error,
        )

    return view


def _view(found: PredictionStatus, base: str) -> PredictionView:
    prediction, job = found.prediction, found.status.job
    choices = predictions.choices_of(prediction)
    return PredictionView(
        id=prediction.id,
        state=job.state,
        job_id=job.id,
        model_id=prediction.model_id,
        model=reference_of(prediction.model),
        file_ending=prediction.file_ending,
        options=choices,
        volumes=prediction.volumes,
        timings=prediction.timings,
        provenance=prediction.provenance,
        progress=view_of(found.status, base).progress,
        error=job.error,
        created_at=prediction.created_at,
        links={
            **_links(prediction.id, job.id, base, choices),
            **(
                {}
                if prediction.model.state == "deleted"
                else {"model": f"{base}/models/{prediction.model_id}"}
            ),
        },
    )


def _links(prediction_id: UUID, job_id: UUID, base: str, choices: PredictionChoices) -> dict[str, str]:
    own = f"{base}/predictions/{prediction_id}"
    links = {
        "self": own,
        "job": f"{base}/jobs/{job_id}",
        "segmentation": f"{own}/segmentation",
        "preview": f"{own}/preview.png",
    }
    if choices.probabilities:
        links |= {"probabilities": f"{own}/probabilities", "properties": f"{own}/properties"}
    if choices.uncertainty:
        links["uncertainty"] = f"{own}/uncertainty"
    return links
