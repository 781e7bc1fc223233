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

    Jobs that wait lose what was chosen, which the older release would not understand: it segments with the defaults.
    """
    _forget_choices()
    with op.batch_alter_table("prediction") as prediction:
        for name in KEYS:
            prediction.drop_constraint(op.f(f"fk_prediction_{name}_stored_object"), type_="foreignkey")
            prediction.drop_column(name)
        prediction.drop_column("choices")


def _forget_choices() -> None:
    """Leave in the payloads of predictions only what the older release reads."""
    job = sa.table(
        "job", sa.column("id", sa.Uuid()), sa.column("kind", sa.String()), sa.column("payload", JSON)
    )
    bind = op.get_bind()
    for job_id, payload in bind.execute(
        sa.select(job.c.id, job.c.payload).where(job.c.kind == "predict")
    ).all():
        if payload is not None and "choices" in payload:
            older = {name: value for name, value in payload.items() if name != "choices"}
            bind.execute(job.update().where(job.c.id == job_id).values(payload=older))
