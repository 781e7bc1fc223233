"""The worker process: with a broker a Celery worker whose one task calls run_job, without one a dispatcher."""

import argparse
import logging
import mmap
import warnings
from collections.abc import Collection
from uuid import UUID

from celery import Celery, signals
from celery.platforms import SecurityWarning

from app import log as logs
from app.jobs import PRIORITIES, Lane
from app.queue import RUN_JOB, celery_application
from app.settings import Settings
from worker import dispatcher, upkeep
from worker.child import end_with_parent
from worker.lifecycle import run_job
from worker.machine import Worker, open_worker

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""How long the process that runs jobs may take to come up on a busy machine."""


def main() -> None:
    """Work on the lanes of the command line, with the settings of the environment."""
    parser = argparse.ArgumentParser(description="Run the jobs of some lanes.")
    parser.add_argument("--lanes", required=True, help="cpu, train, predict; comma separated")
    names = parser.parse_args().lanes.split(",")
    if unknown := set(names) - set(Lane):
        parser.error(f"there is no lane {', '.join(sorted(unknown))}; choose among {', '.join(Lane)}")
    settings, lanes = Settings(), [lane for lane in sorted(Lane, key=PRIORITIES.__getitem__) if lane in names]
    logs.configure(settings.log_format, settings.log_level)
    if settings.broker_url is None:
        dispatcher.run(settings, lanes)
    else:
        # It warns root of pickled messages; ours are JSON.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        application(settings, lanes).worker_main(_arguments(lanes))


def application(settings: Settings, lanes: Collection[Lane]) -> Celery:
    """Return the Celery application of a worker.

    Prefork with one process: that process claims a job, starts its child and beats; the process above it
    holds the connection to the broker, and is not held up by either. Messages are acknowledged as a job is
    taken up: from then on the lease says whose it is.
    """
    celery = celery_application(str(settings.broker_url))
    celery.conf.update(
        broker_connection_max_retries=None,
        task_acks_late=False,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_proc_alive_timeout=START_SECONDS,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
    )
    leaving = mmap.mmap(-1, 1)  # Shared with the process that runs jobs; whoever is killed leaves no lock.
    worker: list[Worker] = []

    @celery.task(name=RUN_JOB)
    def run(job_id: str) -> None:
        """Run the job if it is still ours to run."""
        run_job(worker[0], UUID(job_id))

    @signals.setup_logging.connect(weak=False)
    def keep_logging(**_: object) -> None:
        """Leave the logging as it is; a receiver is all that Celery asks for."""

    @signals.worker_process_init.connect(weak=False)
    def begin(**_: object) -> None:
        """Open connections in the process that runs jobs; they would not survive its fork."""
        end_with_parent()
        worker[:] = [open_worker(settings, lambda: leaving[0] != 0)]
        log.info("worker started", extra={"lanes": sorted(lanes), "owner": worker[0].owner})
        upkeep.start(worker[0], lanes)
        if Lane.PREDICT in lanes:
            worker[0].warm_up()

    @signals.worker_process_shutdown.connect(weak=False)
    def end(**_: object) -> None:
        worker[0].cool_down()
        log.info("worker ended", extra={"owner": worker[0].owner})

    @signals.worker_shutting_down.connect(weak=False)
    def leave(**_: object) -> None:
        """Have the running job give itself back: the warm shutdown waits for the task, a training takes days."""
        leaving[0] = 1

    return celery


def _arguments(lanes: Collection[Lane]) -> list[str]:
    """Return Celery's command line."""
    return [
        "--quiet",  # Its banner would go where `up` prints the address.
        "worker",
        f"--queues={','.join(lanes)}",
        f"--hostname={'+'.join(lanes)}@%h",
        "--pool=prefork",
        "--concurrency=1",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "--loglevel=WARNING",
    ]


if __name__ == "__main__":
    main()
