"""Trainings that get more epochs: a new training, whose folds go on where those of an earlier one ended."""

from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Job, Training
from app.errors import ConflictError, RequestError
from app.jobs import FINAL_STATES, JobKind, JobState
from app.payloads import PlanPayload
from app.requests import FurtherRequest, TrainingRequest
from app.services import datasets, trainings
from app.services.resources import RequestKey, Resources, Submission, submit_once
from app.services.stages import checkpoints_of
from app.services.trainings import TrainingStatus


def train_further(
    resources: Resources, training_id: UUID, request: FurtherRequest, key: RequestKey | None
) -> Submission:
    """Queue a training that goes on where another one ended: same dataset, plan and settings, but for the epochs.

    Raises:
        NotFoundError: There is no such training.
        ConflictError: It has not succeeded, or kept nothing to go on from.
        RequestError: It has as many epochs already, no fold of it would use more, or the key was used otherwise.
    """
    return submit_once(resources, key, lambda session: _create(session, training_id, request))


def _create(session: Session, training_id: UUID, request: FurtherRequest) -> Submission:
    found = trainings.find(session, training_id)
    _require_success(found)
    asked = TrainingRequest.model_validate(found.training.request)
    if request.epochs <= asked.epochs:
        raise RequestError(
            f"the training has {asked.epochs} epochs already; send more than that, those that are done included",
            epochs=asked.epochs,
        )
    _require_checkpoints(session, found, asked.epochs)
    dataset = datasets.hold_ready(session, found.training.dataset_id)
    update = {"epochs": request.epochs, "name": request.name or found.training.name}
    training = Training(
        id=uuid4(),
        name=request.name or found.training.name,
        dataset_id=dataset.id,
        request=asked.model_copy(update=update).model_dump(mode="json"),
        plans_key=found.training.plans_key,
    )
    plan = session.scalars(select(Job).where(Job.training_id == training_id, Job.kind == JobKind.PLAN)).one()
    beginning = PlanPayload.model_validate(plan.payload).beginning
    return trainings.begin(session, training, dataset, beginning, continues=training_id)


def _require_success(found: TrainingStatus) -> None:
    """Refuse what has not ended, or ended badly.

    Raises:
        ConflictError: It has.
    """
    job = found.status.job
    if job.state is JobState.SUCCEEDED:
        return
    cure = f"retry job {job.id}" if job.state in FINAL_STATES else f"wait for job {job.id}"
    raise ConflictError(
        f"the training is {job.state}; only one that has succeeded gets more epochs; {cure} first",
        job_id=str(job.id),
        state=job.state,
    )


def _require_checkpoints(session: Session, found: TrainingStatus, epochs: int) -> None:
    """Refuse folds that kept nothing, and folds that all ended early: they would do so again, at once.

    Raises:
        ConflictError: An earlier release trained them.
        RequestError: Every fold ended early.
    """
    checkpoints = checkpoints_of(session, found.training.id)
    jobs = [child for child in found.status.children if child.job.kind is JobKind.TRAIN]
    if len(checkpoints) < len(jobs):
        raise ConflictError(
            "the training kept no checkpoints, because an earlier release did it; train anew with POST /train"
        )
    if all(checkpoint.epochs < epochs for checkpoint in checkpoints.values()):
        raise RequestError(
            "every fold ended early because it got no better, and would do so again; train anew without "
            "early_stop_epochs, or begin with this model's weights: pretrained"
        )
