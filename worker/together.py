"""A training that several processes of this machine do together, from the side of the child that has the job."""

import os
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

from core.domain.plan import Configuration
from core.domain.progress import Observer, Progress
from core.domain.record import Record
from core.domain.report import EvaluationReport
from core.domain.training import EpochRecord
from core.errors import CancelledError, DomainError, TrainingError
from worker.observer import Message
from worker.partner import Shared
from worker.process import Child, DeathError

LAUNCHER: Final = "worker.launcher"

LISTEN_SECONDS: Final = 0.2
"""How long the processes are listened to before the caller is asked whether to stop."""

PARTING_SECONDS: Final = 10.0
"""How long processes that have done their work may take to end."""


class Stop(Record):
    """What asks the processes to end."""

    stop: Literal[True] = True


def fitting(wanted: int, configuration: Configuration) -> int:
    """Return how many processes can train a configuration together: as many as wanted, but none without a sample.

    Batch norm takes its statistics from the whole batch, so it is trained by one.
    """
    network = configuration.architecture
    norm = (network.unet.norm_op or "") if network.is_unet else ""
    return 1 if "BatchNorm" in norm else min(wanted, configuration.batch_size)


def train_together(shared: Shared, processes: int, folder: Path, observer: Observer) -> EvaluationReport:
    """Train a fold as `pipeline.train` does, with several processes.

    Args:
        shared: What to train, and how to log.
        processes: How many.
        folder: For files that the processes are started from.
        observer: Told what the first of them tells; asked all the time whether to stop.

    Raises:
        CancelledError: The observer asked to stop; the last checkpoint is complete.
        DeathError: They ended without a word.
        DomainError: As `pipeline.train`.
    """
    file = folder / "shared.json"
    shared.write(file)
    with closing(Child(LAUNCHER, None, (str(processes), str(file), str(os.getpid())))) as child:
        ending = _ending(child, observer)
        # After an error the others wait for one that has gone, so they are ended.
        if ending["event"] != "error":
            while child.is_alive and child.next(PARTING_SECONDS) is not None:
                pass
    match ending:
        case {"event": "result", "result": report}:
            return EvaluationReport.model_validate(report)
        case {"event": "error", "problem": problem}:
            raise _error(dict(problem))
        case _:
            raise CancelledError("the training was stopped")


def _ending(child: Child, observer: Observer) -> Message:
    """Pass on what the processes say, and the wish to stop; return their last message.

    Raises:
        CancelledError: They ended without one, as they were asked to.
        DeathError: They ended without one.
    """
    has_asked = False
    while True:
        if not has_asked and observer.stop_requested():
            has_asked = True
            child.send(Stop())
        message = child.next(LISTEN_SECONDS)
        match message:
            case None if child.is_alive:
                pass
            case None if has_asked:
                raise CancelledError("the training was stopped")
            case None:
                raise DeathError(f"a process of the training died: {child.cause_of_death()}")
            case {"event": "progress"}:
                observer.report(Progress.model_validate(_values(message)))
            case {"event": "epoch"}:
                observer.record_epoch(EpochRecord.model_validate(_values(message)))
            case _:
                return message


def _values(message: Message) -> Message:
    """Return what a message carries beside its event."""
    return {key: value for key, value in message.items() if key != "event"}


def _error(problem: dict[str, object]) -> DomainError:
    """Return the error that a problem document describes."""
    kind, detail = str(problem.pop("code")), str(problem.pop("detail"))
    del problem["type"], problem["title"]
    error = TrainingError(detail, **problem)  # type: ignore[arg-type]
    error.kind = kind  # type: ignore[misc]
    return error
