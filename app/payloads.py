"""What service and worker hand each other: a job's payload, the work order around it, and its result."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field, TypeAdapter

from app.jobs import JobKind
from app.requests import DEFAULT_PRESET, ExportTarget, PredictionChoices
from core.domain.dataset import CaseId, DatasetProblem
from core.domain.exchange import ImportOptions
from core.domain.geometry import Shape, Spacing
from core.domain.plan import ConfigurationName
from core.domain.pretraining import PretrainedRecord
from core.domain.record import Record
from core.domain.training import Fold, TrainingSettings

ENSEMBLE_SIGN: Final = "+"
"""Between the names of an ensemble's configurations."""

VALIDATED_FILE: Final = "validated.zip"
"""Of a trained fold: what it segmented in its validation cases, kept until the model is put together."""

PROBABILITIES_FILE: Final = "probabilities.npz"
"""Of a prediction: its one array has the heads first."""

PROPERTIES_FILE: Final = "probabilities.pkl"
"""Beside them: where the case lies."""

UNCERTAINTY_FILE: Final = "uncertainty.nii.gz"
"""Of a prediction: a map on the grid of the image."""


class ObjectRef(Record):
    """A file in the object store."""

    key: str
    sha256: str
    size_bytes: int


class Checkpoint(Record):
    """How far a training has come, where every machine finds it."""

    file: ObjectRef
    epochs: int
    """Finished ones; the next has this number."""


class Pretrained(Record):
    """Weights of a trained model that a network begins with."""

    model_id: UUID
    fold: Fold
    weights: ObjectRef


class Beginning(Record):
    """What a training brings along beside dataset, plan and settings."""

    splits: ObjectRef | None = None
    """splits_final.json of its own."""
    patients: ObjectRef | None = None
    """Which patient each case shows, where cases of a patient stay together."""
    pretrained: Pretrained | None = None


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
    beginning: Beginning = Beginning()
    continues: UUID | None = None
    """The training whose folds are trained further."""


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


Kept = Literal["nothing", "segmentations", "probabilities"]
"""What of a fold's validation cases the selection needs: probabilities where ensembles are compared."""


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
    beginning: Beginning = Beginning()
    goes_on_from: Checkpoint | None = None
    """Where an earlier training of the fold ended, which this one gives more epochs."""
    kept: Kept = "segmentations"


class SelectPayload(Record):
    """Compare the trained configurations and put the model together."""

    kind: Literal[JobKind.SELECT] = JobKind.SELECT
    training_id: UUID
    archive: ObjectRef
    plans: ObjectRef
    fingerprint: ObjectRef
    configurations: tuple[ConfigurationName, ...] = ()
    """To choose from; none: all that were trained. Stages that only others needed are not among them."""
    previous_stages: dict[ConfigurationName, ConfigurationName] = Field(default_factory=dict)
    """Of each later stage of a cascade the stage before."""
    ensembling: bool = False
    """Whether to compare every two configurations as an ensemble too; the folds kept their probabilities then."""


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
    choices: PredictionChoices = PredictionChoices()


class ImportPayload(Record):
    """Make a model of one that came from elsewhere."""

    kind: Literal[JobKind.IMPORT_MODEL] = JobKind.IMPORT_MODEL
    model_id: UUID
    archive: ObjectRef
    """Deleted once the model is there."""
    options: ImportOptions


class ExportPayload(Record):
    """Write a zip of a model."""

    kind: Literal[JobKind.EXPORT_MODEL] = JobKind.EXPORT_MODEL
    export_id: UUID
    model_id: UUID
    model_files: dict[str, ObjectRef]
    """Path inside the model folder → object."""
    format: ExportTarget


JobPayload = Annotated[
    IngestPayload
    | PlanPayload
    | PreprocessPayload
    | TrainPayload
    | SelectPayload
    | PredictPayload
    | ImportPayload
    | ExportPayload,
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
    """Per configuration that is trained or needed by one, see `PreprocessPayload.digest`."""


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
    """A trained fold.

    Files: `weights.safetensors`, `fold.json`, `epochs.jsonl`, `progress.png`, `validation/summary.json`,
    `checkpoint.safetensors`, `splits_final.json`, for later stages of a cascade `predicted_next_stage.zip`, and
    until the model is put together `validated.zip`.
    """

    files: dict[str, ObjectRef]
    configuration: ConfigurationName
    fold: Fold
    mean_dice: float | None
    validation: tuple[ValidationScore, ...]
    epochs: int | None = None
    """How many were trained: fewer than were asked for if the training stopped early."""
    best_epoch: int | None = None
    """With the highest smoothed pseudo Dice; counts from 0."""
    pretrained: PretrainedRecord | None = None
    """Which tensors were taken from the weights that it began with, if not with drawn ones."""


class ExpectedImage(Record):
    """What the images were like that a model learnt from; those that it segments should be."""

    file_ending: str
    """Of their files. Any format that the service reads will do, where it keeps the same values."""
    is_flat: bool | None
    """Whether they were pictures instead of volumes; None where nothing tells."""
    spacing: Spacing | None
    """Median, in millimetres (z, y, x)."""
    shape: Shape | None
    """Median, in voxels (z, y, x), without the empty margin."""
    normalization: tuple[str, ...]
    """Per channel; CTNormalization takes Hounsfield units."""


class SelectResult(Record):
    """Files: those of the model folder that were made here, named by their places in `paths`."""

    files: dict[str, ObjectRef]
    paths: tuple[str, ...]
    """Inside the model folder."""
    reused: dict[str, ObjectRef]
    """What the trainings left of the model folder, by path."""
    configuration: str
    """Of an ensemble, those of its members."""
    folds: tuple[Fold, ...]
    mean_dice: float | None
    """Over the validation cases of all compared folds, after postprocessing."""
    reason: str
    """Why it was chosen, with numbers."""
    image: ExpectedImage | None = None
    """None: the release before selected."""


class PredictResult(Record):
    """Files: `segmentation<ending>`, `preview.png`, and what was asked for beside.

    That is `probabilities.npz` with `probabilities.pkl`, and `uncertainty.nii.gz`.
    """

    files: dict[str, ObjectRef]
    volumes: dict[str, float]
    """Millilitres per label or region name; empty for a 2D image, which has none."""
    timings: dict[str, float]
    """Seconds per stage."""
    provenance: dict[str, Any]
    """Folds, precision, device, versions, hash of the model's weights, whether the model was warm."""


class ImportResult(Record):
    """A model from elsewhere. Files: the whole model folder, named by their places in `paths`."""

    files: dict[str, ObjectRef]
    paths: tuple[str, ...]
    """Inside the model folder."""
    name: str
    """What the dataset was called that it learnt from."""
    configurations: tuple[str, ...]
    """Several where it is an ensemble."""
    folds: tuple[Fold, ...]
    channels: tuple[str, ...]
    labels: dict[str, Any]
    notes: tuple[str, ...]
    """How it was chosen among others, and what else the user should know."""
    image: ExpectedImage


class ExportResult(Record):
    """Files: `model.zip`."""

    files: dict[str, ObjectRef]


RESULTS: Mapping[JobKind, type[Record]] = {
    JobKind.INGEST: IngestResult,
    JobKind.PLAN: PlanResult,
    JobKind.PREPROCESS: PreprocessResult,
    JobKind.TRAIN: TrainResult,
    JobKind.SELECT: SelectResult,
    JobKind.PREDICT: PredictResult,
    JobKind.IMPORT_MODEL: ImportResult,
    JobKind.EXPORT_MODEL: ExportResult,
}


class WorkOrder(Record):
    """All that a child process needs to know; it never opens the database."""

    job_id: UUID
    fence: int
    payload: JobPayload
    trained: tuple[TrainResult, ...] = ()
    """For `select`, and for a later stage of a cascade: the results of the trainings that it depends on."""
    preprocessed: PreprocessResult | None = None
    """For `train`: the arrays to learn from; None makes them anew. For `preprocess`: what an earlier job made
    of the same input."""
    checkpoint: Checkpoint | None = None
    """For `train`: where an earlier attempt stood when it last told, or an earlier training when it ended."""
