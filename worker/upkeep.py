"""What a worker does beside its jobs: take back what others left, announce again, clean up, show that it lives."""

import logging
import time
from collections.abc import Collection
from threading import Thread

from sqlalchemy.exc import DBAPIError

from app import alive
from app.db.base import is_outage
from app.jobs import Lane
from app.services import jobs
from app.services.transitions import announced
from worker.machine import Worker

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0
"""Between two rounds, or half a lease if that is shorter."""

CLEANING_SECONDS = 600.0
"""Between two looks for folders of trainings that have ended elsewhere."""


def start(worker: Worker, lanes: Collection[Lane]) -> None:
    """Begin the rounds, in a thread that ends with the process."""
    Thread(target=_go_round, args=(worker, lanes), name="upkeep", daemon=True).start()


def sweep(worker: Worker) -> None:
    """Take back jobs whose worker is gone, and announce those whose message may be."""
    settings = worker.settings
    with announced(worker.sessions, worker.queue) as session:
        taken = jobs.sweep(session, settings.max_crashes)
    lanes = worker.queue.silent_lanes()
    repeated = 0
    if lanes:
        with announced(worker.sessions, worker.queue) as session:
            repeated = jobs.announce_again(session, lanes, settings.lease_seconds)
    if taken or repeated:
        log.warning("jobs were taken back or announced again", extra={"taken": taken, "repeated": repeated})


def clean(worker: Worker) -> None:
    """Remove the folders of trainings that have ended, on whatever machine they did."""
    workspace = worker.workspace()
    left = workspace.trainings()
    if left:
        with announced(worker.sessions, worker.queue) as session:
            needed = jobs.still_needed(session, left)
        for job_id in set(left) - needed:
            workspace.forget_training(job_id)


def _go_round(worker: Worker, lanes: Collection[Lane]) -> None:
    """Do all of this until the process ends."""
    pause = min(SWEEP_SECONDS, worker.settings.lease_seconds / 2)
    cleaned_at = float("-inf")
    beat = alive.beat_file(worker.settings.resolved_workspace_dir / alive.FOLDER_NAME, lanes)
    while True:
        try:
            alive.touch(beat)
            sweep(worker)
            if time.monotonic() - cleaned_at >= CLEANING_SECONDS:
                clean(worker)
                cleaned_at = time.monotonic()
        except DBAPIError as error:
            if not is_outage(error):
                log.exception("a sweep failed")
            log.warning("the database does not answer", extra={"error": repr(error.orig)})
        except OSError:
            log.exception("the workspace cannot be used")
        time.sleep(pause)
