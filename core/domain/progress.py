"""How a running stage talks to its caller: progress and epochs out, the wish to stop in."""

from typing import Protocol

from core.domain.record import Record
from core.domain.training import EpochRecord


class Progress(Record):
    """How far a stage has come."""

    stage: str
    """What is being done, in one word: verify, fingerprint, preprocess, train, validate, predict."""
    done: int
    total: int
    note: str = ""
    """A few words for a person, for example the loss."""


class Observer(Protocol):
    """The caller's side of a running stage."""

    def report(self, progress: Progress) -> None:
        """Take note of progress; called often, so it must return quickly."""

    def record_epoch(self, epoch: EpochRecord) -> None:
        """Take note of a finished epoch whose checkpoint is on disk."""

    def stop_requested(self) -> bool:
        """Return whether the stage should stop at the next safe point with a CancelledError."""


class SilentObserver:
    """Listens to nothing and never asks to stop."""

    def report(self, progress: Progress) -> None:
        """Ignore the progress."""

    def record_epoch(self, epoch: EpochRecord) -> None:
        """Ignore the epoch."""

    def stop_requested(self) -> bool:
        """Never ask to stop."""
        return False


class QuietObserver:
    """Passes on the wish to stop, and keeps the steps of an inner stage to itself."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def report(self, progress: Progress) -> None:
        """Ignore the progress."""

    def record_epoch(self, epoch: EpochRecord) -> None:
        """Ignore the epoch."""

    def stop_requested(self) -> bool:
        """Ask the caller."""
        return self._observer.stop_requested()


class SeveralObservers:
    """Passes everything on to each of several observers; any of them may ask to stop."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def report(self, progress: Progress) -> None:
        """Tell each of them."""
        for observer in self._observers:
            observer.report(progress)

    def record_epoch(self, epoch: EpochRecord) -> None:
        """Tell each of them."""
        for observer in self._observers:
            observer.record_epoch(epoch)

    def stop_requested(self) -> bool:
        """Ask each of them."""
        return any(observer.stop_requested() for observer in self._observers)
