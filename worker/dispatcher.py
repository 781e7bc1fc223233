"""Laptop mode: poll the job table for some lanes, run what is there, take back what others left."""

import argparse
import logging
import os
import signal
import socket
import time
from collections.abc import Collection
from uuid import uuid4

from app import log as logs
from app.db.base import open_engine, open_sessions, transaction
from app.jobs import Lane as LaneName
from app.services import jobs
from app.settings import Settings
from worker.lifecycle import Lane, run_job

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0
"""Between two looks for jobs whose worker is gone."""


def main() -> None:
    """Work on the lanes of the command line, with the settings of the environment."""
    parser = argparse.ArgumentParser(description="Run the jobs of some lanes.")
    parser.add_argument("--lanes", required=True, help="cpu, train, predict; comma separated")
    lanes = parser.parse_args().lanes.split(",")
    unknown = set(lanes) - set(LaneName)
    if unknown:
        parser.error(f"there is no lane {', '.join(sorted(unknown))}; choose among {', '.join(LaneName)}")
    settings = Settings()
    logs.configure(settings.log_format, settings.log_level)
    run(settings, [LaneName(lane) for lane in lanes])


def run(settings: Settings, lanes: Collection[LaneName]) -> None:
    """Work until SIGTERM or SIGINT; a running job is asked for a checkpoint and given back.

    Args:
        settings: Of the service.
        lanes: Whose jobs to run, one at a time.
    """
    sessions = open_sessions(open_engine(settings.resolved_database_url))
    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
    lane = Lane(settings, sessions, owner)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: lane.leaving.set())
    log.info("worker started", extra={"lanes": sorted(lanes), "owner": owner})
    try:
        if LaneName.PREDICT in lanes:
            lane.warm_up()
        _loop(lane, lanes)
    finally:
        lane.cool_down()
    log.info("worker ended", extra={"owner": owner})


def _loop(lane: Lane, lanes: Collection[LaneName]) -> None:
    """Claim and run, one job after the other."""
    swept_at = float("-inf")
    while not lane.leaving.is_set():
        now = time.monotonic()
        if now - swept_at >= min(SWEEP_SECONDS, lane.settings.lease_seconds / 2):
            swept_at = now
            with transaction(lane.sessions) as session:
                jobs.sweep(session)
        with transaction(lane.sessions) as session:
            claim = jobs.claim(session, lanes, lane.owner, lane.settings.lease_seconds)
        if claim is None:
            lane.leaving.wait(lane.settings.poll_seconds)
        else:
            run_job(lane, claim)


if __name__ == "__main__":
    main()
