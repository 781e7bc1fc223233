"""The tables: dataset, plan, training, job, trained model with aliases and exports, prediction, stored object."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db.base import Base, UtcDateTime, now
from app.jobs import EventKind, JobKind, JobState, Lane


class StoredObject(Base):
    """A file in the object store, by the key that we made for it."""

    __tablename__ = "stored_object"

    key: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class Dataset(Base):
    """An uploaded dataset; immutable once it is ready, a correction is a new dataset of the same name."""

    __tablename__ = "dataset"
    __table_args__ = (
        CheckConstraint("state IN ('ingesting', 'ready', 'invalid')", name="state_is_known"),
        UniqueConstraint("name", "version"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]
    version: Mapped[int]
    state: Mapped[str] = mapped_column(default="ingesting", index=True)
    archive_key: Mapped[str] = mapped_column(ForeignKey("stored_object.key"))
    description: Mapped[dict[str, Any] | None]
    """dataset.json, once it was read."""
    reader: Mapped[str | None]
    problems: Mapped[list[Any]] = mapped_column(default=list)
    notes: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'"))
    """What keeps nobody from training, yet deserves a look."""
    classes: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'"))
    """`app.payloads.ClassSummary`: every label that is declared or occurs."""
    fingerprint_key: Mapped[str | None] = mapped_column(ForeignKey("stored_object.key"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)
    archive: Mapped[StoredObject] = relationship(foreign_keys=archive_key, lazy="raise")
    cases: Mapped[list["DatasetCase"]] = relationship(
        lazy="raise", order_by="DatasetCase.case_id", cascade="all, delete-orphan"
    )


class DatasetCase(Base):
    """One case of a dataset, without its voxels."""

    __tablename__ = "dataset_case"

    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("dataset.id", ondelete="CASCADE"), primary_key=True)
    case_id: Mapped[str] = mapped_column(primary_key=True)
    shape: Mapped[list[Any]]
    spacing: Mapped[list[Any]]


class DatasetPlan(Base):
    """A plan that is kept under a name: made for the dataset, uploaded, or taken from another dataset."""

    __tablename__ = "plan"
    __table_args__ = (
        CheckConstraint("origin IN ('planned', 'uploaded', 'moved')", name="origin_is_known"),
        CheckConstraint("state IN ('planning', 'ready', 'failed')", name="state_is_known"),
        CheckConstraint("state != 'ready' OR plans_key IS NOT NULL", name="ready_means_readable"),
        UniqueConstraint("dataset_id", "name"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("dataset.id", ondelete="CASCADE"))
    name: Mapped[str]
    origin: Mapped[str]
    state: Mapped[str]
    plans_key: Mapped[str | None] = mapped_column(ForeignKey("stored_object.key"))
    """plans.json. Replacing it writes another object; trainings keep the one that they began with."""
    configurations: Mapped[list[Any]] = mapped_column(default=list)
    """`app.payloads.PlannedConfiguration`, in the order of the file."""
    request: Mapped[dict[str, Any] | None]
    """The body of POST /datasets/{id}/plans with its defaults filled in; null for an upload."""
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("job.id", ondelete="SET NULL"))
    """The job that makes it or made it; null once something else is kept under the name."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class Training(Base):
    """A request to train, and what came of it; its jobs hang below `job_id`."""

    __tablename__ = "training"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("dataset.id"), index=True)
    request: Mapped[dict[str, Any]]
    """The body of POST /train with its defaults filled in."""
    plans_key: Mapped[str | None] = mapped_column(ForeignKey("stored_object.key"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)
    dataset: Mapped[Dataset] = relationship(lazy="raise")


class Job(Base):
    """One unit of work. This row is the truth; a queue message only points at it."""

    __tablename__ = "job"
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - times come from the database's clock
    __table_args__ = (
        CheckConstraint(
            "(kind != 'training' AND state IN ('running', 'canceling', 'pausing'))"
            " = (lease_expires_at IS NOT NULL)",
            name="lease_means_owned",
        ),
        Index("ix_job_claim", "state", "lane", "priority", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), index=True)
    kind: Mapped[JobKind]
    lane: Mapped[Lane]
    priority: Mapped[int] = mapped_column(server_default="6")
    """Within the lane, and between the lanes of one worker; the lower number goes first."""
    state: Mapped[JobState] = mapped_column(default=JobState.QUEUED, index=True)
    payload: Mapped[dict[str, Any] | None]
    """One of `app.payloads.JobPayload`; null for the parent of a training."""
    result: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    """The kind's record of `app.payloads.RESULTS`, once it succeeded. It names every file that the job made, so
    it is read only where it is needed."""
    error: Mapped[dict[str, Any] | None]
    """Problem document (RFC 9457) of a failed or canceled job."""
    dataset_id: Mapped[UUID | None] = mapped_column(ForeignKey("dataset.id"), index=True)
    training_id: Mapped[UUID | None] = mapped_column(ForeignKey("training.id"), index=True)
    prediction_id: Mapped[UUID | None] = mapped_column(ForeignKey("prediction.id"), index=True)
    model_id: Mapped[UUID | None] = mapped_column(ForeignKey("trained_model.id"), index=True)
    """Of an import or an export; such jobs are deleted with their model."""

    attempt: Mapped[int] = mapped_column(default=0)
    """How often the job was claimed."""
    crashes: Mapped[int] = mapped_column(default=0)
    """How often its worker or child died since it last came further."""
    reached: Mapped[int] = mapped_column(default=0, server_default="0")
    """How many epochs of a training were ever finished; only going beyond that is coming further."""
    checkpoint: Mapped[dict[str, Any] | None]
    """`app.payloads.Checkpoint` in the object store; whoever claims the job next goes on from there."""
    fence: Mapped[int] = mapped_column(default=0)
    """Grows with every claim; a write that carries an older fence changes nothing."""
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    announced_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When a message last pointed at the queued row."""

    stage: Mapped[str | None]
    done: Mapped[int] = mapped_column(BigInteger, default=0)
    total: Mapped[int] = mapped_column(BigInteger, default=0)
    note: Mapped[str] = mapped_column(default="")
    eta_seconds: Mapped[float | None]

    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    children: Mapped[list["Job"]] = relationship(lazy="raise", order_by="Job.created_at")


class JobDependency(Base):
    """`job_id` waits until `needs_id` succeeded."""

    __tablename__ = "job_dependency"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    needs_id: Mapped[UUID] = mapped_column(
        ForeignKey("job.id", ondelete="CASCADE"), primary_key=True, index=True
    )


class JobEvent(Base):
    """One entry of a job's history: a transition, a finished epoch, a step back to a checkpoint."""

    __tablename__ = "job_event"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - ids grow, also after a deletion

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), index=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    kind: Mapped[EventKind] = mapped_column(default=EventKind.STATE, server_default="state")
    before: Mapped[JobState | None]
    """None for the row's birth; the same as `after` where the job did not move."""
    after: Mapped[JobState]
    note: Mapped[str] = mapped_column(default="")
    content: Mapped[dict[str, Any] | None]
    """Of an epoch: its record. Of a step back: the epoch that is done next."""


class Epoch(Base):
    """What one epoch of a train job measured; see `core.domain.training.EpochRecord`."""

    __tablename__ = "epoch"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    record: Mapped[dict[str, Any]]


class TrainedModel(Base):
    """A model that can predict: a folder of objects. Of a deleted one the row stays, for what it made."""

    __tablename__ = "trained_model"
    __table_args__ = (
        CheckConstraint("origin IN ('trained', 'imported')", name="origin_is_known"),
        CheckConstraint("state IN ('importing', 'ready', 'failed', 'deleted')", name="state_is_known"),
        UniqueConstraint("name", "version"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]
    """Of its line. Empty while it is being imported and nobody has named it."""
    version: Mapped[int | None]
    """Within its line, never given twice; null until it is ready."""
    origin: Mapped[str] = mapped_column(default="trained", server_default="trained")
    state: Mapped[str] = mapped_column(default="ready", server_default="ready")
    training_id: Mapped[UUID | None] = mapped_column(ForeignKey("training.id"), unique=True)
    dataset_id: Mapped[UUID | None] = mapped_column(ForeignKey("dataset.id"))
    configuration: Mapped[str]
    folds: Mapped[list[Any]]
    channels: Mapped[list[Any]]
    labels: Mapped[dict[str, Any]]
    mean_dice: Mapped[float | None]
    reason: Mapped[str] = mapped_column(default="")
    image: Mapped[dict[str, Any] | None]
    """`app.payloads.ExpectedImage`; null where an earlier release made the model."""
    request: Mapped[dict[str, Any] | None]
    """`app.requests.ImportRequest` of an imported model."""
    archive_sha256: Mapped[str | None] = mapped_column(index=True)
    """Of the zip that it was imported from."""
    archive_key: Mapped[str | None] = mapped_column(ForeignKey("stored_object.key"))
    """That zip, until the model is ready."""
    files: Mapped[dict[str, Any]]
    """Path inside the model folder → `app.payloads.ObjectRef`."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)


class ModelAlias(Base):
    """A name for one version of a line of models, such as `production`; it can be moved to another version."""

    __tablename__ = "model_alias"
    __table_args__ = (UniqueConstraint("name", "alias"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]
    """Of the line."""
    alias: Mapped[str]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("trained_model.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    model: Mapped[TrainedModel] = relationship(lazy="raise")


class ModelExport(Base):
    """A model as a zip, for others."""

    __tablename__ = "model_export"
    __table_args__ = (
        CheckConstraint("format IN ('official', 'native')", name="format_is_known"),
        UniqueConstraint("model_id", "format"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    model_id: Mapped[UUID] = mapped_column(ForeignKey("trained_model.id"))
    format: Mapped[str]
    file_key: Mapped[str | None] = mapped_column(ForeignKey("stored_object.key"))
    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class Prediction(Base):
    """A request to segment one image, and what came of it."""

    __tablename__ = "prediction"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    model_id: Mapped[UUID] = mapped_column(ForeignKey("trained_model.id"), index=True)
    file_ending: Mapped[str]
    choices: Mapped[dict[str, Any] | None]
    """`app.requests.PredictionChoices`; null, for the defaults, where an earlier release took the request."""
    segmentation_key: Mapped[str | None] = mapped_column(ForeignKey("stored_object.key"))
    preview_key: Mapped[str | None] = mapped_column(ForeignKey("stored_object.key"))
    probabilities_key: Mapped[str | None] = mapped_column(ForeignKey("stored_object.key"))
    properties_key: Mapped[str | None] = mapped_column(ForeignKey("stored_object.key"))
    """Where the case lies whose probabilities those are."""
    uncertainty_key: Mapped[str | None] = mapped_column(ForeignKey("stored_object.key"))
    volumes: Mapped[dict[str, Any] | None]
    timings: Mapped[dict[str, Any] | None]
    provenance: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)
    model: Mapped[TrainedModel] = relationship(lazy="raise")


class IdempotencyKey(Base):
    """A creating request that its client may send again: the same key finds what was created."""

    __tablename__ = "idempotency_key"

    key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    """SHA-256 of route, parameters and content; another request under the same key is refused."""
    resource_id: Mapped[UUID] = mapped_column(index=True)
    job_id: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, index=True)
