"""What a worker does beside its jobs: take back what others left, announce again, clean up, show that it lives."""

import logging
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from app import alive
from app.db.base import is_outage, transaction
from app.jobs import JobKind, Lane
from app.services import sweeping
from app.services.outcomes import KEYS_PER_QUERY
from app.services.transitions import announced
from app.settings import GIB
from worker.cleaning import clean_scratch
from worker.machine import Worker, report_outage

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0
"""Between two rounds, or half a lease if that is shorter."""

CLEANING_SECONDS = 600.0
"""Between two looks for what jobs left on this machine that have ended elsewhere, and how long it lies untouched."""

COLLECTING_SECONDS = 6 * 3600.0
"""Between two looks for objects that no row names."""

ORPHAN_SECONDS = 24 * 3600.0
"""A file is in the store before its row; after a day none will come."""

PAUSE_SECONDS = 0.5
"""Between two looks at the clock."""


def start(worker: Worker, lanes: Collection[Lane]) -> None:
    """Begin the rounds, in a thread that ends with the process."""
    Thread(target=_go_round, args=(worker, lanes), name="upkeep", daemon=True).start()


def show(worker: Worker, beat: Path, lanes: Collection[Lane]) -> None:
    """Show that this worker lives: to its machine by a file, and to the service by the queue."""
    alive.touch(beat)
    worker.queue.show(lanes, alive.STALE_SECONDS)


def sweep(worker: Worker) -> None:
    """Take back jobs whose worker is gone, and announce those whose message may be.

    Each job is a transaction of its own, so that one that cannot be taken back keeps no other.
    """
    settings = worker.settings
    with transaction(worker.readers) as session:
        expired = sweeping.expired(session)
    for job_id in expired:
        with announced(worker.sessions, worker.queue) as session:
            if sweeping.take_back(session, job_id, settings.max_crashes):
                log.warning("a job was taken back: its worker fell silent", extra={"taken_job": str(job_id)})
    messages = worker.queue.messages()
    if messages:
        with announced(worker.sessions, worker.queue) as session:
            repeated = sweeping.announce_again(session, messages, settings.lease_seconds)
        if repeated:
            log.warning("jobs were announced again", extra={"jobs": repeated})


def clean(worker: Worker) -> None:
    """Remove what jobs left that have ended, on whatever machine they did: trainings, files to be handed over."""
    workspace = worker.workspace()
    trainings = workspace.trainings(untouched_for_seconds=CLEANING_SECONDS)
    outboxes = workspace.outboxes(untouched_for_seconds=CLEANING_SECONDS)
    left = {*trainings, *outboxes.values()}
    if left:
        with transaction(worker.readers) as session:
            needed = sweeping.still_needed(session, left)
        for job_id in set(trainings) - needed:
            workspace.forget_training(job_id)
        for folder, job_id in outboxes.items():
            if job_id not in needed:
                shutil.rmtree(folder, ignore_errors=True)


def make_room(worker: Worker) -> None:
    """Remove from the scratch folder what no job will take up again, and what is over its budget."""
    settings = worker.settings
    clean_scratch(settings.resolved_workspace_dir, settings.workspace_gib * GIB)


def collect(worker: Worker) -> None:
    """Delete what jobs left that have ended: files of a process that died before their row was written.

    Only files of jobs that this database knows: a service that is started with another database, or before
    a backup is restored into it, must not empty the store.
    """
    store = worker.workspace().store
    for kind in JobKind:
        old = store.keys(f"{kind}/", older_than_seconds=ORPHAN_SECONDS)
        for start in range(0, len(old), KEYS_PER_QUERY):
            with transaction(worker.readers) as session:
                orphans = sweeping.orphans(session, old[start : start + KEYS_PER_QUERY])
            for key in orphans:
                store.delete(key)
            if orphans:
                log.warning("objects were deleted that no row names", extra={"objects": len(orphans)})


def _go_round(worker: Worker, lanes: Collection[Lane]) -> None:
    """Do all of this until the process ends; whatever goes wrong in one round, there is a next one."""
    beat = alive.beat_file(worker.settings.resolved_workspace_dir / alive.FOLDER_NAME, lanes)
    often = min(SWEEP_SECONDS, worker.settings.lease_seconds / 2)
    rounds = [
        _Round(often, lambda: show(worker, beat, lanes)),
        _Round(often, lambda: sweep(worker)),
        _Round(CLEANING_SECONDS, lambda: clean(worker)),
        _Round(CLEANING_SECONDS, lambda: make_room(worker)),
    ]
    if Lane.CPU in lanes:
        rounds.append(_Round(COLLECTING_SECONDS, lambda: collect(worker)))
    while True:
        for one in rounds:
            one.go_if_due()
        time.sleep(PAUSE_SECONDS)


@dataclass
class _Round:
    """Something that is done every now and then."""

    every_seconds: float
    act: Callable[[], None]
    done_at: float = float("-inf")

    def go_if_due(self) -> None:
        """Do it if it is time to."""
        if time.monotonic() - self.done_at < self.every_seconds:
            return
        self.done_at = time.monotonic()
        try:
            self.act()
        except Exception as error:
            if is_outage(error):
                report_outage(error)
            else:
                log.exception("a round of upkeep failed")
