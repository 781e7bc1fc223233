"""Runs jobs as a worker does, and looks at what came of them in tables and store."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, undefer

from app.db.base import transaction
from app.db.models import Epoch, Job, StoredObject
from app.jobs import Lane
from app.services import claims
from app.services.resources import Resources
from app.settings import Settings
from tests.worker import plays
from worker.lifecycle import run_job
from worker.machine import Worker

PATIENCE_SECONDS = 20


def job(resources: Resources, job_id: UUID) -> Job:
    """Return a job's row."""
    with transaction(resources.readers) as session:
        return session.get_one(Job, job_id, options=[undefer(Job.result)])


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again, but not for ever."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def run_next(worker: Worker, resources: Resources) -> None:
    """Have a worker run the next job; there must be one."""
    with transaction(resources.readers) as session:
        job_id = claims.next_queued(session, list(Lane))
    assert job_id is not None
    assert run_job(worker, job_id)


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Do something in a thread while the block runs."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            act()
        except BaseException as failure:  # noqa: BLE001 - raised again below
            failures.append(failure)

    thread = threading.Thread(target=guarded)
    thread.start()
    yield
    thread.join()
    if failures:
        raise failures[0]


def objects(settings: Settings) -> set[str]:
    """Return the keys in the store."""
    return {
        str(file.relative_to(settings.resolved_store_dir))
        for file in settings.resolved_store_dir.rglob("*")
        if file.is_file()
    }


def rows(resources: Resources) -> set[str]:
    """Return the keys that the tables know."""
    with transaction(resources.readers) as session:
        return set(session.scalars(select(StoredObject.key)))


def epochs(resources: Resources) -> list[int]:
    """Return the epochs that were recorded, of all jobs."""
    with transaction(resources.readers) as session:
        return list(session.scalars(select(Epoch.epoch).order_by(Epoch.epoch)))


@contextmanager
def losing_the_next_answer(resources: Resources) -> Iterator[list[str]]:
    """Have the database go away once, after a commit that was made and before its answer."""
    lost: list[str] = []

    def lose(_session: Session) -> None:
        if not lost:
            lost.append("an answer")
            raise OperationalError("COMMIT", None, Exception("server closed the connection unexpectedly"))

    event.listen(resources.sessions, "after_commit", lose)
    yield lost
    event.remove(resources.sessions, "after_commit", lose)


@contextmanager
def started(settings: Settings, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker in a process of its own."""
    environment = settings.environment() | {"PYTHONPATH": str(plays.ROOT)}
    with subprocess.Popen([sys.executable, "-m", *command], env=environment) as process:
        try:
            yield process
        finally:
            process.kill()
