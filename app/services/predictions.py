"""Predictions: send an image to a model, read what came back."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from app.db.base import transaction
from app.db.models import Job, Prediction, StoredObject, TrainedModel
from app.errors import ConflictError, NotFoundError, RequestError
from app.jobs import BATCH, FINAL_STATES, INTERACTIVE, JobKind, JobState, Urgency
from app.payloads import ObjectRef, PredictPayload
from app.services import aliases, following, graph, models
from app.services.aliases import ModelReference
from app.services.following import JobStatus
from app.services.formats import MEDIA_TYPES
from app.services.resources import RequestKey, Resources, ResultFile, Submission, submit_files
from app.services.transitions import create
from app.storage import Incoming


@dataclass(frozen=True, slots=True)
class PredictionStatus:
    """A prediction with its job."""

    prediction: Prediction
    status: JobStatus


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """What a client wants to have segmented."""

    model: ModelReference
    images: Sequence[Incoming]
    """Received files in the model's channel order."""
    ending: str
    """Of all of them."""
    urgency: Urgency = "interactive"


def submit(resources: Resources, request: PredictionRequest, key: RequestKey | None) -> Submission:
    """Keep an image, one file per channel, and queue its segmentation; interactive ones go first.

    Args:
        resources: Where to.
        request: Image and model.
        key: The client's Idempotency-Key, if any.

    Raises:
        NotFoundError: There is no such model, version or alias.
        ConflictError: The model is being imported, or could not be.
        RequestError: The model takes another number of channels, or the key was used otherwise.
    """
    with transaction(resources.readers) as session:
        model = models.find_ready(session, aliases.resolve(session, request.model))
        _require_channels(model, len(request.images))
    prediction_id = uuid4()
    refs = [
        resources.store.adopt(f"predictions/{prediction_id}/image_{number:04d}{request.ending}", image)
        for number, image in enumerate(request.images)
    ]
    return submit_files(resources, key, refs, lambda session: _create(session, prediction_id, request, refs))


def find(session: Session, prediction_id: UUID) -> PredictionStatus:
    """Return one prediction.

    Raises:
        NotFoundError: There is no such prediction.
    """
    prediction = session.get(Prediction, prediction_id, options=[joinedload(Prediction.model)])
    if prediction is None:
        raise NotFoundError(f"there is no prediction {prediction_id}", prediction_id=str(prediction_id))
    job = session.scalars(
        select(Job).where(Job.kind == JobKind.PREDICT, Job.prediction_id == prediction_id)
    ).one()
    return PredictionStatus(prediction, following.status_of(session, [job])[0])


def segmentation(resources: Resources, prediction_id: UUID) -> ResultFile:
    """Return the label map, in the format and geometry of the image.

    Raises:
        NotFoundError: There is no such prediction.
        ConflictError: It is not done, or has failed.
    """
    with transaction(resources.readers) as session:
        found = find(session, prediction_id)
        ref = _ref(session, found, found.prediction.segmentation_key, "segmentation")
    ending = found.prediction.file_ending
    return ResultFile(resources.store.path(ref), ref.sha256, MEDIA_TYPES[ending], ending)


def preview(resources: Resources, prediction_id: UUID) -> ResultFile:
    """Return a picture of the segmentation over the image.

    Raises:
        NotFoundError: There is no such prediction.
        ConflictError: It is not done, or has failed.
    """
    with transaction(resources.readers) as session:
        found = find(session, prediction_id)
        ref = _ref(session, found, found.prediction.preview_key, "preview")
    return ResultFile(resources.store.path(ref), ref.sha256, "image/png", ".png")


def _create(
    session: Session, prediction_id: UUID, request: PredictionRequest, refs: Sequence[ObjectRef]
) -> Submission:
    # An alias may have been moved since, and moves again: what it stands for now is written down.
    model = models.hold_ready(session, aliases.resolve(session, request.model))
    _require_channels(model, len(request.images))
    session.add_all(StoredObject(key=ref.key, sha256=ref.sha256, size_bytes=ref.size_bytes) for ref in refs)
    session.add(Prediction(id=prediction_id, model_id=model.id, file_ending=request.ending))
    session.flush()
    payload = PredictPayload(
        prediction_id=prediction_id,
        model_id=model.id,
        model_files={path: ObjectRef.model_validate(ref) for path, ref in model.files.items()},
        channels=tuple(refs),
        file_ending=request.ending,
    )
    priority = INTERACTIVE if request.urgency == "interactive" else BATCH
    job = graph.job_of(payload, prediction_id=prediction_id, priority=priority)
    return Submission(prediction_id, create(session, job).id)


def _require_channels(model: TrainedModel, sent: int) -> None:
    """Refuse a wrong number of files; a single one may hold all channels, as color pictures do."""
    if sent not in (1, len(model.channels)):
        raise RequestError(
            f"the model takes {len(model.channels)} channel(s), in this order: {', '.join(model.channels)}; "
            f"{sent} image(s) came; send the field image once per channel",
            channels=list(model.channels),
            images=sent,
        )


def _ref(session: Session, found: PredictionStatus, key: str | None, noun: str) -> ObjectRef:
    """Return the object behind a result, or say why there is none."""
    job = found.status.job
    if job.state is JobState.SUCCEEDED and key is not None:
        return graph.object_ref(session.get_one(StoredObject, key))
    if job.state not in FINAL_STATES:
        raise ConflictError(
            f"the prediction is {job.state}; its {noun} is there once job {job.id} has succeeded",
            job_id=str(job.id),
            state=job.state,
        )
    if job.state is JobState.SUCCEEDED:
        raise NotFoundError(f"this prediction has no {noun}", prediction_id=str(found.prediction.id))
    detail = (job.error or {}).get("detail", "it did not say why")
    raise ConflictError(f"the prediction {job.state}: {detail}", job_id=str(job.id), state=job.state)
