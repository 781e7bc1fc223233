"""Alembic's entry: which database, which tables; one transaction, and one migration at a time."""

from alembic import context
from sqlalchemy import Connection, text

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
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": MIGRATION_LOCK})
    context.configure(
        connection=connection,
        target_metadata=TABLES,
        render_as_batch=is_sqlite,
        transactional_ddl=True,
        compare_server_default=True,
    )
    context.run_migrations()


def main() -> None:
    """Open the database that the caller named and migrate it within one transaction."""
    url = context.config.get_main_option("sqlalchemy.url")
    if url is None:
        raise ValueError("no database is named; run `nnunet-service migrate`")
    engine = open_engine(url)
    try:
        with engine.begin() as connection:
            migrate(connection)
    finally:
        engine.dispose()


main()
