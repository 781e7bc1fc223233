"""Plans of datasets, each under its name; notes and class frequencies of a dataset."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

STORED_OBJECT = sa.table("stored_object", sa.column("key", sa.String()))

NAMING_OBJECTS = (
    ("dataset", "archive_key"),
    ("dataset", "fingerprint_key"),
    ("training", "plans_key"),
    ("prediction", "segmentation_key"),
    ("prediction", "preview_key"),
)
"""Columns that name objects, but for those of this migration."""

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
    """Take away what the older release does not know: plans that are kept for themselves, and jobs that make them.

    With them go the rows of the objects that nothing else names. Their files stay in the store, a few kilobytes
    per plan below `plans/` and `plan/`: the sweep for orphans leaves alone what belongs to no job that it knows.
    """
    keys = _keys_of_plans()
    op.drop_table("plan")
    op.execute(f"DELETE FROM job_event WHERE job_id IN (SELECT id FROM job WHERE {OF_NO_TRAINING})")  # noqa: S608
    op.execute(f"DELETE FROM job WHERE {OF_NO_TRAINING}")  # noqa: S608
    for key in sorted(keys - _keys_in_use()):
        op.execute(STORED_OBJECT.delete().where(STORED_OBJECT.c.key == key))
    with op.batch_alter_table("dataset") as dataset:
        for name in ("classes", "notes"):
            dataset.drop_column(name)


def _keys_of_plans() -> set[str]:
    """Return the keys of all that plans name, and that the jobs which made them stored."""
    bind = op.get_bind()
    job = sa.table("job", sa.column("id", sa.Uuid()))
    made = bind.scalars(sa.select(job.c.id).where(sa.text(OF_NO_TRAINING))).all()
    stored = [
        key
        for job_id in made
        for key in bind.scalars(
            sa.select(STORED_OBJECT.c.key).where(STORED_OBJECT.c.key.like(f"plan/{job_id}/%"))
        )
    ]
    plan = sa.table("plan", sa.column("plans_key", sa.String()))
    named = bind.scalars(sa.select(plan.c.plans_key).where(plan.c.plans_key.is_not(None)))
    return {*stored, *named}


def _keys_in_use() -> set[str]:
    """Return the keys that other tables name."""
    bind = op.get_bind()
    columns = [sa.table(table, sa.column(name)).c[name] for table, name in NAMING_OBJECTS]
    return {key for column in columns for key in bind.scalars(sa.select(column).where(column.is_not(None)))}
