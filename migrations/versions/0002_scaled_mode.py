"""Scaled mode: priorities, announcements, pausing, published checkpoints, history with epochs."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

NUMBERED = {"sqlite_autoincrement": True}
"""Of the table that is made anew on SQLite: ids grow, also after a deletion."""

LEASED = "(kind != 'training' AND state IN ({states})) = (lease_expires_at IS NOT NULL)"

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Columns that must have a value have a default: the release before this one writes rows without them.
    with op.batch_alter_table("job") as job:
        job.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="6"))
        job.add_column(sa.Column("reached", sa.Integer(), nullable=False, server_default="0"))
        job.add_column(sa.Column("checkpoint", JSON, nullable=True))
        job.add_column(sa.Column("announced_at", sa.DateTime(timezone=True), nullable=True))
        job.drop_constraint(op.f("ck_job_lease_means_owned"), type_="check")
        job.create_check_constraint(
            op.f("ck_job_lease_means_owned"), LEASED.format(states="'running', 'canceling', 'pausing'")
        )
        job.drop_index("ix_job_claim")
        job.create_index("ix_job_claim", ["state", "lane", "priority", "created_at"])
    op.execute("UPDATE job SET priority = CASE lane WHEN 'predict' THEN 0 WHEN 'cpu' THEN 6 ELSE 9 END")
    op.execute("UPDATE job SET announced_at = created_at WHERE state = 'queued'")
    op.execute(
        "UPDATE job SET reached = (SELECT coalesce(max(epoch) + 1, 0) FROM epoch WHERE epoch.job_id = job.id)"
    )
    with op.batch_alter_table("job_event", table_kwargs=NUMBERED) as event:
        event.add_column(sa.Column("kind", sa.String(16), nullable=False, server_default="state"))
        event.add_column(sa.Column("content", JSON, nullable=True))


def downgrade() -> None:
    # What the older release does not know: a paused job is queued, its history keeps transitions alone.
    op.execute("DELETE FROM job_event WHERE kind != 'state' OR before = 'pausing' OR after = 'pausing'")
    op.execute("UPDATE job_event SET before = 'queued' WHERE before = 'paused'")
    op.execute("UPDATE job_event SET after = 'queued' WHERE after = 'paused'")
    op.execute("UPDATE job SET state = 'running' WHERE state = 'pausing'")
    op.execute("UPDATE job SET state = 'queued' WHERE state = 'paused'")
    with op.batch_alter_table("job_event", table_kwargs=NUMBERED) as event:
        event.drop_column("content")
        event.drop_column("kind")
    with op.batch_alter_table("job") as job:
        job.drop_index("ix_job_claim")
        job.create_index("ix_job_claim", ["lane", "state", "created_at"])
        job.drop_constraint(op.f("ck_job_lease_means_owned"), type_="check")
        job.create_check_constraint(
            op.f("ck_job_lease_means_owned"), LEASED.format(states="'running', 'canceling'")
        )
        for name in ("announced_at", "checkpoint", "reached", "priority"):
            job.drop_column(name)
