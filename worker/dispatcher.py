"""Laptop mode: poll the job table for some lanes, run what is there, take back what others left."""

import argparse
import logging
import os
import signal
import socket
import time
from collections.abc import Collection
from types import FrameType
from uuid import uuid4

from app import log as logs
from app.db.base import open_engine, open_sessions, transaction
from app.jobs import Lane
from app.services import jobs
from app.settings import Settings
from worker.lifecycle import Worker, run_job

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0
"""Between two looks for jobs whose worker is gone."""


def main() -> None:
    """Work on the lanes of the command line, with the settings of the environment."""
    parser = argparse.ArgumentParser(description="Run the jobs of some lanes.")
    parser.add_argument("--lanes", required=True, help="cpu, train, predict; comma separated")
    lanes = parser.parse_args().lanes.split(",")
    if unknown := set(lanes) - set(Lane):
        parser.error(f"there is no lane {', '.join(sorted(unknown))}; choose among {', '.join(Lane)}")
    settings = Settings()
    logs.configure(settings.log_format, settings.log_level)
    run(settings, [Lane(lane) for lane in lanes])


def run(settings: Settings, lanes: Collection[Lane]) -> None:
    """Work until SIGTERM or SIGINT; a running job is asked for a checkpoint and given back.

    Args:
        settings: Of the service.
        lanes: Whose jobs to run, one at a time.
    """
    sessions = open_sessions(open_engine(settings.resolved_database_url))
    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
    worker = Worker(settings, sessions, owner)

    def leave(_number: int, _frame: FrameType | None) -> None:
        worker.is_leaving = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    log.info("worker started", extra={"lanes": sorted(lanes), "owner": owner})
    try:
        if Lane.PREDICT in lanes:
            worker.warm_up()
        work(worker, lanes)
    finally:
        worker.cool_down()
    log.info("worker ended", extra={"owner": owner})


def work(worker: Worker, lanes: Collection[Lane]) -> None:
    """Claim and run jobs, one after the other, until the worker is asked to leave."""
    settings, swept_at = worker.settings, float("-inf")
    while not worker.is_leaving:
        now = time.monotonic()
        if now - swept_at >= min(SWEEP_SECONDS, settings.lease_seconds / 2):
            swept_at = now
            with transaction(worker.sessions) as session:
                jobs.sweep(session)
        with transaction(worker.sessions) as session:
            claim = jobs.claim(session, lanes, worker.owner, settings.lease_seconds)
        if claim is None:
            time.sleep(settings.poll_seconds)
        else:
            run_job(worker, claim)


if __name__ == "__main__":
    main()
