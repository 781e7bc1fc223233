"""Predictions: send an image to a model, read what came back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from app.db.base import transaction
from app.db.models import Job, Prediction, StoredObject, TrainedModel
from app.errors import ConflictError, NotFoundError, RequestError
from app.jobs import BATCH, FINAL_STATES, INTERACTIVE, JobKind, JobState, Urgency
from app.payloads import UNCERTAINTY_FILE, ObjectRef, PredictPayload
from app.requests import PredictionChoices
from app.services import aliases, following, graph, models, networks
from app.services.aliases import ModelReference
from app.services.following import JobStatus
from app.services.formats import MEDIA_TYPES
from app.services.resources import RequestKey, Resources, ResultFile, Submission, submit_files
from app.services.transitions import create
from app.storage import Incoming
from core.domain.training import Fold


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
    choices: PredictionChoices = field(default_factory=PredictionChoices)


@dataclass(frozen=True, slots=True)
class Extra:
    """A file that there is only where it was asked for."""

    choice: str
    """By which name of `PredictionChoices`."""
    column: str
    """Of `Prediction`; holds its key."""
    media_type: str
    ending: str
    """Of the name under which it is sent."""


PROBABILITIES: Final = Extra("probabilities", "probabilities_key", "application/octet-stream", ".npz")
"""As nnU-Net keeps them, heads first; an npz."""

PROPERTIES: Final = Extra("probabilities", "properties_key", "application/octet-stream", ".pkl")
"""Where the case lies whose probabilities those are; a pickle, in nnU-Net's words."""

UNCERTAINTY: Final = Extra("uncertainty", "uncertainty_key", "application/gzip", f"_{UNCERTAINTY_FILE}")
"""A map of where folds and mirrorings are unsure or disagree."""


def submit(resources: Resources, request: PredictionRequest, key: RequestKey | None) -> Submission:
    """Keep an image, one file per channel, and queue its segmentation; interactive ones go first.

    Args:
        resources: Where to.
        request: Image and model.
        key: The client's Idempotency-Key, if any.

    Raises:
        NotFoundError: There is no such model, version or alias.
        ConflictError: The model is being imported, or could not be.
        RequestError: The model takes another number of channels or lacks a fold, or the key was used otherwise.
    """
    with transaction(resources.readers) as session:
        _require_fit(models.find_ready(session, aliases.resolve(session, request.model)), request)
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


def chosen_file(resources: Resources, prediction_id: UUID, which: Extra) -> ResultFile:
    """Return a file that there is only where it was asked for.

    Raises:
        NotFoundError: There is no such prediction, or it was not asked for.
        ConflictError: It is not done, or has failed.
    """
    with transaction(resources.readers) as session:
        found = find(session, prediction_id)
        if not getattr(choices_of(found.prediction), which.choice):
            raise NotFoundError(
                f"this prediction keeps no {which.choice}, for nobody asked; send the image again with "
                f"{which.choice}=true",
                prediction_id=str(prediction_id),
            )
        ref = _ref(session, found, getattr(found.prediction, which.column), which.choice)
    return ResultFile(resources.store.path(ref), ref.sha256, which.media_type, which.ending)


def choices_of(prediction: Prediction) -> PredictionChoices:
    """Return what was chosen; the defaults where an earlier release took the request."""
    return PredictionChoices.model_validate(prediction.choices or {})


def _create(
    session: Session, prediction_id: UUID, request: PredictionRequest, refs: Sequence[ObjectRef]
) -> Submission:
    # An alias may have been moved since, and moves again: what it stands for now is written down.
    model = models.hold_ready(session, aliases.resolve(session, request.model))
    _require_fit(model, request)
    session.add_all(StoredObject(key=ref.key, sha256=ref.sha256, size_bytes=ref.size_bytes) for ref in refs)
    choices = request.choices
    session.add(
        Prediction(id=prediction_id, model_id=model.id, file_ending=request.ending, choices=choices.to_json())
    )
    session.flush()
    payload = PredictPayload(
        prediction_id=prediction_id,
        model_id=model.id,
        model_files={path: ObjectRef.model_validate(ref) for path, ref in model.files.items()},
        channels=tuple(refs),
        file_ending=request.ending,
        choices=choices,
    )
    priority = INTERACTIVE if request.urgency == "interactive" else BATCH
    job = graph.job_of(payload, prediction_id=prediction_id, priority=priority)
    return Submission(prediction_id, create(session, job).id)


def _require_fit(model: TrainedModel, request: PredictionRequest) -> None:
    """Refuse what the model cannot do."""
    _require_channels(model, len(request.images))
    if request.choices.folds is not None:
        _require_folds(model, request.choices.folds)


def _require_folds(model: TrainedModel, wanted: Sequence[Fold]) -> None:
    """Refuse folds that the model lacks; of an ensemble every member must have them."""
    for member, present in networks.folds_by_member(model).items():
        missing = [str(fold) for fold in wanted if fold not in present]
        if missing:
            which = "the model" if member is None else f"member {member} of the model"
            raise RequestError(
                f"{which} has no fold {', '.join(missing)}; it has {', '.join(map(str, present))}; name some of "
                "these, or leave `folds` out",
                folds=list(present),
            )


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
