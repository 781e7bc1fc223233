"""Plans of datasets, each under its name; notes and class frequencies of a dataset."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

OF_NO_TRAINING = "kind = 'plan' AND training_id IS NULL"

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Columns that must have a value have a default, and a dataset or job takes its plans along when it is
    # deleted: the release before this one knows of neither.
    with op.batch_alter_table("dataset") as dataset:
        for name in ("notes", "classes"):
            dataset.add_column(sa.Column(name, JSON, nullable=False, server_default=sa.text("'[]'")))
    op.create_table(
        "plan",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("plans_key", sa.String(), nullable=True),
        sa.Column("configurations", JSON, nullable=False),
        sa.Column("request", JSON, nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "origin IN ('planned', 'uploaded', 'moved')", name=op.f("ck_plan_origin_is_known")
        ),
        sa.CheckConstraint("state IN ('planning', 'ready', 'failed')", name=op.f("ck_plan_state_is_known")),
        sa.CheckConstraint(
            "state != 'ready' OR plans_key IS NOT NULL", name=op.f("ck_plan_ready_means_readable")
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.id"], name="fk_plan_dataset_id_dataset", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_plan_job_id_job", ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["plans_key"], ["stored_object.key"], name="fk_plan_plans_key_stored_object"),
        sa.PrimaryKeyConstraint("id", name="pk_plan"),
        sa.UniqueConstraint("dataset_id", "name", name="uq_plan_dataset_id"),
    )


def downgrade() -> None:
    # What the older release does not know: a plan that is kept for itself, and the job that makes one.
    op.drop_table("plan")
    op.execute(f"DELETE FROM job_event WHERE job_id IN (SELECT id FROM job WHERE {OF_NO_TRAINING})")  # noqa: S608
    op.execute(f"DELETE FROM job WHERE {OF_NO_TRAINING}")  # noqa: S608
    with op.batch_alter_table("dataset") as dataset:
        for name in ("classes", "notes"):
            dataset.drop_column(name)
