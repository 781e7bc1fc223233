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
from threading import Event, Lock, Thread
from typing import IO

from app.jobs import INTERNAL_ERROR, WorkOrder, problem_document, problem_of
from app.storage import LocalStore
from core.domain.record import Record
from core.errors import CancelledError, DomainError
from worker.archive import ArchiveLimits
from worker.observer import Message, PipeObserver
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
    model_cache_bytes: int

    def workspace(self) -> Workspace:
        """Open the scratch folder."""
        return Workspace(self.workspace_dir, LocalStore(self.store_dir), self.limits)


def serve(perform: Perform, *, is_resident: bool) -> None:
    """Carry out assignments from standard input, reporting on what was standard output.

    Args:
        perform: Does the work; returns the last message.
        is_resident: Whether to wait for more assignments after the first.
    """
    send = _private_output()
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks us to stop.
    _end_with_parent()
    for line in _assignments():
        stop.clear()
        send(_outcome(perform, line, PipeObserver(send, stop)))
        if not is_resident:
            return


def _outcome(perform: Perform, line: str, observer: PipeObserver) -> Message:
    """Do the work and put whatever comes of it into a message."""
    try:
        return perform(Assignment.model_validate_json(line), observer)
    except CancelledError:
        return {"event": "canceled"}
    except DomainError as error:
        return {"event": "error", "problem": problem_of(error)}
    except MemoryError:
        detail = "not enough memory for this job; use a smaller image or patch, or a larger machine"
        return {"event": "error", "problem": problem_document("out-of-memory", detail)}
    except Exception:
        log.exception("a job ended in an error that nobody foresaw")
        detail = "the service made a mistake; its log has the details"
        return {"event": "error", "problem": problem_document(INTERNAL_ERROR, detail)}


def _private_output() -> Send:
    """Keep standard output for messages, and send what libraries print to standard error instead."""
    stream: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = Lock()

    def send(message: Message) -> None:
        with lock:
            stream.write(json.dumps(message, allow_nan=False) + "\n")
            stream.flush()

    return send


def _assignments() -> Iterator[str]:
    """Yield the lines of standard input; when it ends, the parent has, and so do we, whatever we do."""
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(1)

    Thread(target=read, name="parent", daemon=True).start()
    while True:
        yield lines.get()


def _end_with_parent() -> None:
    """Ask the kernel to end us when the parent ends, even in the middle of a long system call."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def perform(assignment: Assignment, observer: PipeObserver) -> Message:
    """Do what the order says with the function of its kind."""
    from worker import tasks

    return tasks.perform(assignment.order, assignment.workspace(), observer, threads=assignment.threads)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    serve(perform, is_resident=False)
