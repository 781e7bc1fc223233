"""Naming of constraints, column types, the engine and its sessions."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Enum,
    MetaData,
    String,
    TypeDecorator,
    Uuid,
    create_engine,
    event,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from app.jobs import EventKind, JobKind, JobState, Lane

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Every constraint has a name, so that a migration can drop it on both databases."""

BUSY_TIMEOUT_SECONDS = 30
"""How long SQLite waits for another process's write; transactions here last milliseconds."""

CONNECTIONS = 15
"""How many a process keeps, opened as they are needed; further threads wait for one. Connections beyond what
a pool keeps would be opened and closed with each transaction, which costs PostgreSQL a process each time."""

POSTGRESQL_OPTIONS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "options": "-c idle_in_transaction_session_timeout=5000 -c lock_timeout=10000 -c timezone=UTC",
}
"""Nobody waits long for a server that is away or vanished, nor for the locks of a process that froze in a
transaction: those here last milliseconds."""

READ_ONLY = "25006"
"""SQLSTATE of a server that takes no writes, as while another one takes its place."""

READING = "postgresql_readonly"
"""Execution option of connections that only read; SQLite's are told by it, too."""

NOT_FOR_JSONB = dict.fromkeys((0, *range(0xD800, 0xE000)), "\N{REPLACEMENT CHARACTER}")
"""What PostgreSQL keeps in no JSON: the character NUL and halves of surrogate pairs, from names of files."""

JsonValue = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def now() -> datetime:
    """Return the time of this machine in UTC; leases use the database's clock instead."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time; SQLite forgets the zone, so it is stored in UTC and given back with it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert to UTC on the way in."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Attach UTC on the way out."""
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


def _by_value(kind: type[StrEnum]) -> Enum:
    """Store an enumeration by its value, as text without a database type of its own."""
    return Enum(
        kind, native_enum=False, length=16, values_callable=lambda members: [m.value for m in members]
    )


class Base(DeclarativeBase):
    """Common types of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        dict[str, Any]: JsonValue,
        list[Any]: JsonValue,
        str: String(),
        UUID: Uuid(),
        JobKind: _by_value(JobKind),
        JobState: _by_value(JobState),
        EventKind: _by_value(EventKind),
        Lane: _by_value(Lane),
    }


def open_engine(url: str) -> Engine:
    """Open the database; a SQLite file is set up for several processes.

    Args:
        url: SQLAlchemy URL, `sqlite:////folder/service.db` or `postgresql+psycopg://…`.
    """
    common: dict[str, Any] = {
        "pool_size": CONNECTIONS,
        "max_overflow": 0,
        "json_serializer": _json_of,
    }
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, connect_args=POSTGRESQL_OPTIONS, **common)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, **common)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _json_of(value: Any) -> str:
    """Write JSON that both databases keep."""
    return json.dumps(_storable(value), ensure_ascii=False)


def _storable(value: Any) -> Any:
    match value:
        case str():
            return value.translate(NOT_FOR_JSONB)
        case dict():
            return {_storable(key): _storable(item) for key, item in value.items()}
        case list() | tuple():
            return [_storable(item) for item in value]
        case _:
            return value


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Readers and one writer side by side; foreign keys; transactions begun by us, not by the driver."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    """Take the write lock at the start: a deferred transaction that upgrades late fails without waiting.

    One that only reads takes no lock, so that following a job never waits for who writes.
    """
    reads = connection.get_execution_options().get(READING, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


Sessions = sessionmaker[Session]


def open_sessions(engine: Engine) -> Sessions:
    """Return the factory of sessions that may write; objects stay readable after a commit."""
    return sessionmaker(engine, expire_on_commit=False)


def open_readers(engine: Engine) -> Sessions:
    """Return the factory of sessions that only read, from one snapshot each."""
    reading = engine.execution_options(**{READING: True})
    if engine.dialect.name != "sqlite":  # There a transaction reads from one snapshot anyway.
        reading = reading.execution_options(isolation_level="REPEATABLE READ")
    return sessionmaker(reading, expire_on_commit=False, autoflush=False)


def is_outage(error: BaseException) -> bool:
    """Whether the database was away or busy, so that the same work may succeed later.

    After such an error of a commit nobody knows whether it was made.
    """
    if isinstance(error, OperationalError | InterfaceError | PoolTimeoutError):
        return True
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated or getattr(error.orig, "sqlstate", None) == READ_ONLY
    )


@contextmanager
def transaction(sessions: Sessions) -> Iterator[Session]:
    """Run one short transaction; no file work inside."""
    with sessions.begin() as session:
        yield session
