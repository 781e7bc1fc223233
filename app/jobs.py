"""The vocabulary that service and worker share: kinds, states, transitions, payloads and results of jobs."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, Field, JsonValue, StrictInt, StringConstraints, TypeAdapter

from core.domain.dataset import CaseId, DatasetProblem
from core.domain.geometry import Shape, Spacing
from core.domain.plan import ConfigurationName
from core.domain.record import Record
from core.domain.training import Fold, TrainingSettings
from core.errors import DomainError

T = TypeVar("T")


class JobKind(StrEnum):
    """What a job does."""

    INGEST = "ingest"
    PLAN = "plan"
    PREPROCESS = "preprocess"
    TRAIN = "train"
    SELECT = "select"
    TRAINING = "training"
    """The parent of the five above; never claimed, its state follows from its children's."""
    PREDICT = "predict"


class JobState(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    """A job that it depends on is not done."""
    QUEUED = "queued"
    RUNNING = "running"
    CANCELING = "canceling"
    """Asked to end; its child still runs."""
    PAUSING = "pausing"
    """Asked to make room; its child still runs."""
    PAUSED = "paused"
    """Nobody runs it until it is resumed; a training goes on from its checkpoint then."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class Lane(StrEnum):
    """Which kind of worker takes a job."""

    CPU = "cpu"
    TRAIN = "train"
    PREDICT = "predict"


class EventKind(StrEnum):
    """What an entry of a job's history tells."""

    STATE = "state"
    """The job moved from one state to another."""
    EPOCH = "epoch"
    """An epoch is finished; its record is in the entry."""
    RESUMED = "resumed"
    """The job goes on from a checkpoint; epochs from the entry's number on are to be forgotten."""


LANES: Mapping[JobKind, Lane] = {
    JobKind.INGEST: Lane.CPU,
    JobKind.PLAN: Lane.CPU,
    JobKind.PREPROCESS: Lane.CPU,
    JobKind.TRAIN: Lane.TRAIN,
    JobKind.SELECT: Lane.CPU,
    JobKind.TRAINING: Lane.CPU,
    JobKind.PREDICT: Lane.PREDICT,
}

FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED})
"""The job has ended. Only a user's `retry` leads out of the last two, nothing out of the first."""

LEASED_STATES = frozenset({JobState.RUNNING, JobState.CANCELING, JobState.PAUSING})
"""A worker owns the job until its lease ends."""

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.QUEUED, JobState.PAUSED, JobState.CANCELED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.CANCELED, JobState.FAILED}),
    JobState.RUNNING: frozenset(
        {
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELED,
            JobState.CANCELING,
            JobState.PAUSING,
            JobState.QUEUED,
        }
    ),
    JobState.CANCELING: frozenset({JobState.CANCELED}),
    JobState.PAUSING: frozenset(
        {
            JobState.PAUSED,
            JobState.RUNNING,
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELING,
            JobState.CANCELED,
        }
    ),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELED, JobState.FAILED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED, JobState.WAITING, JobState.PAUSED}),
    JobState.CANCELED: frozenset({JobState.QUEUED, JobState.WAITING, JobState.PAUSED}),
}
"""The life cycle as data. `running → queued` gives a job back whose worker or child died.

A training ends with its last job, so it may fail or be canceled from wherever it stands.
"""

Urgency = Literal["interactive", "batch"]
"""Whether a person waits for a prediction."""

INTERACTIVE, BATCH = 0, 3
"""Priorities of predictions; the lower number goes first. The steps are those of Celery on Redis."""

PRIORITIES: Mapping[Lane, int] = {Lane.PREDICT: INTERACTIVE, Lane.CPU: 6, Lane.TRAIN: 9}
"""A worker of several lanes takes first what somebody waits for."""

CROSS_VALIDATION_FOLDS = 5
"""A numbered fold needs at least as many cases (Engine specification B 4.1)."""

Preset = Literal["default"]
"""What the planner knows; app must not import it."""

Trainable = Literal["2d", "3d_fullres"]
"""Configurations that can be trained; the plan decides which of them a dataset has."""

PROBLEM_TYPE = "urn:nnunet-service:problem:"
"""Prefix of the `type` of a problem document; the kind of the error follows."""

INTERNAL_ERROR = "internal-error"
"""Kind of a problem that is a bug of ours; its text is in the log, not in the document."""


def problem_document(
    kind: str, detail: str, context: Mapping[str, JsonValue] | None = None
) -> dict[str, JsonValue]:
    """Describe what went wrong as RFC 9457 has it, without a status: a job has none.

    Args:
        kind: Stable slug, see `core.errors.DomainError`.
        detail: One sentence for a person.
        context: What a program may want to know.
    """
    return {
        **(context or {}),
        "type": PROBLEM_TYPE + kind,
        "title": kind.replace("-", " ").capitalize(),
        "detail": detail,
        "code": kind,
    }


def problem_of(error: DomainError) -> dict[str, JsonValue]:
    """Describe an error that was raised on purpose."""
    return problem_document(error.kind, error.message, error.context)


def _once_each(values: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse an entry that is named twice."""
    twice = {str(value) for value in values if values.count(value) > 1}
    if twice:
        raise ValueError(f"names {', '.join(sorted(twice))} more than once")
    return values


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$"),
]
"""What a person calls a thing; never part of a path or key."""

FoldNumber = Annotated[StrictInt, Field(ge=0, lt=1000)]


class TrainingRequest(Record):
    """What a client asks for with POST /train; all but the dataset has a default."""

    dataset_id: UUID
    configurations: (
        Annotated[tuple[Trainable, ...], Field(min_length=1), AfterValidator(_once_each)] | None
    ) = None
    """None: 3d_fullres where the plan has it, else 2d."""
    folds: Annotated[
        tuple[FoldNumber | Literal["all"], ...],
        Field(min_length=1, max_length=100),
        AfterValidator(_once_each),
    ] = tuple(range(CROSS_VALIDATION_FOLDS))
    preset: Preset = "default"
    gpu_memory_gb: float | None = Field(default=None, gt=0, le=1000, allow_inf_nan=False)
    """What a patch may cost; None: what the preset says."""
    epochs: StrictInt = Field(default=1000, ge=1, le=1_000_000)
    iterations_per_epoch: StrictInt = Field(default=250, ge=1, le=1_000_000)
    seed: StrictInt = Field(default=0, ge=0, lt=2**63)
    name: Name | None = None
    """Of the training and its model; None: the dataset's."""

    @property
    def settings(self) -> TrainingSettings:
        """What the engine needs of it."""
        return TrainingSettings(
            epochs=self.epochs, iterations_per_epoch=self.iterations_per_epoch, seed=self.seed
        )


class ObjectRef(Record):
    """A file in the object store."""

    key: str
    sha256: str
    size_bytes: int


class IngestPayload(Record):
    """Unpack an archive and verify what is in it."""

    kind: Literal[JobKind.INGEST] = JobKind.INGEST
    dataset_id: UUID
    archive: ObjectRef


class PlanPayload(Record):
    """Fingerprint a dataset and plan for it."""

    kind: Literal[JobKind.PLAN] = JobKind.PLAN
    training_id: UUID
    dataset_id: UUID
    dataset_name: str
    archive: ObjectRef
    fingerprint: ObjectRef | None
    """None where nobody has computed it yet."""
    preset: str
    gpu_memory_gb: float | None
    configurations: tuple[ConfigurationName, ...] | None
    """None lets the plan decide: 3d_fullres where it exists, else 2d."""


class PreprocessPayload(Record):
    """Preprocess every case of a dataset for one configuration."""

    kind: Literal[JobKind.PREPROCESS] = JobKind.PREPROCESS
    training_id: UUID
    archive: ObjectRef
    plans: ObjectRef
    configuration: ConfigurationName
    digest: str | None = None
    """Of all that shapes the arrays: two jobs with the same one have the same result. None: computed where it
    is needed, as for a plan that the release before made."""


class TrainPayload(Record):
    """Train one configuration on one fold, then segment and score its validation cases."""

    kind: Literal[JobKind.TRAIN] = JobKind.TRAIN
    training_id: UUID
    archive: ObjectRef
    plans: ObjectRef
    fingerprint: ObjectRef
    configuration: ConfigurationName
    fold: Fold
    settings: TrainingSettings


class SelectPayload(Record):
    """Compare the trained configurations and put the model together."""

    kind: Literal[JobKind.SELECT] = JobKind.SELECT
    training_id: UUID
    archive: ObjectRef
    plans: ObjectRef
    fingerprint: ObjectRef


class PredictPayload(Record):
    """Segment one image with a model."""

    kind: Literal[JobKind.PREDICT] = JobKind.PREDICT
    prediction_id: UUID
    model_id: UUID
    model_files: dict[str, ObjectRef]
    """Path inside the model folder → object."""
    channels: tuple[ObjectRef, ...]
    """One file per channel, in the model's order."""
    file_ending: str
    """Of the input; the segmentation gets the same."""


JobPayload = Annotated[
    IngestPayload | PlanPayload | PreprocessPayload | TrainPayload | SelectPayload | PredictPayload,
    Field(discriminator="kind"),
]

PAYLOAD: TypeAdapter[JobPayload] = TypeAdapter(JobPayload)
"""Reads the payload column of a job."""


class CaseSummary(Record):
    """What a client may know of one case of a dataset."""

    case: CaseId
    shape: Shape
    spacing: Spacing


class IngestResult(Record):
    """What verification found; with problems the dataset is invalid, yet the job succeeded."""

    description: dict[str, Any]
    """dataset.json, or {} where there is none that can be read."""
    reader: str | None
    cases: tuple[CaseSummary, ...]
    problems: tuple[DatasetProblem, ...]


class PlanResult(Record):
    """Files: `plans.json`, `dataset_fingerprint.json`."""

    files: dict[str, ObjectRef]
    configurations: tuple[ConfigurationName, ...]
    """Those to be trained."""
    digests: dict[ConfigurationName, str] = Field(default_factory=dict)
    """Per configuration, see `PreprocessPayload.digest`."""


class PreprocessResult(Record):
    """Files: `<number>/<name>`, the arrays of each case in a folder named by its place in `cases`."""

    files: dict[str, ObjectRef]
    cases: tuple[CaseId, ...]
    digest: str
    """Of all that shaped them."""


class ValidationScore(Record):
    """Scores of one validation case."""

    case: CaseId
    dice: dict[str, float | None]
    """Per label or region name."""


class TrainResult(Record):
    """Files: `weights.safetensors`, `fold.json`, `epochs.jsonl`, `validation/summary.json`."""

    files: dict[str, ObjectRef]
    configuration: ConfigurationName
    fold: Fold
    mean_dice: float | None
    validation: tuple[ValidationScore, ...]


class SelectResult(Record):
    """Files: the whole model folder."""

    files: dict[str, ObjectRef]
    configuration: ConfigurationName
    folds: tuple[Fold, ...]
    mean_dice: float | None
    """Over the validation cases of all folds."""
    reason: str
    """Why this configuration, with numbers."""


class PredictResult(Record):
    """Files: `segmentation<ending>`, `preview.png`."""

    files: dict[str, ObjectRef]
    volumes: dict[str, float]
    """Millilitres per label or region name; empty for a 2D image, which has none."""
    timings: dict[str, float]
    """Seconds per stage."""
    provenance: dict[str, Any]
    """Folds, precision, device, versions, hash of the model's weights, whether the model was warm."""


RESULTS: Mapping[JobKind, type[Record]] = {
    JobKind.INGEST: IngestResult,
    JobKind.PLAN: PlanResult,
    JobKind.PREPROCESS: PreprocessResult,
    JobKind.TRAIN: TrainResult,
    JobKind.SELECT: SelectResult,
    JobKind.PREDICT: PredictResult,
}


class Checkpoint(Record):
    """How far a training has come, where every machine finds it."""

    file: ObjectRef
    epochs: int
    """Finished ones; the next has this number."""


class WorkOrder(Record):
    """All that a child process needs to know; it never opens the database."""

    job_id: UUID
    fence: int
    payload: JobPayload
    trained: tuple[TrainResult, ...] = ()
    """For `select`: the results of the trainings that it depends on."""
    preprocessed: PreprocessResult | None = None
    """For `train`: the arrays to learn from; None makes them anew. For `preprocess`: what an earlier job made
    of the same input."""
    checkpoint: Checkpoint | None = None
    """For `train`: where an earlier attempt stood when it last told."""
