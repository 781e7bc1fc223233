"""Alembic's entry: which database, which tables; one transaction, and one migration at a time."""

from typing import Any

from alembic import context
from sqlalchemy import Connection, event, text

from app.db.base import Base, open_engine
from app.db.models import Job

MIGRATION_LOCK = 0x6E6E556E
"""Advisory lock of PostgreSQL that makes a second migration wait; SQLite's write lock does the same."""

TABLES = (Base.metadata, Job)[0]
"""Importing the models filled it."""


def migrate(connection: Connection) -> None:
    """Bring the schema where it is asked to be."""
    is_sqlite = connection.dialect.name == "sqlite"
    if not is_sqlite:
        connection.execute(text("SET LOCAL lock_timeout = 0"))  # A migration may wait for another one.
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": MIGRATION_LOCK})
    context.configure(
        connection=connection,
        target_metadata=TABLES,
        render_as_batch=is_sqlite,
        transactional_ddl=True,
        compare_server_default=True,
    )
    context.run_migrations()


def _without_foreign_keys(connection: Any, _record: object) -> None:
    """Let a table be made anew: dropping the old one would delete what points at its rows."""
    connection.execute("PRAGMA foreign_keys = OFF")


def _require_whole(connection: Connection) -> None:
    """Refuse a migration that leaves rows which point nowhere.

    Raises:
        RuntimeError: There are some; nothing was changed.
    """
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        raise RuntimeError(f"the migration would leave {len(broken)} row(s) that point nowhere")


def main() -> None:
    """Open the database that the caller named and migrate it within one transaction."""
    url = context.config.get_main_option("sqlalchemy.url")
    if url is None:
        raise ValueError("no database is named; run `nnunet-service migrate`")
    engine = open_engine(url)
    is_sqlite = engine.dialect.name == "sqlite"
    if is_sqlite:
        event.listen(engine, "connect", _without_foreign_keys)
    try:
        with engine.begin() as connection:
            migrate(connection)
            if is_sqlite:
                _require_whole(connection)
    finally:
        engine.dispose()


main()
