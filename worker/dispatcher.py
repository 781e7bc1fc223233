"""Laptop mode: poll the job table for some lanes and run what is there, without a broker."""

import logging
import signal
import time
from collections.abc import Collection
from types import FrameType
from typing import Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.db.base import is_outage, transaction
from app.jobs import Lane
from app.services import claims
from app.settings import Settings
from worker import upkeep
from worker.lifecycle import run_job
from worker.machine import Worker, open_worker, report_outage

log = logging.getLogger(__name__)

WAITED_FOR_SECONDS: Final = 0.05
"""Between two looks for predictions at most: somebody may wait, and a small one takes less than a second."""


def run(settings: Settings, lanes: Collection[Lane]) -> None:
    """Work until SIGTERM or SIGINT; a running job is asked for a checkpoint and given back.

    Args:
        settings: Of the service.
        lanes: Whose jobs to run, one at a time.
    """
    is_leaving = False

    def leave(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_leaving
        is_leaving = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    worker = open_worker(settings, lambda: is_leaving)
    log.info("worker started", extra={"lanes": sorted(lanes), "owner": worker.owner})
    upkeep.start(worker, lanes)
    try:
        if Lane.PREDICT in lanes:
            worker.warm_up()
        work(worker, lanes)
    finally:
        worker.cool_down()
    log.info("worker ended", extra={"owner": worker.owner})


def work(worker: Worker, lanes: Collection[Lane]) -> None:
    """Run one job after the other until the worker is asked to leave."""
    pause = worker.settings.poll_seconds
    if Lane.PREDICT in lanes:
        pause = min(pause, WAITED_FOR_SECONDS)
    while not worker.is_leaving():
        try:
            with transaction(worker.readers) as session:
                job_id = claims.next_queued(session, lanes)
        except (DBAPIError, PoolTimeoutError) as error:
            if not is_outage(error):
                raise
            report_outage(error)
            job_id = None
        if job_id is None or not run_job(worker, job_id):
            time.sleep(pause)
