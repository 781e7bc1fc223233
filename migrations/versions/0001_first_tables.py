"""First tables."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "idempotency_key",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("resource_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency_key"),
    )
    op.create_index("ix_idempotency_key_created_at", "idempotency_key", ["created_at"])
    op.create_index("ix_idempotency_key_resource_id", "idempotency_key", ["resource_id"])

    op.create_table(
        "stored_object",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_stored_object"),
    )
    op.create_table(
        "dataset",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("archive_key", sa.String(), nullable=False),
        sa.Column("description", JSON, nullable=True),
        sa.Column("reader", sa.String(), nullable=True),
        sa.Column("problems", JSON, nullable=False),
        sa.Column("fingerprint_key", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state IN ('ingesting', 'ready', 'invalid')", name=op.f("ck_dataset_state_is_known")
        ),
        sa.ForeignKeyConstraint(
            ["archive_key"], ["stored_object.key"], name="fk_dataset_archive_key_stored_object"
        ),
        sa.ForeignKeyConstraint(
            ["fingerprint_key"], ["stored_object.key"], name="fk_dataset_fingerprint_key_stored_object"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_dataset"),
        sa.UniqueConstraint("name", "version", name="uq_dataset_name"),
    )
    op.create_index("ix_dataset_created_at", "dataset", ["created_at"])
    op.create_index("ix_dataset_state", "dataset", ["state"])

    op.create_table(
        "dataset_case",
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.String(), nullable=False),
        sa.Column("shape", JSON, nullable=False),
        sa.Column("spacing", JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.id"], name="fk_dataset_case_dataset_id_dataset", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("dataset_id", "case_id", name="pk_dataset_case"),
    )
    op.create_table(
        "training",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("plans_key", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name="fk_training_dataset_id_dataset"),
        sa.ForeignKeyConstraint(
            ["plans_key"], ["stored_object.key"], name="fk_training_plans_key_stored_object"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_training"),
    )
    op.create_index("ix_training_created_at", "training", ["created_at"])
    op.create_index("ix_training_dataset_id", "training", ["dataset_id"])

    op.create_table(
        "trained_model",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("training_id", sa.Uuid(), nullable=True),
        sa.Column("dataset_id", sa.Uuid(), nullable=True),
        sa.Column("configuration", sa.String(), nullable=False),
        sa.Column("folds", JSON, nullable=False),
        sa.Column("channels", JSON, nullable=False),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("mean_dice", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("files", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name="fk_trained_model_dataset_id_dataset"),
        sa.ForeignKeyConstraint(
            ["training_id"], ["training.id"], name="fk_trained_model_training_id_training"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_trained_model"),
        sa.UniqueConstraint("training_id", name="uq_trained_model_training_id"),
    )
    op.create_index("ix_trained_model_created_at", "trained_model", ["created_at"])

    op.create_table(
        "prediction",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("file_ending", sa.String(), nullable=False),
        sa.Column("segmentation_key", sa.String(), nullable=True),
        sa.Column("preview_key", sa.String(), nullable=True),
        sa.Column("volumes", JSON, nullable=True),
        sa.Column("timings", JSON, nullable=True),
        sa.Column("provenance", JSON, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["trained_model.id"], name="fk_prediction_model_id_trained_model"
        ),
        sa.ForeignKeyConstraint(
            ["preview_key"], ["stored_object.key"], name="fk_prediction_preview_key_stored_object"
        ),
        sa.ForeignKeyConstraint(
            ["segmentation_key"], ["stored_object.key"], name="fk_prediction_segmentation_key_stored_object"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_prediction"),
    )
    op.create_index("ix_prediction_created_at", "prediction", ["created_at"])
    op.create_index("ix_prediction_model_id", "prediction", ["model_id"])

    op.create_table(
        "job",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("lane", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("payload", JSON, nullable=True),
        sa.Column("result", JSON, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.Column("dataset_id", sa.Uuid(), nullable=True),
        sa.Column("training_id", sa.Uuid(), nullable=True),
        sa.Column("prediction_id", sa.Uuid(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stage", sa.String(), nullable=True),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("eta_seconds", sa.Double(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(kind != 'training' AND state IN ('running', 'canceling')) = (lease_expires_at IS NOT NULL)",
            name=op.f("ck_job_lease_means_owned"),
        ),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name="fk_job_dataset_id_dataset"),
        sa.ForeignKeyConstraint(["parent_id"], ["job.id"], name="fk_job_parent_id_job", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["prediction_id"], ["prediction.id"], name="fk_job_prediction_id_prediction"),
        sa.ForeignKeyConstraint(["training_id"], ["training.id"], name="fk_job_training_id_training"),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
    )
    op.create_index("ix_job_claim", "job", ["lane", "state", "created_at"])
    op.create_index("ix_job_created_at", "job", ["created_at"])
    op.create_index("ix_job_dataset_id", "job", ["dataset_id"])
    op.create_index("ix_job_parent_id", "job", ["parent_id"])
    op.create_index("ix_job_prediction_id", "job", ["prediction_id"])
    op.create_index("ix_job_state", "job", ["state"])
    op.create_index("ix_job_training_id", "job", ["training_id"])

    op.create_table(
        "epoch",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("record", JSON, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_epoch_job_id_job", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "epoch", name="pk_epoch"),
    )
    op.create_table(
        "job_dependency",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("needs_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job.id"], name="fk_job_dependency_job_id_job", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["needs_id"], ["job.id"], name="fk_job_dependency_needs_id_job", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "needs_id", name="pk_job_dependency"),
    )
    op.create_index("ix_job_dependency_needs_id", "job_dependency", ["needs_id"])

    op.create_table(
        "job_event",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("before", sa.String(16), nullable=True),
        sa.Column("after", sa.String(16), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_job_event_job_id_job", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_job_event"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_event_job_id", "job_event", ["job_id"])


def downgrade() -> None:
    op.drop_table("job_event")
    op.drop_table("job_dependency")
    op.drop_table("epoch")
    op.drop_table("job")
    op.drop_table("prediction")
    op.drop_table("trained_model")
    op.drop_table("training")
    op.drop_table("dataset_case")
    op.drop_table("dataset")
    op.drop_table("stored_object")
    op.drop_table("idempotency_key")
