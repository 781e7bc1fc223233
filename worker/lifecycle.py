"""The life of one job on this worker: claimed, run in a child, watched, and its end recorded."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from sqlalchemy.exc import OperationalError

from app import log as logs
from app.db.base import Sessions, transaction
from app.errors import LeaseLostError
from app.jobs import RESULTS, JobKind, ObjectRef, problem_of
from app.services import jobs
from app.services.jobs import Claim
from app.settings import GIB, Settings
from app.storage import LocalStore
from core.domain.progress import Progress
from core.domain.record import Record
from core.domain.training import EpochRecord
from core.errors import DomainError
from worker.archive import ArchiveLimits
from worker.child import Assignment, internal_problem
from worker.observer import Message
from worker.workspace import Workspace

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.1
"""How long the parent listens to its child before it looks at the clock."""

CHILD = "worker.child"
PREDICTOR = "worker.predictor"


class Child:
    """A process that carries out assignments; its messages arrive in a queue.

    Args:
        module: What runs in it.
        environment: Of the process, without the settings of the service and their secrets.
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", module]
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
            start_new_session=True,
        )
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._reader = Thread(target=self._read, name=f"messages of {module}", daemon=True)
        self._reader.start()

    def send(self, assignment: Assignment) -> None:
        """Hand over work; a child that is dead already is noticed by `next`."""
        if self._process.stdin is None:
            raise TypeError("a child is started with a pipe as its input")
        with suppress(BrokenPipeError):
            self._process.stdin.write(assignment.model_dump_json() + "\n")
            self._process.stdin.flush()

    def next(self, timeout_seconds: float) -> Message | None:
        """Return the next message, or None if there was none in time."""
        with suppress(Empty):
            return self._messages.get(timeout=timeout_seconds)
        return None

    @property
    def is_alive(self) -> bool:
        """Whether more messages may come."""
        return self._reader.is_alive() or not self._messages.empty()

    def ask_to_stop(self) -> None:
        """Ask for a checkpoint and an end."""
        self._process.terminate()

    def kill(self) -> None:
        """End the child and whatever it started, unless it has ended; its number may be another's then."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def cause_of_death(self) -> str:
        """Say how the child ended."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "its process was killed by signal 9, probably because the machine ran out of memory"
        return f"its process ended by signal {-code}" if code < 0 else f"its process ended with status {code}"

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def _read(self) -> None:
        """Collect messages until the child's output ends, in the middle of a line if it was killed."""
        for line in self._process.stdout or ():
            with suppress(json.JSONDecodeError):
                self._messages.put(json.loads(line))


@dataclass
class Worker:
    """What a worker keeps from job to job."""

    settings: Settings
    sessions: Sessions
    owner: str
    is_leaving: bool = False
    """Set by a signal when the worker is asked to end: jobs are given back."""
    warm: Child | None = None
    """The predictor, once there was a prediction."""

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
        return Workspace(settings.workspace_dir, LocalStore(settings.store_dir), limits)

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


def run_job(worker: Worker, claim: Claim) -> None:
    """Let a child do the job's work, and record how it ended.

    Args:
        worker: This worker.
        claim: The job, ours until the lease ends.
    """
    logs.job_id.set(str(claim.job_id))
    log.info("job started", extra={"kind": claim.kind, "attempt": claim.attempt})
    try:
        ending = _run(worker, claim)
        log.info("job's child ended", extra={"ending": ending["event"]})
        _record(worker, claim, ending)
    except LeaseLostError:
        log.warning("lease lost; somebody else has the job")
        if claim.kind is JobKind.PREDICT:
            worker.cool_down()
    finally:
        worker.workspace().clear_outbox(claim.order)
        logs.job_id.set(None)


def _run(worker: Worker, claim: Claim) -> Message:
    """Have the job done by a child that is gone afterwards, or by the predictor; return the last message."""
    if claim.kind is JobKind.PREDICT:
        return _watch(worker, claim, worker.warm_up())
    with closing(worker.start(CHILD)) as child:
        return _watch(worker, claim, child)


def _assignment(worker: Worker, claim: Claim) -> Assignment:
    """Put together what the child needs to know."""
    settings, workspace = worker.settings, worker.workspace()
    return Assignment(
        order=claim.order,
        workspace_dir=settings.workspace_dir.resolve(),
        store_dir=settings.store_dir.resolve(),
        limits=workspace.limits,
        threads=settings.threads,
        model_cache_bytes=int(settings.model_cache_gib * GIB),
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
            return {"event": "died", "cause": child.cause_of_death(), "on_request": watch.has_asked}
        if message is not None and message["event"] not in ("progress", "epoch"):
            watch.flush()
            return message
        watch.note(message)


class _Watch:
    """The clock of one running job: when to write, when to beat, when patience ends."""

    def __init__(self, worker: Worker, claim: Claim, child: Child) -> None:
        self._worker, self._claim, self._child = worker, claim, child
        self._progress: Progress | None = None
        self._stage_began: dict[str, tuple[float, int]] = {}
        self._beat_at = time.monotonic()
        self._asked_at: float | None = None

    @property
    def has_asked(self) -> bool:
        """Whether the child was asked to stop."""
        return self._asked_at is not None

    def note(self, message: Message | None) -> None:
        """Take in a message, or the passing of time."""
        if message is not None:
            self._take(message)
        settings, now = self._worker.settings, time.monotonic()
        if now - self._beat_at >= settings.heartbeat_seconds:
            self._beat_at = now
            self._beat()
        if self._asked_at is not None and now - self._asked_at > settings.stop_grace_seconds:
            self._child.kill()

    def flush(self) -> None:
        """Write the last progress, so that a finished job says so."""
        if self._progress is not None:
            with transaction(self._worker.sessions) as session:
                jobs.record_progress(session, self._claim, self._progress, self._seconds_left(self._progress))
            self._progress = None

    def _take(self, message: Message) -> None:
        """Write epochs at once, keep progress for the next write."""
        values = {key: value for key, value in message.items() if key != "event"}
        if message["event"] == "progress":
            self._progress = Progress.model_validate(values)
            self._stage_began.setdefault(self._progress.stage, (time.monotonic(), self._progress.done))
        else:
            with transaction(self._worker.sessions) as session:
                jobs.record_epoch(session, self._claim, EpochRecord.model_validate(values))

    def _beat(self) -> None:
        """Write progress, renew the lease, and see whether to stop."""
        self.flush()
        with transaction(self._worker.sessions) as session:
            is_canceled = jobs.renew(session, self._claim, self._worker.settings.lease_seconds)
        if is_canceled or self._worker.is_leaving:
            self._asked_at = self._asked_at or time.monotonic()
            # Asked at every beat: a child that is just starting may miss the first.
            self._child.ask_to_stop()

    def _seconds_left(self, progress: Progress) -> float | None:
        """Extrapolate the pace of this run of the stage."""
        began, done_before = self._stage_began[progress.stage]
        gone, done = time.monotonic() - began, progress.done - done_before
        return gone / done * (progress.total - progress.done) if done > 0 else None


def _record(worker: Worker, claim: Claim, ending: Message) -> None:
    """Write down how the job ended, under its fence.

    Raises:
        LeaseLostError: The job is not ours any more.
    """
    if ending["event"] == "result":
        _publish(worker, claim, ending)
        return
    with transaction(worker.sessions) as session:
        match ending:
            case {"event": "error", "problem": problem}:
                jobs.fail(session, claim, problem)
            case {"event": "died", "on_request": False, "cause": cause}:
                jobs.give_back(session, claim, cause)
            case _ if jobs.renew(session, claim, worker.settings.lease_seconds):
                jobs.canceled(session, claim)
            case _:
                jobs.give_back(session, claim, "the worker was asked to end", crashed=False)


def _publish(worker: Worker, claim: Claim, ending: Message) -> None:
    """Store the child's files under the fence, then write the result that points at them.

    Raises:
        LeaseLostError: The job is not ours any more; nothing of what was stored stays.
    """
    store = worker.workspace().store
    refs: dict[str, ObjectRef] = {}
    try:
        for name, path in ending["files"].items():
            with transaction(worker.sessions) as session:
                jobs.renew(session, claim, worker.settings.lease_seconds)
            refs[name] = store.put(f"{claim.kind}/{claim.job_id}/{claim.fence}/{name}", Path(path))
        result = _result(claim.kind, ending["result"], refs)
        with transaction(worker.sessions) as session:
            jobs.succeed(session, claim, result)
    except LeaseLostError:
        for ref in refs.values():
            store.delete(ref.key)
        raise
    except OperationalError:  # The database is away, the work is not lost: the lease ends and it goes on.
        raise
    except Exception as error:
        log.exception("a result could not be stored")
        with transaction(worker.sessions) as session:
            jobs.fail(
                session, claim, problem_of(error) if isinstance(error, DomainError) else internal_problem()
            )


def _result(kind: JobKind, values: Mapping[str, Any], refs: Mapping[str, ObjectRef]) -> Record:
    """Return the record of a kind's result, with the files that were stored."""
    if not refs:
        return RESULTS[kind].model_validate(values)
    stored = {name: ref.to_json() for name, ref in refs.items()}
    return RESULTS[kind].model_validate({**values, "files": {**values["files"], **stored}})
