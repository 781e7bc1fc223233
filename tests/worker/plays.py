"""A child process that plays: each job's archive holds one file whose name says what to do.

`python -m tests.worker.plays` is such a child; with the argument `worker` it is a worker that has such children.
"""

import os
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.jobs import Lane
from app.payloads import IngestPayload, IngestResult
from app.settings import Settings
from core.domain.progress import Progress
from core.domain.training import EpochRecord
from core.errors import CancelledError, DatasetError
from worker import dispatcher
from worker.child import Assignment, serve
from worker.machine import Worker, open_worker
from worker.observer import Message, PipeObserver
from worker.process import Child

MODULE = "tests.worker.plays"
ROOT = Path(__file__).parents[2]

Play = Callable[[Assignment, PipeObserver], None]


@dataclass
class PlayingWorker(Worker):
    """A worker like any other, but for its children."""

    def start(self, module: str) -> Child:
        """Start a child that plays."""
        assert module == "worker.child"
        return Child(MODULE, environment(self.settings))


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of a child, in which this module is found."""
    return settings.child_environment() | {"PYTHONPATH": str(ROOT)}


def wait_for(file: Path, observer: PipeObserver) -> None:
    """Wait until a test writes a file, or asks to stop."""
    while not file.exists():
        if observer.stop_requested():
            raise CancelledError("stopped")
        time.sleep(0.01)


def noisy(_assignment: Assignment, _observer: PipeObserver) -> None:
    """Print as libraries do: through Python, through the C level, from a program."""
    print("{not json", flush=True)  # noqa: T201
    os.write(1, b'{"event": "result"}\n')
    os.system("echo from a program")  # noqa: S605, S607


def refuses(_assignment: Assignment, _observer: PipeObserver) -> None:
    """Raise an error on purpose."""
    raise DatasetError("case 7 has no label; add it", case="case_7")


def mistaken(_assignment: Assignment, _observer: PipeObserver) -> None:
    """Raise an error that nobody foresaw."""
    raise RuntimeError("the text of /secret/path")


def hungry(_assignment: Assignment, _observer: PipeObserver) -> None:
    """Ask for more memory than there is."""
    bytearray(2**62)


def crowded(_assignment: Assignment, _observer: PipeObserver) -> None:
    """Find the disk full."""
    raise OSError(28, "No space left on device")


def patient(_assignment: Assignment, observer: PipeObserver) -> None:
    """Work until asked to stop."""
    observer.report(Progress(stage="train", done=1, total=9))
    wait_for(Path("/nonexistent"), observer)


def stubborn(_assignment: Assignment, observer: PipeObserver) -> None:
    """Compute without ever coming back to Python: no signal handler and no other thread gets a turn."""
    observer.report(Progress(stage="train", done=1, total=9))
    sum(range(10**15))


def killed(_assignment: Assignment, _observer: PipeObserver) -> None:
    """End as the system ends what takes too much memory, in the middle of a message."""
    os.kill(os.getpid(), signal.SIGKILL)


def waits(assignment: Assignment, observer: PipeObserver) -> None:
    """Report epochs, wait for a file, then succeed."""
    observer.report(Progress(stage="train", done=2, total=4, note="epoch 2"))
    for number in (0, 1, 0, 1, 2):
        observer.record_epoch(epoch(number))
    wait_for(assignment.workspace_dir.parent / "go", observer)


def goes_on(assignment: Assignment, observer: PipeObserver) -> None:
    """Finish three epochs beyond the checkpoint, hand one over after each, and wait for a file."""
    start = 0 if assignment.order.checkpoint is None else assignment.order.checkpoint.epochs
    observer.resumed(start)
    for number in range(start, start + 3):
        observer.record_epoch(epoch(number))
        observer.report(Progress(stage="train", done=number + 1, total=9))
        file = outbox(assignment) / f"checkpoint-{number + 1}"
        file.write_text(f"{number + 1} epochs")
        observer.hand_over(file, number + 1)
    wait_for(assignment.workspace_dir.parent / "go", observer)


def forgets(_assignment: Assignment, _observer: PipeObserver) -> None:
    """Name a file that is not there; see `perform`."""


def settings_seen(_assignment: Assignment, observer: PipeObserver) -> None:
    """Report the settings of the service that can be seen from here."""
    names = [name for name in os.environ if name.startswith("SEG_")]  # noqa: TID251
    observer.report(Progress(stage="names", done=len(names), total=len(names)))


PLAYS: dict[str, Play] = {
    play.__name__: play
    for play in (
        noisy, refuses, mistaken, hungry, crowded, patient, stubborn, killed, waits, goes_on, forgets,
        settings_seen,
    )
}  # fmt: skip


def epoch(number: int) -> EpochRecord:
    """Return what an epoch might measure."""
    return EpochRecord(
        epoch=number,
        train_loss=-0.1 * number,
        validation_loss=None,
        pseudo_dice={"left": None},
        mean_pseudo_dice=None,
        smoothed_pseudo_dice=None,
        learning_rate=0.01,
        seconds=1,
    )


def outbox(assignment: Assignment) -> Path:
    """Return where files to be handed over lie."""
    return assignment.workspace_dir / "outbox" / f"{assignment.order.job_id}-{assignment.order.fence}"


def perform(assignment: Assignment, observer: PipeObserver) -> Message:
    """Do what the archive says."""
    payload = assignment.order.payload
    assert isinstance(payload, IngestPayload)
    with zipfile.ZipFile(assignment.workspace().store.path(payload.archive)) as archive:
        play = archive.namelist()[0]
    assert assignment.workspace().outbox(assignment.order) == outbox(assignment)
    PLAYS[play](assignment, observer)
    result = IngestResult(description={}, reader=play, cases=(), problems=())
    (outbox(assignment) / "note").write_text(play)
    files = {"note": str(outbox(assignment) / "lost")} if play == "forgets" else {}
    return {"event": "result", "result": result.to_json(), "files": files}


def main() -> None:
    """Be a child, or a worker."""
    if sys.argv[1:] != ["worker"]:
        serve(perform, is_resident=True)
        return
    opened = open_worker(Settings(), lambda: False)
    worker = PlayingWorker(opened.settings, opened.sessions, opened.readers, opened.queue, "played")
    dispatcher.work(worker, [Lane.CPU])


if __name__ == "__main__":
    main()
