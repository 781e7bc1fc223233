"""The life of one job on this worker: claimed, run in a child, watched, and its end recorded."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from app import log as logs
from app.db.base import is_outage
from app.errors import LeaseLostError
from app.jobs import FINAL_STATES, JobKind, JobState
from app.services import claims, jobs
from app.services.claims import Claim
from app.services.transitions import announced
from app.settings import GIB
from core.domain.progress import Progress
from core.domain.training import EpochRecord
from worker.child import Assignment
from worker.machine import Worker, insist, report_outage
from worker.observer import Message
from worker.process import Child
from worker.publishing import CheckpointUpload, Lease, publish, tidy

log = logging.getLogger(__name__)

T = TypeVar("T")

WATCH_SECONDS = 0.1
"""How long the parent listens to its child before it looks at the clock."""

CHILD = "worker.child"

PASSING = frozenset({"progress", "epoch", "resumed", "checkpoint"})
"""Messages after which more will come."""


def run_job(worker: Worker, job_id: UUID) -> bool:
    """Claim a job, let a child do its work, and record how it ended.

    Celery's task and the local dispatcher both call only this. A database that is away when the worker is
    asked to end is no error of theirs: the job is left to its lease, or stays queued, and a sweep sees to it.

    Args:
        worker: This worker.
        job_id: Which; it may be gone, somebody else's or done, whatever a message says.

    Returns:
        Whether it was ours to run.
    """
    logs.job_id.set(str(job_id))
    try:
        claim = insist(worker, lambda session: _claim(worker, session, job_id))
        if claim is not None:
            _run_claimed(worker, claim)
    except (DBAPIError, PoolTimeoutError) as error:
        if not is_outage(error):
            raise
        report_outage(error)
        return False
    finally:
        logs.job_id.set(None)
    return claim is not None


def _claim(worker: Worker, session: Session, job_id: UUID) -> Claim | None:
    return claims.claim(session, job_id, worker.owner, worker.settings.lease_seconds)


def _run_claimed(worker: Worker, claim: Claim) -> None:
    """Do a job that is ours."""
    log.info("job started", extra={"kind": claim.kind, "attempt": claim.attempt})
    is_settled = False
    try:
        ending = _run(worker, claim)
        log.info("job's child ended", extra={"ending": ending["event"]})
        _record(worker, claim, ending)
        is_settled = True
        has_ended = insist(worker, lambda session: jobs.state_of(session, claim.job_id)) in FINAL_STATES
        worker.workspace().clear_training(claim.order, keep_last=not has_ended)
        if has_ended:
            tidy(worker, claim)
    except LeaseLostError:
        log.warning("lease lost; somebody else has the job")
    finally:
        if claim.kind is JobKind.PREDICT and not is_settled:
            worker.cool_down()  # The predictor may still be at a job that is not ours any more.
        worker.workspace().clear_outbox(claim.order)


def _run(worker: Worker, claim: Claim) -> Message:
    """Have the job done by a child that is gone afterwards, or by the predictor; return the last message."""
    if claim.kind is JobKind.PREDICT:
        return _watch(worker, claim, worker.warm_up())
    with closing(worker.start(CHILD)) as child:
        return _watch(worker, claim, child)


def _assignment(worker: Worker, claim: Claim) -> Assignment:
    """Put together what the child needs to know."""
    settings = worker.settings
    return Assignment(
        order=claim.order,
        workspace_dir=settings.resolved_workspace_dir,
        store_dir=settings.resolved_store_dir,
        limits=worker.workspace().limits,
        threads=settings.threads,
        processes=settings.processes_per_training,
        model_cache_bytes=int(settings.model_cache_gib * GIB),
        checkpoint_seconds=settings.checkpoint_seconds,
        log_format=settings.log_format,
        log_level=settings.log_level,
    )


def _watch(worker: Worker, claim: Claim, child: Child) -> Message:
    """Pass on what the child says, beat, and pass on the wish to stop; return the child's last message.

    Raises:
        LeaseLostError: The job is not ours any more.
    """
    child.send(_assignment(worker, claim))
    watch = _Watch(worker, claim, child)
    try:
        ending = _hear(child, watch)
        watch.finish()
    except LeaseLostError:
        watch.abandon()
        raise
    return ending


def _hear(child: Child, watch: "_Watch") -> Message:
    """Take in messages until the last one; return that.

    Raises:
        LeaseLostError: The job is not ours any more.
    """
    while True:
        message = child.next(WATCH_SECONDS)
        while message is not None and message["event"] in PASSING:  # Many at once are one write.
            watch.take(message)
            message = child.next(0)
        if message is not None:
            return message
        if not child.is_alive:
            return {"event": "died", "cause": child.cause_of_death(), "on_request": watch.has_asked}
        watch.look_at_the_clock()


class _Watch:
    """The clock of one running job: when to write, when to beat, when patience ends."""

    def __init__(self, worker: Worker, claim: Claim, child: Child) -> None:
        self._worker, self._claim, self._child = worker, claim, child
        self._checkpoints = CheckpointUpload(worker, claim)
        self._progress: Progress | None = None
        self._history: list[Message] = []
        self._stage_began: dict[str, tuple[float, int]] = {}
        self._beat_at = time.monotonic()
        self._asked_at: float | None = None
        self._is_database_away = False

    @property
    def has_asked(self) -> bool:
        """Whether the child was asked to stop."""
        return self._asked_at is not None

    def take(self, message: Message) -> None:
        """Keep a message until it is written."""
        match message["event"]:
            case "progress":
                self._progress = Progress.model_validate(_values(message))
                began = (time.monotonic(), self._progress.done)
                self._stage_began.setdefault(self._progress.stage, began)
            case "checkpoint":
                self._checkpoints.take(message)
            case _:
                self._history.append(message)

    def look_at_the_clock(self) -> None:
        """Beat if it is time to, or if there is news that should not wait.

        Raises:
            LeaseLostError: The job is not ours any more.
        """
        settings, now = self._worker.settings, time.monotonic()
        is_news = bool(self._history) and not self._is_database_away
        if is_news or now - self._beat_at >= settings.heartbeat_seconds:
            self._beat_at = now
            self._beat()
        if self._asked_at is not None and now - self._asked_at > settings.stop_grace_seconds:
            self._child.kill()

    def finish(self) -> None:
        """Write what is left to be written, so that a finished job says so and its checkpoint is stored.

        Raises:
            LeaseLostError: The job is not ours any more.
        """
        lease = Lease(self._worker, self._claim)
        while True:
            self._checkpoints.wait(lease)
            lease.keep()
            insist(self._worker, self._write)
            self._forget()
            if not self._checkpoints.is_busy:
                return

    def abandon(self) -> None:
        """Leave nothing in the store that no row will name."""
        self._checkpoints.abandon()

    def _beat(self) -> None:
        """Renew the lease, write what is new, and see whether to stop.

        The lease comes first, in a transaction that needs nothing but the job's own row. A database that is
        away is asked again at the next beat, and the work goes on: a lease that runs out meanwhile is renewed,
        unless somebody else was quicker.

        Raises:
            LeaseLostError: The job is not ours any more.
        """
        try:
            state = self._once(self._renew)
            self._once(self._write)
        except (DBAPIError, PoolTimeoutError) as error:
            if not is_outage(error):
                raise
            report_outage(error)
            self._is_database_away = True
            return
        self._is_database_away = False
        self._forget()
        if state is not JobState.RUNNING or self._worker.is_leaving():
            self._asked_at = self._asked_at or time.monotonic()
            # Asked at every beat: a child that is just starting may miss the first.
            self._child.ask_to_stop()

    def _once(self, write: Callable[[Session], T]) -> T:
        with announced(self._worker.sessions, self._worker.queue) as session:
            return write(session)

    def _renew(self, session: Session) -> JobState:
        return jobs.renew(session, self._claim, self._worker.settings.lease_seconds)

    def _write(self, session: Session) -> None:
        """Write history, checkpoint and progress; twice changes nothing."""
        for message in self._history:
            if message["event"] == "resumed":
                jobs.rewind(session, self._claim, int(message["epochs"]))
            else:
                jobs.record_epoch(session, self._claim, EpochRecord.model_validate(_values(message)))
        self._checkpoints.name_in(session)
        if self._progress is not None:  # Last: it locks the job without its training.
            jobs.record_progress(session, self._claim, self._progress, self._seconds_left(self._progress))

    def _forget(self) -> None:
        """Forget what the database now knows."""
        self._history.clear()
        self._progress = None
        self._checkpoints.is_written()

    def _seconds_left(self, progress: Progress) -> float | None:
        """Extrapolate the pace of this run of the stage."""
        began, done_before = self._stage_began[progress.stage]
        gone, done = time.monotonic() - began, progress.done - done_before
        return gone / done * (progress.total - progress.done) if done > 0 else None


def _values(message: Message) -> Message:
    """Return what a message carries beside its event."""
    return {key: value for key, value in message.items() if key != "event"}


def _record(worker: Worker, claim: Claim, ending: Message) -> None:
    """Write down how the job ended, under its fence.

    Raises:
        LeaseLostError: The job is not ours any more.
    """
    if ending["event"] == "result":
        publish(worker, claim, ending)
        return

    def write(session: Session) -> None:
        match ending:
            case {"event": "error", "problem": problem}:
                jobs.fail(session, claim, problem)
            case {"event": "died", "on_request": False, "cause": cause}:
                jobs.give_back(session, claim, cause, max_crashes=worker.settings.max_crashes)
            case _:
                jobs.give_back(session, claim, "the worker was asked to end")

    Lease(worker, claim).keep()
    insist(worker, write)
