"""The life of one job on this worker: claimed, run in a child, watched, and its end recorded."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

from app.db.base import Sessions, transaction
from app.errors import LeaseLostError
from app.jobs import RESULTS, JobKind, ObjectRef
from app.services import jobs
from app.services.jobs import Claim
from app.settings import GIB, Settings
from app.storage import LocalStore
from core.domain.progress import Progress
from core.domain.training import EpochRecord
from worker.archive import ArchiveLimits
from worker.child import Assignment
from worker.observer import Message
from worker.workspace import Workspace

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.1
"""How long the parent listens to its child before it looks at the clock."""

WRITE_SECONDS = 1.0
"""Between two writes of progress, and between two looks at whether the job was canceled."""

CHILD = "worker.child"
PREDICTOR = "worker.predictor"


class Child:
    """A process that carries out assignments; its messages arrive in a queue."""

    def __init__(self, module: str) -> None:
        command = [sys.executable, "-m", module]
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
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
        with suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """End the child and whatever it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def cause_of_death(self) -> str:
        """Say how the child ended."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "its process was killed by signal 9, probably because the machine ran out of memory"
        return f"its process ended by signal {-code}" if code < 0 else f"its process ended with status {code}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind."""
        self.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def _read(self) -> None:
        """Collect messages until the child's output ends."""
        for line in self._process.stdout or ():
            self._messages.put(json.loads(line))


@dataclass
class Lane:
    """What a worker keeps from job to job."""

    settings: Settings
    sessions: Sessions
    owner: str
    leaving: Event = field(default_factory=Event)
    """Set when the worker is asked to end: jobs are given back."""
    warm: Child | None = None
    """The predictor, once there was a prediction."""

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
            self.warm = Child(PREDICTOR)
        return self.warm

    def cool_down(self) -> None:
        """End the predictor."""
        if self.warm is not None:
            self.warm.__exit__(None, None, None)
            self.warm = None


def run_job(lane: Lane, claim: Claim) -> None:
    """Let a child do the job's work, and record how it ended.

    Args:
        lane: This worker.
        claim: The job, ours until the lease ends.
    """
    log.info("job started", extra={"job_id": str(claim.job_id), "kind": claim.kind})
    try:
        if claim.kind is JobKind.PREDICT:
            ending = _watch(lane, claim, lane.warm_up())
        else:
            with Child(CHILD) as child:
                ending = _watch(lane, claim, child)
        _record(lane, claim, ending)
    except LeaseLostError:
        log.warning("lease lost; somebody else has the job", extra={"job_id": str(claim.job_id)})
        lane.cool_down()


def _assignment(lane: Lane, claim: Claim) -> Assignment:
    """Put together what the child needs to know."""
    settings, workspace = lane.settings, lane.workspace()
    return Assignment(
        order=claim.order,
        workspace_dir=settings.workspace_dir.resolve(),
        store_dir=settings.store_dir.resolve(),
        limits=workspace.limits,
        threads=settings.threads,
        model_cache_bytes=int(settings.model_cache_gib * GIB),
    )


def _watch(lane: Lane, claim: Claim, child: Child) -> Message:
    """Pass on what the child says, beat, and pass on the wish to stop; return the child's last message.

    Raises:
        LeaseLostError: The job is not ours any more.
    """
    child.send(_assignment(lane, claim))
    watch = _Watch(lane, claim, child)
    while True:
        message = child.next(WATCH_SECONDS)
        if message is None and not child.is_alive:
            return {
                "event": "died",
                "cause": child.cause_of_death(),
                "on_request": watch.asked_at is not None,
            }
        if message is not None and message["event"] not in ("progress", "epoch", "resume"):
            watch.flush()
            return message
        watch.note(message)


class _Watch:
    """The clock of one running job: when to write, when to beat, when patience ends."""

    def __init__(self, lane: Lane, claim: Claim, child: Child) -> None:
        self._lane, self._claim, self._child = lane, claim, child
        self._progress: Progress | None = None
        self._stage_began: dict[str, tuple[float, int]] = {}
        self._wrote_at = self._beat_at = time.monotonic()
        self.asked_at: float | None = None

    def note(self, message: Message | None) -> None:
        """Take in a message, or the passing of time."""
        if message is not None:
            self._take(message)
        now = time.monotonic()
        if now - self._wrote_at >= WRITE_SECONDS:
            self._wrote_at = now
            self._look()
        if self.asked_at is not None and now - self.asked_at > self._lane.settings.stop_grace_seconds:
            self._child.kill()

    def flush(self) -> None:
        """Write the last progress, so that a finished job says so."""
        if self._progress is not None:
            with transaction(self._lane.sessions) as session:
                jobs.record_progress(session, self._claim, self._progress, self._seconds_left(self._progress))
            self._progress = None

    def _take(self, message: Message) -> None:
        """Write epochs at once, keep progress for the next write."""
        kind, values = message["event"], {key: value for key, value in message.items() if key != "event"}
        if kind == "progress":
            self._progress = Progress.model_validate(values)
            self._stage_began.setdefault(self._progress.stage, (time.monotonic(), self._progress.done))
            return
        with transaction(self._lane.sessions) as session:
            if kind == "resume":
                jobs.drop_epochs(session, self._claim, values["epoch"])
            else:
                jobs.record_epoch(session, self._claim, EpochRecord.model_validate(values))

    def _look(self) -> None:
        """Write progress, beat, and see whether to stop."""
        self.flush()
        with transaction(self._lane.sessions) as session:
            is_canceled = jobs.renew(session, self._claim, self._lane.settings.lease_seconds)
        if (is_canceled or self._lane.leaving.is_set()) and self.asked_at is None:
            self.asked_at = time.monotonic()
            self._child.ask_to_stop()

    def _seconds_left(self, progress: Progress) -> float | None:
        """Extrapolate the pace of this run of the stage."""
        began, done_before = self._stage_began[progress.stage]
        gone, done = time.monotonic() - began, progress.done - done_before
        return gone / done * (progress.total - progress.done) if done > 0 else None


def _record(lane: Lane, claim: Claim, ending: Message) -> None:
    """Write down how the job ended, under its fence."""
    kind = ending["event"]
    if kind == "result":
        _publish(lane, claim, ending)
        return
    with transaction(lane.sessions) as session:
        if kind == "error":
            jobs.fail(session, claim, ending["problem"])
        elif kind == "died" and not ending["on_request"]:
            jobs.give_back(session, claim, ending["cause"])
        elif jobs.renew(session, claim, lane.settings.lease_seconds):
            jobs.canceled(session, claim)
        else:
            jobs.give_back(session, claim, "the worker was asked to end", crashed=False)
    log.info("job ended", extra={"job_id": str(claim.job_id), "ending": kind})


def _publish(lane: Lane, claim: Claim, ending: Message) -> None:
    """Store the child's files under the fence, then write the result that points at them."""
    workspace = lane.workspace()
    prefix = f"{claim.kind}/{claim.job_id}/{claim.fence}"
    refs: dict[str, ObjectRef] = {}
    for name, path in ending["files"].items():
        refs[name] = workspace.store.put(f"{prefix}/{name}", Path(path))
        with transaction(lane.sessions) as session:
            jobs.renew(session, claim, lane.settings.lease_seconds)
    values: dict[str, Any] = dict(ending["result"])
    if "files" in values:
        values["files"] = {**values["files"], **{name: ref.to_json() for name, ref in refs.items()}}
    result = RESULTS[claim.kind].model_validate(values)
    with transaction(lane.sessions) as session:
        jobs.succeed(session, claim, result)
    workspace.clear_outbox(claim.job_id)
    log.info("job ended", extra={"job_id": str(claim.job_id), "ending": "succeeded"})
