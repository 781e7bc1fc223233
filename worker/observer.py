"""What a running verb says becomes messages to the parent process; what the parent wishes becomes a stop."""

import time
from collections.abc import Callable
from typing import Any

from core.domain.progress import Progress
from core.domain.training import EpochRecord

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

    def stop(self) -> None:
        """Pass on that the parent asked to stop; called by a signal, at any moment."""
        self._is_stopping = True

    def stop_requested(self) -> bool:
        """Return whether the parent asked to stop."""
        return self._is_stopping
