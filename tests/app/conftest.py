"""A service on a fresh SQLite file for every test, spoken to over real HTTP."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.db.base import open_engine, open_readers, open_sessions
from app.db.migrate import upgrade
from app.main import create_app
from app.queue import PolledQueue
from app.services.resources import Resources
from app.settings import Settings
from app.storage import LocalStore
from tests.app.serving import served

Serve = Callable[[Settings], httpx.Client]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file at head, to be copied."""
    file = tmp_path_factory.mktemp("template") / "service.db"
    upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture
def settings(tmp_path: Path, migrated: Path) -> Settings:
    shutil.copy(migrated, tmp_path / "service.db")
    return Settings(data_dir=tmp_path, max_wait_seconds=20)


@pytest.fixture
def resources(settings: Settings) -> Iterator[Resources]:
    engine = open_engine(settings.resolved_database_url)
    yield Resources(
        open_sessions(engine), open_readers(engine), LocalStore(settings.store_dir), PolledQueue()
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
