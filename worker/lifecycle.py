"""The life of one job on this worker: claimed, run in a child, watched, and its end recorded."""

import logging
import time
from contextlib import closing
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app import log as logs
from app.db.base import is_outage
from app.errors import LeaseLostError
from app.jobs import FINAL_STATES, Checkpoint, JobKind, JobState
from app.services import jobs
from app.services.jobs import Claim
from app.services.transitions import announced
from app.settings import GIB
from core.domain.progress import Progress
from core.domain.training import EpochRecord
from worker.child import Assignment
from worker.machine import Worker, insist
from worker.observer import Message
from worker.process import Child
from worker.publishing import CheckpointUpload, publish

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.1
"""How long the parent listens to its child before it looks at the clock."""

CHILD = "worker.child"

PASSING = frozenset({"progress", "epoch", "resumed", "checkpoint"})
"""Messages after which more will come."""


def run_job(worker: Worker, job_id: UUID) -> bool:
    """Claim a job, let a child do its work, and record how it ended.

    Celery's task and the local dispatcher both call only this. A database that stays away is no error of
    theirs: the job is left to its lease, or stays queued, and a sweep brings it back.

    Args:
        worker: This worker.
        job_id: Which; it may be gone, somebody else's or done, whatever a message says.

    Returns:
        Whether it was ours to run.
    """
    logs.job_id.set(str(job_id))
    try:
        with announced(worker.sessions, worker.queue) as session:
            claim = jobs.claim(session, job_id, worker.owner, worker.settings.lease_seconds)
        if claim is not None:
            _run_claimed(worker, claim)
    except DBAPIError as error:
        if not is_outage(error):
            raise
        log.warning(
            "the database does not answer; a sweep will see to the job", extra={"error": repr(error.orig)}
        )
        return False
    finally:
        logs.job_id.set(None)
    return claim is not None


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
    while True:
        message = child.next(WATCH_SECONDS)
        if message is None and not child.is_alive:
            watch.finish()
            return {"event": "died", "cause": child.cause_of_death(), "on_request": watch.has_asked}
        if message is not None and message["event"] not in PASSING:
            watch.finish()
            return message
        watch.note(message)


class _Watch:
    """The clock of one running job: when to write, when to beat, when patience ends."""

    def __init__(self, worker: Worker, claim: Claim, child: Child) -> None:
        self._worker, self._claim, self._child = worker, claim, child
        self._checkpoints = CheckpointUpload(worker, claim)
        self._progress: Progress | None = None
        self._history: list[Message] = []
        self._named: Checkpoint | None = None
        self._replaced: str | None = None
        self._stage_began: dict[str, tuple[float, int]] = {}
        self._beat_at = time.monotonic()
        self._asked_at: float | None = None

    @property
    def has_asked(self) -> bool:
        """Whether the child was asked to stop."""
        return self._asked_at is not None

    def note(self, message: Message | None) -> None:
        """Take in a message, or the passing of time.

        Raises:
            LeaseLostError: The job is not ours any more.
        """
        is_news = message is not None and self._take(message)
        settings, now = self._worker.settings, time.monotonic()
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
        while True:
            self._checkpoints.wait()
            insist(self._worker, self._write)
            self._is_written()
            if not self._checkpoints.is_busy:
                return

    def _take(self, message: Message) -> bool:
        """Keep a message for the next beat; return whether that should come at once."""
        match message["event"]:
            case "progress":
                self._progress = Progress.model_validate(_values(message))
                began = (time.monotonic(), self._progress.done)
                self._stage_began.setdefault(self._progress.stage, began)
                return False
            case "checkpoint":
                self._checkpoints.take(message)
                return False
            case _:
                self._history.append(message)
                return True

    def _beat(self) -> None:
        """Write what is new, renew the lease, and see whether to stop.

        A database that is away is asked again at the next beat: the work goes on as long as the lease does.

        Raises:
            LeaseLostError: The job is not ours any more.
        """
        try:
            with announced(self._worker.sessions, self._worker.queue) as session:
                state = self._write(session)
        except DBAPIError as error:
            if not is_outage(error):
                raise
            log.warning("the database does not answer; the job goes on", extra={"error": repr(error.orig)})
            return
        self._is_written()
        if state is not JobState.RUNNING or self._worker.is_leaving():
            self._asked_at = self._asked_at or time.monotonic()
            # Asked at every beat: a child that is just starting may miss the first.
            self._child.ask_to_stop()

    def _write(self, session: Session) -> JobState:
        """Write history, checkpoint and progress, and renew the lease; return how the job stands."""
        for message in self._history:
            if message["event"] == "resumed":
                jobs.rewind(session, self._claim, int(message["epochs"]))
            else:
                jobs.record_epoch(session, self._claim, EpochRecord.model_validate(_values(message)))
        checkpoint, self._replaced = self._checkpoints.arrived(), None
        if checkpoint is not None:
            self._replaced = jobs.record_checkpoint(session, self._claim, checkpoint)
        self._named = checkpoint
        if self._progress is not None:  # Last: it locks the job without its training.
            jobs.record_progress(session, self._claim, self._progress, self._seconds_left(self._progress))
        return jobs.renew(session, self._claim, self._worker.settings.lease_seconds)

    def _is_written(self) -> None:
        """Forget what the database now knows."""
        self._history.clear()
        self._progress = None
        if self._named is not None:
            log.info("checkpoint stored", extra={"epochs": self._named.epochs})
            self._checkpoints.is_written(self._replaced)

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
            case _ if jobs.renew(session, claim, worker.settings.lease_seconds) is JobState.RUNNING:
                jobs.give_back(session, claim, "the worker was asked to end")
            case _:
                jobs.stopped(session, claim)

    insist(worker, write)
