"""A PostgreSQL and a Redis for all tests that ask for one; started only then."""

from collections.abc import Iterator

import pytest
import servers
from servers import PostgresServer, RedisServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL; each test makes databases of its own in it."""
    with servers.postgresql(durable=False) as server:
        yield server


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
