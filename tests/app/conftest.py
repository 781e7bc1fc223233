"""A service on a fresh database for every test, of both kinds, spoken to over real HTTP."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.db.base import open_engine, open_readers, open_sessions
from app.main import create_app
from app.queue import PolledQueue
from app.services.resources import Resources
from app.settings import Settings
from app.storage import LocalStore
from tests.app.serving import served

Serve = Callable[[Settings], httpx.Client]


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(data_dir=tmp_path, database_url=database_url, max_wait_seconds=20)


@pytest.fixture
def resources(settings: Settings) -> Iterator[Resources]:
    engine = open_engine(settings.resolved_database_url)
    yield Resources(
        open_sessions(engine), open_readers(engine), LocalStore(settings.resolved_store_dir), PolledQueue()
    )
    engine.dispose()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a service with some settings; return a client of it."""
    with ExitStack() as stack:

        def start(settings: Settings) -> httpx.Client:
            address = stack.enter_context(served(create_app(settings)))
            return stack.enter_context(httpx.Client(base_url=address, timeout=30))

        yield start


@pytest.fixture
def client(serve: Serve, settings: Settings) -> httpx.Client:
    return serve(settings)
