"""The schema's version: where the database is, where the code needs it, and the way from one to the other."""

from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

HEAD = "head"
"""The newest revision."""

NOTHING = "base"
"""Before the first revision: an empty database."""


def upgrade(url: str, revision: str = HEAD) -> None:
    """Bring the database to a revision, by default the newest; a folder for SQLite must exist."""
    command.upgrade(configuration(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Go back to an older revision."""
    command.downgrade(configuration(url), revision)


def is_at_head(connection: Connection) -> bool:
    """Whether the database has the schema that this code was written for."""
    current = MigrationContext.configure(connection).get_current_heads()
    return set(current) == set(ScriptDirectory.from_config(configuration("")).get_heads())


def configuration(url: str) -> Config:
    """Return what Alembic needs to know; it reads no file of its own."""
    config = Config()
    config.set_main_option("script_location", str(Path(str(files("migrations")))))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config
