"""Trainings: start one, follow its curves and scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.base import now, transaction
from app.db.models import Dataset, DatasetCase, DatasetPlan, Epoch, Job, TrainedModel, Training
from app.errors import ConflictError, NotFoundError, RequestError
from app.jobs import LANES, PRIORITIES, JobKind, JobState
from app.payloads import Beginning, PlanPayload, TrainResult
from app.requests import CROSS_VALIDATION_FOLDS, DEFAULT_PRESET, TrainingRequest
from app.services import beginnings, choices, datasets, following, graph, kept_plans
from app.services.beginnings import Prepared
from app.services.following import JobStatus
from app.services.paging import Page, PageRequest, read_page
from app.services.resources import RequestKey, Resources, ResultFile, Submission, replayed, submit_files
from app.services.transitions import create
from core.domain.problems import some

PLOT_FILE = "progress.png"
"""Among the files of a trained fold."""

CASCADE = "3d_cascade_fullres"
"""The planner's configuration that refines what another one has segmented."""

OF_VOLUMES = "3d_"
"""How the planner's configurations begin that need images of more than one slice."""


@dataclass(frozen=True, slots=True)
class TrainingStatus:
    """A training with its job and what came of it so far."""

    training: Training
    status: JobStatus
    model: TrainedModel | None


@dataclass(frozen=True, slots=True)
class Curve:
    """What one train job has measured so far."""

    job: Job
    epochs: Sequence[dict[str, Any]]
    result: TrainResult | None


def start(resources: Resources, request: TrainingRequest, key: RequestKey | None) -> Submission:
    """Queue a training: its plan first, the rest follows from that.

    Raises:
        NotFoundError: There is no such dataset, it has no such plan, or there is no such pretrained model.
        ConflictError: The dataset or the plan is not ready.
        RequestError: It has fewer cases than the cross-validation needs, the plan has no such configuration or
            will have none, settings, splits or patients do not fit the dataset, or the key was used otherwise.
    """
    with transaction(resources.readers) as session:
        done = replayed(session, key)
    if done is not None:  # Whatever has become of a pretrained model since.
        return done
    prepared = beginnings.prepare(resources, request)
    return submit_files(resources, key, prepared.refs, lambda session: _create(session, request, prepared))


def find(session: Session, training_id: UUID) -> TrainingStatus:
    """Return one training.

    Raises:
        NotFoundError: There is no such training.
    """
    training = session.get(Training, training_id)
    if training is None:
        raise NotFoundError(f"there is no training {training_id}", training_id=str(training_id))
    return _statuses(session, [training])[0]


def read(session: Session, page: PageRequest) -> Page[TrainingStatus]:
    """Return trainings, newest first."""
    rows = read_page(session, select(Training), Training, page)
    return Page(_statuses(session, rows.items), rows.next_cursor)


def curves(session: Session, status: TrainingStatus) -> list[Curve]:
    """Return the epochs and validation scores of each train job, in the order of the jobs."""
    jobs = [child.job for child in status.status.children if child.job.kind is JobKind.TRAIN]
    epochs: dict[UUID, list[dict[str, Any]]] = {job.id: [] for job in jobs}
    rows = select(Epoch).where(Epoch.job_id.in_(epochs)).order_by(Epoch.epoch)
    for row in session.scalars(rows):
        epochs[row.job_id].append(row.record)
    return [
        Curve(job, epochs[job.id], None if job.result is None else TrainResult.model_validate(job.result))
        for job in jobs
    ]


def plot(resources: Resources, job_id: UUID) -> ResultFile:
    """Return the picture of what the epochs of a train job measured.

    Raises:
        NotFoundError: There is no such job, or it trains nothing.
        ConflictError: It is not done, or has failed.
    """
    with transaction(resources.readers) as session:
        job = session.get(Job, job_id)
        if job is None or job.kind is not JobKind.TRAIN:
            raise NotFoundError(f"there is no job {job_id} that trains a fold", job_id=str(job_id))
        if job.state is not JobState.SUCCEEDED:
            raise ConflictError(
                f"the job is {job.state}; its plot is there once it has succeeded, its epochs are in the training",
                job_id=str(job_id),
                state=job.state,
            )
        ref = TrainResult.model_validate(job.result).files.get(PLOT_FILE)
    if ref is None:
        raise NotFoundError(f"job {job_id} has no plot; an earlier release trained it", job_id=str(job_id))
    return ResultFile(resources.store.path(ref), ref.sha256, "image/png", ".png")


def _create(session: Session, request: TrainingRequest, prepared: Prepared) -> Submission:
    dataset = datasets.hold_ready(session, request.dataset_id)
    choices.require_possible(request.all_settings, datasets.description_of(dataset))
    _require_cases_for_folds(session, dataset, request)
    plan = None if request.plan is None else kept_plans.find_usable(session, dataset.id, request.plan)
    if plan is None:
        _require_volumes(session, dataset, request)
    _require_planned(request, plan)
    _require_segmented_before(request, plan)
    if plan is None:
        request = request.model_copy(update={"preset": request.preset or DEFAULT_PRESET})
    beginnings.name_files(session, prepared)
    training = Training(
        id=uuid4(),
        name=request.name or dataset.name,
        dataset_id=dataset.id,
        request=request.model_dump(mode="json"),
        plans_key=None if plan is None else plan.plans_key,
    )
    return begin(session, training, dataset, prepared.beginning)


def begin(
    session: Session,
    training: Training,
    dataset: Dataset,
    beginning: Beginning,
    continues: UUID | None = None,
) -> Submission:
    """Write a training with its first jobs.

    Args:
        session: The transaction.
        training: Its row, not yet added.
        dataset: That is trained on.
        beginning: What it brings along.
        continues: The training whose folds are trained further.
    """
    request = TrainingRequest.model_validate(training.request)
    session.add(training)
    session.flush()
    lane = LANES[JobKind.TRAINING]
    parent = Job(
        kind=JobKind.TRAINING,
        lane=lane,
        priority=PRIORITIES[lane],
        training_id=training.id,
        dataset_id=dataset.id,
    )
    create(session, parent)
    payload = PlanPayload(
        training_id=training.id,
        dataset_id=dataset.id,
        dataset_name=dataset.name,
        archive=graph.stored(session, dataset.archive_key),
        fingerprint=graph.stored_if_any(session, dataset.fingerprint_key),
        plans=graph.stored_if_any(session, training.plans_key),
        preset=request.preset or DEFAULT_PRESET,
        gpu_memory_gb=request.gpu_memory_gb,
        target_spacing=request.target_spacing,
        suppress_transpose=request.suppress_transpose,
        configurations=request.configurations,
        beginning=beginning,
        continues=continues,
    )
    create(session, graph.child(parent, payload, JobState.QUEUED, now()))
    return Submission(training.id, parent.id)


def _require_planned(request: TrainingRequest, plan: DatasetPlan | None) -> None:
    """Refuse configurations that the plan does not have; what one has that is yet to be made, its job tells."""
    if plan is None:
        return
    planned = [one.name for one in kept_plans.configurations_of(plan)]
    for name in request.configurations or ():
        if name not in planned:
            raise RequestError(
                f"the plan {plan.name} has no configuration {name}; ask for: {', '.join(planned)}",
                configuration=name,
                configurations=[*planned],
            )


def _require_segmented_before(request: TrainingRequest, plan: DatasetPlan | None) -> None:
    """Refuse splits by which the stage before would not segment every case that a later stage learns from."""
    planned = {} if plan is None else {one.name: one for one in kept_plans.configurations_of(plan)}
    later = [
        name
        for name in request.configurations or ()
        if (name == CASCADE if plan is None else planned[name].previous_stage)
    ]
    if request.splits is None or not later:
        return
    segmented = {case for split in request.splits for case in split.val}
    used = (request.splits[int(fold)] for fold in request.folds)
    missing = sorted({case for split in used for case in (*split.train, *split.val)} - segmented)
    if missing:
        raise RequestError(
            f"{later[0]} learns from what the stage before segments in validation, but no split validates "
            f"{some(missing)}; add each of them to the val of a split",
            configuration=later[0],
            cases=list(missing),
        )


def _require_volumes(session: Session, dataset: Dataset, request: TrainingRequest) -> None:
    """Refuse to learn from flat images as from volumes: their plan will have no such configuration."""
    wanted = [name for name in request.configurations or () if name.startswith(OF_VOLUMES)]
    if not wanted:
        return
    shapes = session.scalars(select(DatasetCase.shape).where(DatasetCase.dataset_id == dataset.id)).all()
    if shapes and all(shape[0] == 1 for shape in shapes):
        raise RequestError(
            f"{wanted[0]} is for volumes, but every image of the dataset is flat: it has one voxel along z; "
            "ask for: 2d",
            configuration=wanted[0],
        )


def _require_cases_for_folds(session: Session, dataset: Dataset, request: TrainingRequest) -> None:
    """Refuse a cross-validation that would leave a fold empty, and folds that do not mix."""
    if "all" in request.folds and len(request.folds) > 1:
        raise RequestError(
            'fold "all" trains on every case, so it cannot be compared with numbered folds; '
            'send "folds": ["all"] or numbers alone'
        )
    cases = session.scalar(
        select(func.count()).select_from(DatasetCase).where(DatasetCase.dataset_id == dataset.id)
    )
    is_dealt = request.splits is None and "all" not in request.folds
    if cases is not None and cases < CROSS_VALIDATION_FOLDS and is_dealt:
        raise RequestError(
            f"the dataset has {cases} case(s), fewer than the {CROSS_VALIDATION_FOLDS} folds of the "
            'cross-validation; send "folds": ["all"] to train once on all cases, or add cases',
            cases=cases,
            folds=CROSS_VALIDATION_FOLDS,
        )


def _statuses(session: Session, trainings: Sequence[Training]) -> list[TrainingStatus]:
    ids = [training.id for training in trainings]
    parents = session.scalars(select(Job).where(Job.kind == JobKind.TRAINING, Job.training_id.in_(ids))).all()
    jobs = {status.job.training_id: status for status in following.status_of(session, parents)}
    models = {
        model.training_id: model
        for model in session.scalars(select(TrainedModel).where(TrainedModel.training_id.in_(ids)))
    }
    return [TrainingStatus(one, jobs[one.id], models.get(one.id)) for one in trainings]
