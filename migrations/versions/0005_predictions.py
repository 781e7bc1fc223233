"""What clients choose of a prediction, and the files that they may ask for beside its label map."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

KEYS = ("probabilities_key", "properties_key", "uncertainty_key")

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # All may be null: the release before this one writes rows without them.
    with op.batch_alter_table("prediction") as prediction:
        prediction.add_column(sa.Column("choices", JSON, nullable=True))
        for name in KEYS:
            prediction.add_column(sa.Column(name, sa.String(), nullable=True))
            prediction.create_foreign_key(
                op.f(f"fk_prediction_{name}_stored_object"), "stored_object", [name], ["key"]
            )


def downgrade() -> None:
    """Take away the columns; the files stay, and the results of their jobs still name them.

    Jobs that wait lose what was chosen, which the older release would not understand: it segments with the defaults,
    and compares single configurations.
    """
    _forget("job", "payload", ("choices", "kept", "ensembling"))
    _forget("training", "request", ("ensembling",))
    with op.batch_alter_table("prediction") as prediction:
        for name in KEYS:
            prediction.drop_constraint(op.f(f"fk_prediction_{name}_stored_object"), type_="foreignkey")
            prediction.drop_column(name)
        prediction.drop_column("choices")


def _forget(table: str, column: str, names: Sequence[str]) -> None:
    """Leave in the records of a table only what the older release reads."""
    rows = sa.table(table, sa.column("id", sa.Uuid()), sa.column(column, JSON))
    bind = op.get_bind()
    for row_id, record in bind.execute(sa.select(rows.c.id, rows.c[column])).all():
        if record is not None and any(name in record for name in names):
            older = {name: value for name, value in record.items() if name not in names}
            bind.execute(rows.update().where(rows.c.id == row_id).values({column: older}))
