"""The process that runs one verb of core and reports JSON lines; it knows no database."""

import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import IO

from pydantic import JsonValue

from app import log as logs
from app.jobs import INTERNAL_ERROR, problem_document, problem_of
from app.payloads import WorkOrder
from app.storage import LocalStore, room_on_disk
from core.domain.record import Record
from core.errors import CancelledError, DomainError
from core.io.archive import ArchiveLimits
from worker.observer import Message, PipeObserver
from worker.process import DeathError
from worker.workspace import Workspace

log = logging.getLogger(__name__)

PARENT_DEATH_SIGNAL = 1
"""Option of prctl(2), Linux: send this signal when the parent ends."""

Send = Callable[[Message], None]
Perform = Callable[["Assignment", PipeObserver], Message]


class Assignment(Record):
    """What a parent hands to its child, one JSON line each."""

    order: WorkOrder
    workspace_dir: Path
    store_dir: Path
    limits: ArchiveLimits
    threads: int | None
    """None: one per core."""
    processes: int = 1
    """That train together, if it is a training."""
    model_cache_bytes: int
    checkpoint_seconds: float
    """How often a training hands its checkpoint over."""
    log_format: logs.LogFormat
    log_level: str

    def workspace(self) -> Workspace:
        """Open the scratch folder."""
        return Workspace(self.workspace_dir, LocalStore(self.store_dir), self.limits)


def serve(perform: Perform, *, is_resident: bool) -> None:
    """Carry out assignments from standard input, reporting on what was standard output.

    Args:
        perform: Does the work; returns the last message.
        is_resident: Whether to wait for more assignments after the first.
    """
    send = private_output()
    observer = PipeObserver(send)
    signal.signal(signal.SIGTERM, lambda *_: observer.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks us to stop.
    end_with_parent()
    for line in _assignments():
        observer = PipeObserver(send)
        send(_outcome(perform, Assignment.model_validate_json(line), observer))
        if not is_resident:
            return


def _outcome(perform: Perform, assignment: Assignment, observer: PipeObserver) -> Message:
    """Carry an assignment out, and put whatever comes of it into a message."""
    logs.configure(assignment.log_format, assignment.log_level)
    logs.job_id.set(str(assignment.order.job_id))
    return outcome(lambda: perform(assignment, observer))


def outcome(work: Callable[[], Message]) -> Message:
    """Return the last message of some work, or one of how else it ended."""
    try:
        with room_on_disk():
            return work()
    except CancelledError:
        return {"event": "canceled"}
    except DeathError as death:
        return {"event": "died", "cause": str(death), "on_request": False}
    except DomainError as error:
        return {"event": "error", "problem": problem_of(error)}
    except Exception as error:
        log.exception("a job ended in an error that was not raised on purpose")
        if (
            isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        ):  # The latter is torch's.
            detail = "not enough memory for this job; use a smaller image or patch, or a larger machine"
            return {"event": "error", "problem": problem_document("out-of-memory", detail)}
        return {"event": "error", "problem": internal_problem()}


def internal_problem() -> dict[str, JsonValue]:
    """Describe a bug of ours; its text and traceback are in the log."""
    return problem_document(INTERNAL_ERROR, "the service made a mistake; its log has the details")


def private_output() -> Send:
    """Keep standard output for messages, and send what libraries print to standard error instead."""
    stream: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = Lock()

    def send(message: Message) -> None:
        with lock:
            stream.write(json.dumps(message) + "\n")
            stream.flush()

    return send


def _assignments() -> Iterator[bytes]:
    """Yield the lines of standard input; when it ends, the parent has, and so do we, whatever we do."""
    lines: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        # Unbuffered: a thread that waits inside a buffer would hold its lock when the interpreter ends.
        rest = b""
        while chunk := os.read(0, 65536):
            *complete, rest = (rest + chunk).split(b"\n")
            for line in complete:
                lines.put(line)
        os._exit(1)

    Thread(target=read, name="parent", daemon=True).start()
    while True:
        yield lines.get()


def end_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to end this process when its parent ends, even in the middle of a long computation.

    Args:
        parent: Its number, where it is known: if it has ended already, so does this process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def perform(assignment: Assignment, observer: PipeObserver) -> Message:
    """Do what the order says with the function of its kind."""
    from worker import tasks, training

    conditions = training.Conditions(
        threads=assignment.threads,
        checkpoint_seconds=assignment.checkpoint_seconds,
        processes=assignment.processes,
        log_format=assignment.log_format,
        log_level=assignment.log_level,
    )
    with (workspace := assignment.workspace()).holds:
        return tasks.perform(assignment.order, workspace, observer, conditions)


if __name__ == "__main__":
    serve(perform, is_resident=False)
