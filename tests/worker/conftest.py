"""Real tables, a real store, and workers whose children play what the job's archive says."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.db.base import open_engine, open_readers, open_sessions
from app.queue import PolledQueue
from app.services import datasets
from app.services.resources import Resources, Submission
from app.settings import Settings
from app.storage import LocalStore
from tests.app.playing import incoming, zip_bytes
from tests.worker.plays import PlayingWorker
from worker.machine import Worker


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Leases that run out within a test."""
    return Settings(
        data_dir=tmp_path,
        database_url=database_url,
        lease_seconds=2,
        heartbeat_seconds=0.1,
        poll_seconds=0.05,
        stop_grace_seconds=1,
        threads=1,
    )


@pytest.fixture
def resources(settings: Settings) -> Iterator[Resources]:
    engine = open_engine(settings.resolved_database_url)
    yield Resources(
        open_sessions(engine), open_readers(engine), LocalStore(settings.resolved_store_dir), PolledQueue()
    )
    engine.dispose()


@pytest.fixture
def worker(settings: Settings, resources: Resources) -> Worker:
    """A worker with real children, run by the test itself."""
    return Worker(settings, resources.sessions, resources.readers, resources.queue, "a test")


@pytest.fixture
def player(settings: Settings, resources: Resources) -> PlayingWorker:
    """A worker whose children play."""
    return PlayingWorker(settings, resources.sessions, resources.readers, resources.queue, "a test")


Order = Callable[[str], Submission]


@pytest.fixture
def order(resources: Resources) -> Order:
    """Queue a job whose child does what a function of tests/worker/plays.py says."""

    def submit(play: str) -> Submission:
        return datasets.upload(resources, play, incoming(resources, zip_bytes([play])), None)

    return submit
