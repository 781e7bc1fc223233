"""Models from elsewhere and for others; versions and aliases of models; models that are deleted."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

NEW_KINDS = "kind IN ('import_model', 'export_model')"

UNUSABLE = "state IN ('importing', 'failed', 'deleted')"

NEW_COLUMNS = ("archive_key", "archive_sha256", "request", "image", "state", "origin", "version")

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Columns that must have a value have a default: the release before this one writes rows without them.
    with op.batch_alter_table("trained_model") as model:
        model.add_column(sa.Column("version", sa.Integer(), nullable=True))
        model.add_column(sa.Column("origin", sa.String(), nullable=False, server_default="trained"))
        model.add_column(sa.Column("state", sa.String(), nullable=False, server_default="ready"))
        model.add_column(sa.Column("image", JSON, nullable=True))
        model.add_column(sa.Column("request", JSON, nullable=True))
        model.add_column(sa.Column("archive_sha256", sa.String(), nullable=True))
        model.add_column(sa.Column("archive_key", sa.String(), nullable=True))
        model.create_check_constraint(
            op.f("ck_trained_model_origin_is_known"), "origin IN ('trained', 'imported')"
        )
        model.create_check_constraint(
            op.f("ck_trained_model_state_is_known"), "state IN ('importing', 'ready', 'failed', 'deleted')"
        )
        model.create_unique_constraint(op.f("uq_trained_model_name"), ["name", "version"])
        model.create_foreign_key(
            op.f("fk_trained_model_archive_key_stored_object"), "stored_object", ["archive_key"], ["key"]
        )
        model.create_index("ix_trained_model_archive_sha256", ["archive_sha256"])
    _number()
    with op.batch_alter_table("job") as job:
        job.add_column(sa.Column("model_id", sa.Uuid(), nullable=True))
        job.create_foreign_key(op.f("fk_job_model_id_trained_model"), "trained_model", ["model_id"], ["id"])
        job.create_index("ix_job_model_id", ["model_id"])
    op.create_table(
        "model_alias",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["trained_model.id"], name="fk_model_alias_model_id_trained_model"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_model_alias"),
        sa.UniqueConstraint("name", "alias", name="uq_model_alias_name"),
    )
    op.create_index("ix_model_alias_model_id", "model_alias", ["model_id"])
    op.create_table(
        "model_export",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("file_key", sa.String(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("format IN ('official', 'native')", name=op.f("ck_model_export_format_is_known")),
        sa.ForeignKeyConstraint(
            ["model_id"], ["trained_model.id"], name="fk_model_export_model_id_trained_model"
        ),
        sa.ForeignKeyConstraint(
            ["file_key"], ["stored_object.key"], name="fk_model_export_file_key_stored_object"
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job.id"], name="fk_model_export_job_id_job", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_model_export"),
        sa.UniqueConstraint("model_id", "format", name="uq_model_export_model_id"),
    )


def downgrade() -> None:
    """Take away what the older release does not know: aliases, exports, and models that are no use to it.

    Of a deleted model the row stays as long as predictions name it; the older release lists it, and cannot use it.
    Files of exports and of archives stay in the store.
    """
    objects = _keys("model_export", "file_key") | _keys("trained_model", "archive_key")
    for table in ("model_export", "model_alias"):
        op.drop_table(table)
    op.execute(f"DELETE FROM job_event WHERE job_id IN (SELECT id FROM job WHERE {NEW_KINDS})")  # noqa: S608
    op.execute(f"DELETE FROM job WHERE {NEW_KINDS}")  # noqa: S608
    op.execute(
        f"DELETE FROM trained_model WHERE {UNUSABLE}"  # noqa: S608
        " AND NOT EXISTS (SELECT 1 FROM prediction WHERE prediction.model_id = trained_model.id)"
    )
    with op.batch_alter_table("job") as job:
        job.drop_index("ix_job_model_id")
        job.drop_constraint(op.f("fk_job_model_id_trained_model"), type_="foreignkey")
        job.drop_column("model_id")
    with op.batch_alter_table("trained_model") as model:
        model.drop_index("ix_trained_model_archive_sha256")
        model.drop_constraint(op.f("fk_trained_model_archive_key_stored_object"), type_="foreignkey")
        model.drop_constraint(op.f("uq_trained_model_name"), type_="unique")
        model.drop_constraint(op.f("ck_trained_model_state_is_known"), type_="check")
        model.drop_constraint(op.f("ck_trained_model_origin_is_known"), type_="check")
        for name in NEW_COLUMNS:
            model.drop_column(name)
    stored = sa.table("stored_object", sa.column("key", sa.String()))
    for key in sorted(objects):
        op.execute(stored.delete().where(stored.c.key == key))


def _number() -> None:
    """Give the models that there are their versions: within a name, in the order in which they came."""
    op.execute(
        "UPDATE trained_model SET version = (SELECT count(*) FROM trained_model AS other"
        " WHERE other.name = trained_model.name AND (other.created_at < trained_model.created_at"
        " OR (other.created_at = trained_model.created_at AND other.id <= trained_model.id)))"
    )


def _keys(table: str, column: str) -> set[str]:
    """Return the keys of objects that a column names."""
    named = sa.table(table, sa.column(column)).c[column]
    return set(op.get_bind().scalars(sa.select(named).where(named.is_not(None))))
