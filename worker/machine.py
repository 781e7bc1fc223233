"""What a worker keeps from job to job: its settings, connections and warm predictor, and patience with them."""

import logging
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import uuid4

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from app.db.base import Sessions, is_outage, open_engine, open_readers, open_sessions
from app.queue import Queue, open_queue
from app.services.transitions import announced
from app.settings import GIB, Settings
from app.storage import LocalStore
from core.io.archive import ArchiveLimits
from worker.process import Child
from worker.workspace import Workspace

log = logging.getLogger(__name__)

T = TypeVar("T")

INSIST_SECONDS = 0.5
"""Between two tries to write to a database that is away."""

PREDICTOR = "worker.predictor"


@dataclass
class Worker:
    """What a worker keeps from job to job."""

    settings: Settings
    sessions: Sessions
    readers: Sessions
    queue: Queue
    owner: str
    is_leaving: Callable[[], bool] = lambda: False
    """Whether the worker was asked to end: its job is then given back."""
    warm: Child | None = None
    """The predictor, once there was a prediction."""
    transfers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="transfers")
    )
    """Copies files to the store while the lease goes on being renewed."""

    def start(self, module: str) -> Child:
        """Start a child."""
        return Child(module, self.settings.child_environment())

    def workspace(self) -> Workspace:
        """Open the scratch folder and the store."""
        settings = self.settings
        limits = ArchiveLimits(
            files=settings.max_archive_files,
            unpacked_bytes=int(settings.max_unpacked_gib * GIB),
            ratio=settings.max_compression_ratio,
        )
        store = LocalStore(settings.resolved_store_dir)
        return Workspace(settings.resolved_workspace_dir, store, limits)

    def warm_up(self) -> Child:
        """Return the predictor, started now if it is not running."""
        if self.warm is None or not self.warm.is_alive:
            self.cool_down()
            self.warm = self.start(PREDICTOR)
        return self.warm

    def cool_down(self) -> None:
        """End the predictor."""
        if self.warm is not None:
            self.warm.close()
            self.warm = None


def open_worker(settings: Settings, is_leaving: Callable[[], bool]) -> Worker:
    """Connect a worker to database and queue, under a name of its own.

    Args:
        settings: Of the service.
        is_leaving: Whether the worker was asked to end.
    """
    engine = open_engine(settings.resolved_database_url)
    return Worker(
        settings=settings,
        sessions=open_sessions(engine),
        readers=open_readers(engine),
        queue=open_queue(settings.broker_url),
        owner=f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}",
        is_leaving=is_leaving,
    )


def insist(worker: Worker, write: Callable[[Session], T]) -> T:
    """Run a transaction, and again for as long as the database is away: without it there is nothing to do.

    Args:
        worker: This worker.
        write: May run several times; a commit that went unanswered may have been made.

    Raises:
        OperationalError: The database was still away when the worker was asked to end.
    """
    while True:
        try:
            with announced(worker.sessions, worker.queue) as session:
                return write(session)
        except (DBAPIError, PoolTimeoutError) as error:
            if not is_outage(error) or worker.is_leaving():
                raise
            report_outage(error)
            time.sleep(INSIST_SECONDS)


def report_outage(error: Exception) -> None:
    """Say that the database is away, in one line."""
    log.warning("the database does not answer", extra={"error": repr(getattr(error, "orig", error))})
