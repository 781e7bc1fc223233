"""What an epoch leaves on disk, written beside the training by a thread of its own."""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from core.domain.model import BEST_WEIGHTS_FILE, EPOCHS_FILE
from core.domain.progress import Observer
from core.domain.training import EpochRecord
from core.training import checkpoint
from core.training.checkpoint import Snapshot
from core.training.course import best_epoch

log = logging.getLogger(__name__)


class Saver:
    """Writes the files of a fold after each epoch, while the next one is trained; used as a context.

    The observer is told of an epoch once its checkpoint is on disk, by the thread that trains: whoever records
    epochs can rely on it. At most one epoch is being written; the end of the context waits for it.

    Args:
        folder: Of the fold.
        observer: Told of every epoch that is on disk.
    """

    def __init__(self, folder: Path, observer: Observer) -> None:
        self._folder = folder
        self._observer = observer
        self._writer = ThreadPoolExecutor(1, "saver")
        self._pending: tuple[Future[None], EpochRecord] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is being written; what goes wrong with it is raised, unless something else was first."""
        try:
            self.wait()
        except Exception:
            if kind is None:
                raise
            log.exception("the last epoch could not be saved")
        finally:
            self._writer.shutdown()

    def save(self, taken: Snapshot) -> None:
        """Have the state after an epoch written, as soon as the one before is.

        Raises:
            TrainingError: The checkpoint before could not be written.
            OSError: Or its list of epochs.
        """
        self.wait()
        self._pending = (self._writer.submit(_write, taken, self._folder), taken.epochs[-1])

    def settle(self) -> None:
        """Tell the observer if an epoch has been written meanwhile; waits for nothing."""
        if self._pending is not None and self._pending[0].done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written, and tell the observer.

        Raises:
            TrainingError: The checkpoint could not be written.
            OSError: Or the list of epochs.
        """
        if self._pending is not None:
            (written, record), self._pending = self._pending, None
            written.result()
            self._observer.record_epoch(record)


def write_epochs(epochs: Sequence[EpochRecord], folder: Path) -> None:
    """Write all finished epochs, one per line, so that each stands there once whatever was interrupted."""
    partial = folder / f"{EPOCHS_FILE}.partial"
    partial.write_text("".join(f"{record.model_dump_json()}\n" for record in epochs))
    partial.replace(folder / EPOCHS_FILE)


def _write(taken: Snapshot, folder: Path) -> None:
    """Write the checkpoint, the weights if no epoch was better, and the list of epochs."""
    checkpoint.save(taken, folder)
    best = best_epoch(taken.epochs)
    if best is not None and best == taken.epochs[-1].epoch:
        checkpoint.save_weights(taken, folder / BEST_WEIGHTS_FILE)
    write_epochs(taken.epochs, folder)
