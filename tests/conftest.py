"""Servers and databases for all tests that ask for them; started only then."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import servers
from servers import PostgresServer, RedisServer

from app.db.migrate import upgrade

TEMPLATE = "template_at_head"
"""A PostgreSQL database at head, to be copied."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL; each test makes databases of its own in it."""
    with servers.postgresql(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_at_head(postgres: PostgresServer) -> PostgresServer:
    """A PostgreSQL with a template that has all tables."""
    upgrade(postgres.create_database(TEMPLATE))
    return postgres


@pytest.fixture(scope="session")
def sqlite_at_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file at head, to be copied."""
    file = tmp_path_factory.mktemp("template") / "service.db"
    upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture
def sqlite_url(sqlite_at_head: Path, tmp_path: Path) -> str:
    """A SQLite file at head, of the test's own."""
    shutil.copy(sqlite_at_head, tmp_path / "service.db")
    return f"sqlite:///{tmp_path / 'service.db'}"


@pytest.fixture
def postgres_url(postgres_at_head: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database at head, of the test's own."""
    name = f"test_{uuid4().hex}"
    yield postgres_at_head.create_database(name, template=TEMPLATE)
    postgres_at_head.drop_database(name)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A database at head, of the test's own; a test that asks for one runs on both kinds.

    Where no database has a part in what a module tests, the module says which to take.
    """
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis; what earlier tests left in it may still be there."""
    with servers.redis_server() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of an empty Redis."""
    redis_server.empty()
    return redis_server.url
