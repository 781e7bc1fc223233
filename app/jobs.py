"""The vocabulary that service and worker share: kinds, states, transitions, payloads and results of jobs."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictInt,
    StringConstraints,
    TypeAdapter,
    model_validator,
)

from core.domain.dataset import CaseId, DatasetProblem
from core.domain.geometry import Shape, Spacing
from core.domain.plan import ConfigurationName
from core.domain.record import Record
from core.domain.training import Fold, TrainingSettings
from core.errors import DomainError, UnknownNameError
from core.planning.presets import PRESETS

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

DEFAULT_PRESET = "default"
"""The planner that a request gets which names none."""

CASCADE = "3d_cascade_fullres"
"""The planner's configuration that refines what another one has segmented."""

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


def _known_preset(name: str) -> str:
    """Refuse a name that no planner has."""
    try:
        PRESETS.get(name)
    except UnknownNameError as error:
        raise ValueError(error.message) from error
    return name


Preset = Annotated[str, AfterValidator(_known_preset), Field(json_schema_extra={"enum": sorted(PRESETS)})]
"""Name of a planner."""

PLAN_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

NAME_PATTERN = r"^[^\x00-\x1f\x7f]*$"

PlanName = Annotated[str, StringConstraints(max_length=100, pattern=PLAN_NAME_PATTERN)]
"""What a plan is called; part of addresses, and of folder names of the nnU-Net family."""

Millimetres = Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)]

Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=NAME_PATTERN),
]
"""What a person calls a thing; never part of a path or key."""

FoldNumber = Annotated[StrictInt, Field(ge=0, lt=1000)]


class PlannerChoices(Record):
    """What a client may decide about planning; all of it has a default."""

    preset: Preset | None = None
    """None: `DEFAULT_PRESET`."""
    gpu_memory_gb: float | None = Field(default=None, gt=0, le=1000, allow_inf_nan=False)
    """What a patch may cost; None: what the preset says."""
    target_spacing: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Instead of the one that the rules find: (z, y, x), in the axis order of the files."""
    suppress_transpose: StrictBool = False
    """Whether to keep the axis order of the files."""

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of what differs from the defaults."""
        return tuple(
            name
            for name, field in PlannerChoices.model_fields.items()
            if getattr(self, name) != field.default
        )


class PlanSource(Record):
    """A plan of some dataset."""

    dataset_id: UUID
    plan: PlanName


class PlanningRequest(PlannerChoices):
    """What a client asks for with POST /datasets/{id}/plans: to plan, or to take the plan of another dataset."""

    model_config = ConfigDict(populate_by_name=False)

    name: PlanName | None = None
    """None: the preset's, or that of the other dataset's plan."""
    source: PlanSource | None = Field(default=None, alias="from")

    @model_validator(mode="after")
    def _plan_or_take(self) -> Self:
        if self.source is not None and self.chosen:
            raise ValueError(
                f"a plan that comes `from` another dataset is taken as it is; leave out {', '.join(self.chosen)}"
            )
        return self


class TrainingRequest(PlannerChoices):
    """What a client asks for with POST /train; all but the dataset has a default."""

    dataset_id: UUID
    plan: PlanName | None = None
    """One of the dataset's plans; None: one that is made for this training, as the choices say."""
    configurations: (
        Annotated[tuple[Name, ...], Field(min_length=1, max_length=100), AfterValidator(_once_each)] | None
    ) = None
    """None: 3d_fullres where the plan has it, else 2d."""
    folds: Annotated[
        tuple[FoldNumber | Literal["all"], ...],
        Field(min_length=1, max_length=100),
        AfterValidator(_once_each),
    ] = tuple(range(CROSS_VALIDATION_FOLDS))
    epochs: StrictInt = Field(default=1000, ge=1, le=1_000_000)
    iterations_per_epoch: StrictInt = Field(default=250, ge=1, le=1_000_000)
    seed: StrictInt = Field(default=0, ge=0, lt=2**63)
    name: Name | None = None
    """Of the training and its model; None: the dataset's."""

    @model_validator(mode="after")
    def _plan_or_choose(self) -> Self:
        if self.plan is not None and self.chosen:
            raise ValueError(
                f"the plan {self.plan} says how to plan already; leave out {', '.join(self.chosen)}, "
                "or leave out plan"
            )
        return self

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
    """Fingerprint a dataset, unless somebody did, and plan for it: for a training, or for itself."""

    kind: Literal[JobKind.PLAN] = JobKind.PLAN
    training_id: UUID | None = None
    """None where nobody trains: the plan is kept under its name."""
    plan_id: UUID | None = None
    """The row of that plan."""
    plans_name: str | None = None
    """None: the preset's."""
    dataset_id: UUID
    dataset_name: str
    archive: ObjectRef
    fingerprint: ObjectRef | None
    """None where nobody has computed it yet."""
    plans: ObjectRef | None = None
    """What to train with; None: plan as the choices below say."""
    preset: str = DEFAULT_PRESET
    gpu_memory_gb: float | None = None
    target_spacing: Spacing | None = None
    suppress_transpose: bool = False
    configurations: tuple[ConfigurationName, ...] | None = None
    """What to train; None lets the plan decide: 3d_fullres where it exists, else 2d."""


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


class ClassSummary(Record):
    """How often a label value occurs in a dataset."""

    label: int
    names: tuple[str, ...]
    """Of the label, or of the regions that it belongs to; none for a value that is not declared."""
    cases: int
    """In how many cases."""
    voxels: int


class IngestResult(Record):
    """What verification found; with problems the dataset is invalid, yet the job succeeded."""

    description: dict[str, Any]
    """dataset.json, or {} where there is none that can be read."""
    reader: str | None
    cases: tuple[CaseSummary, ...]
    problems: tuple[DatasetProblem, ...]
    notes: tuple[DatasetProblem, ...] = ()
    """What keeps nobody from training, yet deserves a look."""
    classes: tuple[ClassSummary, ...] = ()
    """Every label that is declared or occurs, by value."""


class PlannedConfiguration(Record):
    """One configuration of a plan."""

    name: ConfigurationName
    previous_stage: str | None = None
    """The configuration whose segmentation it refines; None: it works on the image alone."""


class PlanResult(Record):
    """Files: `plans.json`, `dataset_fingerprint.json`."""

    files: dict[str, ObjectRef]
    configurations: tuple[ConfigurationName, ...]
    """Those to be trained; none where nobody trains."""
    planned: tuple[PlannedConfiguration, ...] = ()
    """All that the plan has."""
    digests: dict[ConfigurationName, str] = Field(default_factory=dict)
    """Per configuration, see `PreprocessPayload.digest`."""


class PreprocessResult(Record):
    """Files: `<number>.npz`, one per case, named by its place in `cases`."""

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
