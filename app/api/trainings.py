"""Routes of trainings: start, list, read with curves and scores."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi import Body as BodyParameter
from fastapi.responses import FileResponse, JSONResponse, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.api import waiting
from app.api.deps import BaseDep, Body, IdempotencyDep, NoQuery, PageDep, ResourcesDep, SessionDep
from app.api.files import sent_file
from app.api.jobs import JobView, ProgressView, view_of
from app.api.waiting import Accepted
from app.jobs import JobKind, JobState
from app.payloads import TrainPayload, TrainResult
from app.requests import FurtherRequest, TrainingRequest
from app.services import continuing, trainings
from app.services.following import JobStatus
from app.services.resources import Submission
from app.services.trainings import Curve, TrainingStatus
from core.domain.pretraining import TensorLeft

router = APIRouter(tags=["trainings"])

EXAMPLES: dict[str, Any] = {
    "quick": {
        "summary": "One fold, to see whether it learns",
        "value": {"dataset_id": "5f0c1d9e-6a55-4d0f-9f7e-0a3a0a9f6f10", "folds": [0], "epochs": 100},
    },
    "preset": {
        "summary": "Five folds of residual encoders, in two configurations",
        "value": {
            "dataset_id": "5f0c1d9e-6a55-4d0f-9f7e-0a3a0a9f6f10",
            "preset": "resenc_m",
            "configurations": ["2d", "3d_fullres"],
        },
    },
    "cascade": {
        "summary": "A cascade, with cases of a patient on one side of each fold, and settings",
        "value": {
            "dataset_id": "5f0c1d9e-6a55-4d0f-9f7e-0a3a0a9f6f10",
            "configurations": ["3d_cascade_fullres"],
            "group_by": "^([^_]+)_",
            "settings": {"augmentation": "strong", "early_stop_epochs": 100},
        },
    },
    "plan": {
        "summary": "With one of the dataset's plans, and a configuration of one's own",
        "value": {
            "dataset_id": "5f0c1d9e-6a55-4d0f-9f7e-0a3a0a9f6f10",
            "plan": "mine",
            "configurations": ["3d_bs4"],
        },
    },
}
"""Of the body of POST /train."""


class EpochView(Body):
    """What one epoch measured."""

    job_id: UUID
    configuration: str
    fold: int | str
    epoch: int
    """Counts from 0."""
    train_loss: float | None
    validation_loss: float | None
    pseudo_dice: dict[str, float | None]
    """Per label or region, estimated on validation patches."""
    mean_pseudo_dice: float | None
    smoothed_pseudo_dice: float | None
    learning_rate: float
    seconds: float


class ValidationView(Body):
    """Dice per label of one validation case, segmented as a whole by a fold that never saw it."""

    configuration: str
    fold: int | str
    case: str
    dice: dict[str, float | None]


class PretrainedView(Body):
    """What a fold took from the weights that it began with."""

    model_id: UUID
    fold: int | str
    taken: int
    """Tensors that have the model's values."""
    left: list[TensorLeft]
    """Those that have not, each with the reason: a head, another shape, or missing in the model."""
    unused: list[str]
    """The model's tensors that this network has no use for."""
    summary: list[str]
    """The same in two sentences."""


class FoldView(Body):
    """One trained fold."""

    job_id: UUID
    configuration: str
    fold: int | str
    mean_dice: float | None
    """Of its validation cases."""
    epochs: int | None
    """How many were trained; null where an earlier release did."""
    best_epoch: int | None
    """With the highest smoothed pseudo Dice; counts from 0."""
    stopped_early: bool
    """Whether it ended because it got no better, before it had all its epochs."""
    pretrained: PretrainedView | None
    """Null where the first weights were drawn."""
    links: dict[str, str]


class TrainingSummary(Body):
    """A training in a list."""

    id: UUID
    name: str
    state: JobState
    dataset_id: UUID
    job_id: UUID
    model_id: UUID | None
    mean_dice: float | None
    """Over the validation cases; once the model is there."""
    progress: ProgressView
    created_at: datetime
    links: dict[str, str]


class TrainingView(TrainingSummary):
    """One training with everything that it has measured so far."""

    request: dict[str, Any]
    """What was asked for, with the defaults filled in."""
    configuration: str | None
    """The one that was chosen, and why."""
    reason: str | None
    error: dict[str, Any] | None
    continues: UUID | None
    """The training whose folds this one trained further."""
    jobs: list[JobView]
    folds: list[FoldView]
    """Those that are done."""
    epochs: list[EpochView]
    validation: list[ValidationView]


class TrainingPage(Body):
    """Some trainings, newest first."""

    items: list[TrainingSummary]
    next_cursor: str | None


@router.post("/train", status_code=202, response_model=Accepted, dependencies=[NoQuery])
async def start_training(
    request: Request,
    body: Annotated[TrainingRequest, BodyParameter(openapi_examples=EXAMPLES)],
    resources: ResourcesDep,
    base: BaseDep,
    idempotency_key: IdempotencyDep = None,
) -> JSONResponse:
    """Plan, preprocess and train on a dataset; one job to follow has all the others as children."""
    key = waiting.request_key(idempotency_key, "POST /train", {"body": body.model_dump_json()})
    submission = await run_in_threadpool(trainings.start, resources, body, key)
    return await waiting.respond(request, base, submission, _accepted(submission, base))


@router.post(
    "/trainings/{training_id}/continue", status_code=202, response_model=Accepted, dependencies=[NoQuery]
)
async def continue_training(
    request: Request,
    training_id: UUID,
    body: FurtherRequest,
    resources: ResourcesDep,
    base: BaseDep,
    *,
    idempotency_key: IdempotencyDep = None,
) -> JSONResponse:
    """Give a training that has succeeded more epochs: a new one, whose folds go on where those of this one ended."""
    route = f"POST /trainings/{training_id}/continue"
    key = waiting.request_key(idempotency_key, route, {"body": body.model_dump_json()})
    submission = await run_in_threadpool(continuing.train_further, resources, training_id, body, key)
    return await waiting.respond(request, base, submission, _accepted(submission, base))


@router.get("/trainings")
def list_trainings(session: SessionDep, query: PageDep, base: BaseDep) -> TrainingPage:
    """List trainings, newest first."""
    page = trainings.read(session, query.request())
    items = [TrainingSummary(**_summary(found, base)) for found in page.items]
    return TrainingPage(items=items, next_cursor=page.next_cursor)


@router.get("/trainings/{training_id}", dependencies=[NoQuery])
def get_training(session: SessionDep, training_id: UUID, base: BaseDep) -> TrainingView:
    """Read one training: jobs, curves, validation per case and label, the model."""
    found = trainings.find(session, training_id)
    curves = trainings.curves(session, found)
    return TrainingView(
        **_summary(found, base),
        request=found.training.request,
        configuration=None if found.model is None else found.model.configuration,
        reason=None if found.model is None else found.model.reason,
        error=found.status.job.error,
        continues=_continued(found),
        jobs=[view_of(child, base) for child in found.status.children],
        folds=[_fold(curve, curve.result, base) for curve in curves if curve.result is not None],
        epochs=[view for curve in curves for view in _epochs(curve)],
        validation=[view for curve in curves for view in _validation(curve)],
    )


@router.get("/jobs/{job_id}/progress.png", dependencies=[NoQuery], response_class=FileResponse)
def get_plot(request: Request, resources: ResourcesDep, job_id: UUID) -> Response:
    """Look at what the epochs of a fold measured: losses, pseudo Dice, learning rate, seconds."""
    return sent_file(request, trainings.plot(resources, job_id), f"progress-{job_id}", "inline")


def _accepted(submission: Submission, base: str) -> Callable[[Session, JobStatus], Accepted]:
    """Return how a training looks that was just accepted."""

    def view(_session: Session, status: JobStatus) -> Accepted:
        return Accepted(
            id=submission.id,
            state=status.job.state,
            job_id=submission.job_id,
            links=_links(submission.id, submission.job_id, None, base),
            error=status.job.error,
        )

    return view


def _summary(found: TrainingStatus, base: str) -> dict[str, Any]:
    training, job, model = found.training, found.status.job, found.model
    model_id = None if model is None else model.id
    linked = None if model is None or model.state == "deleted" else model.id
    return {
        "id": training.id,
        "name": training.name,
        "state": job.state,
        "dataset_id": training.dataset_id,
        "job_id": job.id,
        "model_id": model_id,
        "mean_dice": None if model is None else model.mean_dice,
        "progress": view_of(found.status, base).progress,
        "created_at": training.created_at,
        "links": _links(training.id, job.id, linked, base),
    }


def _links(training_id: UUID, job_id: UUID, model_id: UUID | None, base: str) -> dict[str, str]:
    links = {"self": f"{base}/trainings/{training_id}", "job": f"{base}/jobs/{job_id}"}
    return links if model_id is None else {**links, "model": f"{base}/models/{model_id}"}


def _continued(found: TrainingStatus) -> UUID | None:
    payloads = [one.job.payload or {} for one in found.status.children if one.job.kind is JobKind.PLAN]
    return next((UUID(payload["continues"]) for payload in payloads if payload.get("continues")), None)


def _fold(curve: Curve, result: TrainResult, base: str) -> FoldView:
    wanted = (curve.job.payload or {})["settings"]["epochs"]
    address = f"{base}/jobs/{curve.job.id}"
    return FoldView(
        job_id=curve.job.id,
        configuration=result.configuration,
        fold=result.fold,
        mean_dice=result.mean_dice,
        epochs=result.epochs,
        best_epoch=result.best_epoch,
        stopped_early=result.epochs is not None and result.epochs < wanted,
        pretrained=_pretrained(curve, result),
        links={"job": address}
        | ({"plot": f"{address}/progress.png"} if trainings.PLOT_FILE in result.files else {}),
    )


def _pretrained(curve: Curve, result: TrainResult) -> PretrainedView | None:
    payload = TrainPayload.model_validate(curve.job.payload)
    began_with, record = payload.beginning.pretrained, result.pretrained
    if began_with is None or record is None:
        return None
    return PretrainedView(
        model_id=began_with.model_id,
        fold=began_with.fold,
        taken=len(record.taken),
        left=list(record.left),
        unused=list(record.unused),
        summary=list(record.summary()),
    )


def _epochs(curve: Curve) -> list[EpochView]:
    payload = curve.job.payload or {}
    return [
        EpochView(job_id=curve.job.id, configuration=payload["configuration"], fold=payload["fold"], **record)
        for record in curve.epochs
    ]


def _validation(curve: Curve) -> list[ValidationView]:
    if curve.result is None:
        return []
    return [
        ValidationView(
            configuration=curve.result.configuration,
            fold=curve.result.fold,
            case=score.case,
            dice=score.dice,
        )
        for score in curve.result.validation
    ]
