"""What a running verb says becomes messages to the parent process; what the parent wishes becomes a stop."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.domain.progress import Progress
from core.domain.record import Record
from core.domain.training import EpochRecord
from worker.workspace import link_or_copy

Message = dict[str, Any]

SHORTEST_SILENCE_SECONDS = 0.3
"""Between two messages of progress; the parent writes at most one a second anyway."""


class PipeObserver:
    """Sends progress and epochs to the parent, sparingly."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._spoke_at = float("-inf")
        self._stage = ""
        self._is_stopping = False

    def report(self, progress: Progress) -> None:
        """Send progress, unless the last message of the stage was a moment ago."""
        moment = time.monotonic()
        is_news = progress.stage != self._stage or progress.done >= progress.total
        if is_news or moment - self._spoke_at >= SHORTEST_SILENCE_SECONDS:
            self._spoke_at, self._stage = moment, progress.stage
            self._send({"event": "progress", **progress.to_json()})

    def record_epoch(self, epoch: EpochRecord) -> None:
        """Send every epoch."""
        self._send({"event": "epoch", **epoch.to_json()})

    def resumed(self, epochs: int) -> None:
        """Tell that a training goes on after so many finished epochs."""
        self._send({"event": "resumed", "epochs": epochs})

    def hand_over(self, checkpoint: Path, epochs: int) -> None:
        """Give the parent a checkpoint for the object store; nobody writes to this file any more."""
        self._send({"event": "checkpoint", "path": str(checkpoint), "epochs": epochs})

    def stop(self) -> None:
        """Pass on that the parent asked to stop; called by a signal, at any moment."""
        self._is_stopping = True

    def stop_requested(self) -> bool:
        """Return whether the parent asked to stop."""
        return self._is_stopping


class CheckpointObserver:
    """Passes on what a training says, and hands its checkpoint over every now and then.

    Args:
        inner: Told everything.
        checkpoint: File that is whole whenever an epoch is recorded; it is replaced, never changed.
        outbox: Where checkpoints to be handed over get a name of their own.
        every_seconds: At least so long between two of them, but for the first and the last.
    """

    def __init__(self, inner: PipeObserver, checkpoint: Path, outbox: Path, every_seconds: float) -> None:
        self.report = inner.report
        self.stop_requested = inner.stop_requested
        self._inner = inner
        self._checkpoint = checkpoint
        self._outbox = outbox
        self._every_seconds = every_seconds
        self._handed_at = float("-inf")
        self._handed = 0
        self._finished = 0

    def record_epoch(self, epoch: EpochRecord) -> None:
        """Pass an epoch on; those of earlier attempts are told again and change nothing here."""
        self._inner.record_epoch(epoch)
        is_new = epoch.epoch >= self._finished
        self._finished = max(self._finished, epoch.epoch + 1)
        if is_new and time.monotonic() - self._handed_at >= self._every_seconds:
            self.hand_over()

    def hand_over(self) -> None:
        """Hand the checkpoint over, unless the parent has it already, or it is just being replaced."""
        if self._finished > self._handed:
            target = self._outbox / f"checkpoint-{self._finished}.safetensors"
            with suppress(FileNotFoundError):
                link_or_copy(self._checkpoint, target)
                self._handed, self._handed_at = self._finished, time.monotonic()
                self._inner.hand_over(target, self._finished)

    def starts_from(self, epochs: int, *, is_stored: bool) -> None:
        """Take note of what earlier attempts finished, and hand it over if the store does not have it."""
        self._inner.resumed(epochs)
        self._finished = epochs
        self._handed = epochs if is_stored else 0
        self.hand_over()


def result_message(result: Record, files: Mapping[str, Path] | None = None) -> Message:
    """Put a result and the files that belong to it into the last message of a child."""
    paths = {name: str(path) for name, path in (files or {}).items()}
    return {"event": "result", "result": result.to_json(), "files": paths}
