"""Plays clients and workers on the real tables: uploads, claims, and ends of jobs with typical results."""

import io
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select, update
from sqlalchemy.orm import Session, undefer

from app.db.base import Sessions, transaction
from app.db.clock import clock
from app.db.models import Dataset, Job
from app.jobs import JobKind, JobState, Lane, Urgency
from app.payloads import (
    VALIDATED_FILE,
    CaseSummary,
    ClassSummary,
    ExpectedImage,
    ExportResult,
    ImportResult,
    IngestResult,
    ObjectRef,
    PlannedConfiguration,
    PlanPayload,
    PlanResult,
    PredictPayload,
    PredictResult,
    PreprocessResult,
    SelectResult,
    TrainPayload,
    TrainResult,
    ValidationScore,
)
from app.requests import AliasRequest, ExportTarget, ImportRequest, TrainingRequest
from app.services import aliases, claims, datasets, exports, jobs, models, predictions, sweeping, trainings
from app.services.claims import Claim
from app.services.preconditions import Precondition
from app.services.predictions import PredictionRequest
from app.services.resources import Resources, Submission
from app.storage import Incoming
from core.domain.dataset import DatasetProblem
from core.domain.record import Record
from core.domain.training import EpochRecord

DESCRIPTION = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "hippocampus": 1},
    "numTraining": 6,
    "file_ending": ".nii.gz",
}

NIFTI = (b"\x5c\x01\x00\x00" + bytes(340) + b"n+1\x00" + bytes(100), ".nii")
"""Bytes that begin as a NIfTI file does; only a worker would look further."""

IMAGE = ExpectedImage(
    file_ending=".nii.gz",
    is_flat=False,
    spacing=(1, 1, 1),
    shape=(36, 50, 35),
    normalization=("ZScoreNormalization",),
)

LEASE_SECONDS = 30.0

End = Callable[[Sessions, Claim], None]
"""Ends a claimed job."""


def zip_bytes(names: Sequence[str] = ("dataset.json",)) -> bytes:
    """Return a small zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return buffer.getvalue()


def incoming(resources: Resources, content: bytes) -> Incoming:
    """Return received bytes."""
    file = resources.store.receive(10**9)
    file.write(content)
    return file


def upload(resources: Resources, name: str = "Hippocampus") -> Submission:
    """Send a dataset."""
    return datasets.upload(resources, name, incoming(resources, zip_bytes()), None)


def ready_dataset(resources: Resources, cases: int = 6) -> UUID:
    """Send a dataset and play its check."""
    submission = upload(resources)
    finish(resources.sessions, claim(resources.sessions), ingest_result(cases))
    return submission.id


def training(resources: Resources, dataset_id: UUID, **request: Any) -> Submission:
    """Ask for a training."""
    wanted = TrainingRequest.model_validate({"dataset_id": dataset_id, **request})
    return trainings.start(resources, wanted, None)


def model(resources: Resources) -> UUID:
    """Train a model from beginning to end."""
    submission = training(resources, ready_dataset(resources), folds=["all"])
    play_all(resources.sessions)
    with transaction(resources.readers) as session:
        found = trainings.find(session, submission.id)
    assert found.model is not None
    return found.model.id


def prediction(resources: Resources, model_id: UUID, urgency: Urgency = "interactive") -> Submission:
    """Ask for a segmentation."""
    content, ending = NIFTI
    request = PredictionRequest(model_id, [incoming(resources, content)], ending, urgency)
    return predictions.submit(resources, request, None)


def imported(resources: Resources, content: bytes | None = None, **request: Any) -> Submission:
    """Send a model."""
    archive = incoming(resources, zip_bytes(["plans.json"]) if content is None else content)
    return models.submit_import(resources, ImportRequest.model_validate(request), archive, None)


def export(resources: Resources, model_id: UUID, target: ExportTarget = "official") -> Submission:
    """Ask for a zip of a model."""
    return exports.submit(resources, model_id, target, None)


def alias(resources: Resources, reference: str, model_id: UUID) -> None:
    """Let an alias point at a model."""
    named = aliases.alias_reference(reference)
    aliases.put(resources, named, AliasRequest(model_id=model_id), Precondition())


def claim(sessions: Sessions, lanes: Sequence[Lane] = tuple(Lane)) -> Claim:
    """Take the next job; there must be one."""
    taken = try_claim(sessions, lanes)
    assert taken is not None
    return taken


def try_claim(sessions: Sessions, lanes: Sequence[Lane] = tuple(Lane)) -> Claim | None:
    """Take the next job, if there is one."""
    while True:
        with transaction(sessions) as session:
            job_id = claims.next_queued(session, lanes)
            if job_id is None:
                return None
            taken = claims.claim(session, job_id, "a worker", LEASE_SECONDS)
        if taken is not None:
            return taken


def wait_for_claim(sessions: Sessions, lanes: Sequence[Lane]) -> Claim:
    """Take the next job as soon as there is one."""
    while (taken := try_claim(sessions, lanes)) is None:
        time.sleep(0.01)
    return taken


def finish(sessions: Sessions, taken: Claim, result: Record | None = None) -> None:
    """End a job well."""
    with transaction(sessions) as session:
        jobs.succeed(session, taken, result or typical_result(taken))


def fail(sessions: Sessions, taken: Claim, detail: str = "case 7 has no label") -> None:
    """End a job badly."""
    with transaction(sessions) as session:
        jobs.fail(
            session, taken, {"type": "urn:x", "title": "X", "detail": detail, "code": "invalid-dataset"}
        )


def play_all(sessions: Sessions) -> list[Claim]:
    """Claim and finish everything there is; return what was claimed."""
    played = []
    while (taken := try_claim(sessions)) is not None:
        finish(sessions, taken)
        played.append(taken)
    return played


MAX_CRASHES = 3
"""As the settings have it by default."""


def give_back(sessions: Sessions, taken: Claim, reason: str = "killed by signal 9") -> None:
    """End a job's child as the system does."""
    with transaction(sessions) as session:
        jobs.give_back(session, taken, reason, max_crashes=MAX_CRASHES)


def sweep(sessions: Sessions) -> int:
    """Take back what silent workers have."""
    with transaction(sessions) as session:
        return sum(sweeping.take_back(session, job_id, MAX_CRASHES) for job_id in sweeping.expired(session))


def steer(sessions: Sessions, verb: Callable[[Session, UUID], Job], job_id: UUID) -> JobState:
    """Ask something of a job; return how it stands then."""
    with transaction(sessions) as session:
        return verb(session, job_id).state


def let_leases_run_out(sessions: Sessions) -> None:
    """Do what thirty seconds of silence do."""
    with transaction(sessions) as session:
        session.execute(
            update(Job).where(Job.lease_expires_at.is_not(None)).values(lease_expires_at=clock(-1))
        )


def states(sessions: Sessions) -> dict[JobKind, list[JobState]]:
    """Return the states of all jobs by kind, in the order of the jobs."""
    found: dict[JobKind, list[JobState]] = {}
    with transaction(sessions) as session:
        for job in session.scalars(select(Job).order_by(Job.created_at, Job.id)):
            found.setdefault(job.kind, []).append(job.state)
    return found


def job_row(sessions: Sessions, job_id: UUID) -> Job:
    """Return a job's row."""
    with transaction(sessions) as session:
        return session.get_one(Job, job_id, options=[undefer(Job.result)])


def dataset_row(sessions: Sessions, dataset_id: UUID) -> Dataset:
    """Return a dataset's row."""
    with transaction(sessions) as session:
        return session.get_one(Dataset, dataset_id)


def epoch(number: int, loss: float = -0.5) -> EpochRecord:
    """Return what an epoch might measure."""
    return EpochRecord(
        epoch=number,
        train_loss=loss,
        validation_loss=-0.4,
        pseudo_dice={"hippocampus": 0.7},
        mean_pseudo_dice=0.7,
        smoothed_pseudo_dice=0.6,
        learning_rate=0.01,
        seconds=1.5,
    )


def ingest_result(cases: int, problems: Sequence[DatasetProblem] = ()) -> IngestResult:
    """Return what verification might find."""
    return IngestResult(
        description=DESCRIPTION,
        reader="SimpleITKIO",
        cases=tuple(
            CaseSummary(case=f"case_{number:03d}", shape=(36, 50, 35), spacing=(1, 1, 1))
            for number in range(cases)
        ),
        problems=tuple(problems),
        notes=(DatasetProblem(case="case_000", kind="empty-reference", message="look at it"),),
        classes=(ClassSummary(label=1, names=("hippocampus",), cases=cases, voxels=3000),),
    )


def typical_result(taken: Claim) -> Record:
    """Return what a job of this kind might find."""
    makers: dict[JobKind, Callable[[Claim], Record]] = {
        JobKind.INGEST: lambda _: ingest_result(6),
        JobKind.PLAN: _plan_result,
        JobKind.PREPROCESS: lambda taken: PreprocessResult(
            files={"0.npz": stored(taken, "0.npz")}, cases=("case_000",), digest="d"
        ),
        JobKind.TRAIN: _train_result,
        JobKind.SELECT: _select_result,
        JobKind.PREDICT: _predict_result,
        JobKind.IMPORT_MODEL: _import_result,
        JobKind.EXPORT_MODEL: lambda taken: ExportResult(files={"model.zip": stored(taken, "model.zip")}),
    }
    return makers[taken.kind](taken)


def stored(taken: Claim, name: str) -> ObjectRef:
    """Return a reference as a worker makes it."""
    return ObjectRef(key=f"{taken.kind}/{taken.job_id}/{taken.fence}/{name}", sha256="0" * 64, size_bytes=3)


def publish(resources: Resources, folder: Path, key: str, content: bytes) -> ObjectRef:
    """Put a file into the store."""
    source = (
        folder / f"published-{uuid4().hex}"
    )  # The store keeps the file itself: nobody writes to it again.
    source.write_bytes(content)
    return resources.store.put(key, source)


def _plan_result(taken: Claim) -> PlanResult:
    payload = taken.order.payload
    assert isinstance(payload, PlanPayload)
    names = ("plans.json", "dataset_fingerprint.json")
    known = dict(zip(names, (payload.plans, payload.fingerprint), strict=True))
    chosen = payload.configurations or ("3d_fullres",)
    return PlanResult(
        files={name: known[name] or stored(taken, name) for name in names},
        configurations=chosen if payload.training_id else (),
        planned=tuple(PlannedConfiguration(name=name) for name in ("2d", "3d_fullres")),
        digests={name: f"{payload.archive.sha256[:8]}-{name}" for name in chosen},
    )


def _train_result(taken: Claim) -> TrainResult:
    assert isinstance(taken.order.payload, TrainPayload)
    return TrainResult(
        files={name: stored(taken, name) for name in ("weights.safetensors", VALIDATED_FILE)},
        configuration=taken.order.payload.configuration,
        fold=taken.order.payload.fold,
        mean_dice=0.8,
        validation=(ValidationScore(case="case_000", dice={"hippocampus": 0.8}),),
    )


def _select_result(taken: Claim) -> SelectResult:
    first = taken.order.trained[0]
    return SelectResult(
        files={"0": stored(taken, "0")},
        paths=("dataset.json",),
        reused={name: ref for name, ref in first.files.items() if name != VALIDATED_FILE},
        configuration=first.configuration,
        folds=tuple(one.fold for one in taken.order.trained if one.configuration == first.configuration),
        mean_dice=0.8,
        reason="the only configuration",
    )


def _predict_result(taken: Claim) -> PredictResult:
    assert isinstance(taken.order.payload, PredictPayload)
    names = ("segmentation" + taken.order.payload.file_ending, "preview.png")
    return PredictResult(
        files={name: stored(taken, name) for name in names},
        volumes={"hippocampus": 1.0},
        timings={"predict": 0.5},
        provenance={"warm": False},
    )


def _import_result(taken: Claim) -> ImportResult:
    paths = ("dataset.json", "fold_0/weights.safetensors")
    return ImportResult(
        files={str(number): stored(taken, str(number)) for number in range(len(paths))},
        paths=paths,
        name="Dataset004_Hippocampus",
        configurations=("3d_fullres",),
        folds=(0,),
        channels=("MRI",),
        labels={"background": 0, "hippocampus": 1},
        notes=(),
        image=IMAGE,
    )
