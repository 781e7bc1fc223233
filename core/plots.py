"""progress.png of a training: losses, pseudo Dice, learning rate and time, drawn beside the training."""

import logging
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from core.domain.progress import SilentObserver
from core.domain.training import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

PROGRESS_FILE: Final = "progress.png"
"""The picture's name, beside a fold's weights."""

BUSY_SHARE: Final = 0.05
"""Of the time that may go into drawing: where epochs take less than a second, not each of them is drawn."""

SIZE_INCHES: Final = (10.0, 12.0)

DOTS_PER_INCH: Final = 100

BLUE, RED, GREEN = "tab:blue", "tab:red", "tab:green"


class ProgressPlot(SilentObserver):
    """Draws what epochs measured, in a thread of its own; used as a context.

    Whoever trains never waits for a drawing, except for the last one, at the end of the context. Epochs that
    come while one is drawn are drawn together. A drawing that fails is logged and harms nothing.

    Args:
        path: Of the picture.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = Condition()
        self._epochs: list[EpochRecord] = []
        self._drawn = 0
        self._is_ending = False
        self._thread = Thread(target=self._draw_what_comes, name="plot", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw what is not drawn yet."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join()

    def record_epoch(self, epoch: EpochRecord) -> None:
        """Have the epoch drawn."""
        with self._changed:
            self._epochs.append(epoch)
            self._changed.notify()

    def _draw_what_comes(self) -> None:
        """Draw the newest state again and again, until the end; the thread's life."""
        is_ending = False
        while not is_ending:
            with self._changed:
                self._changed.wait_for(lambda: self._is_ending or len(self._epochs) > self._drawn)
                epochs, is_ending = tuple(self._epochs), self._is_ending
            started = time.monotonic()
            if len(epochs) > self._drawn:
                self._draw(epochs)
            self._drawn = len(epochs)
            rest = (time.monotonic() - started) / BUSY_SHARE
            with self._changed:
                self._changed.wait_for(lambda: self._is_ending, timeout=0 if is_ending else rest)

    def _draw(self, epochs: Sequence[EpochRecord]) -> None:
        """Replace the picture; a training is worth more than its picture."""
        try:
            draw(epochs, self._path)
        except Exception:
            log.exception("the progress of the training could not be drawn", extra={"file": self._path.name})


def draw(epochs: Sequence[EpochRecord], path: Path) -> None:
    """Draw what epochs measured: losses with pseudo Dice, seconds per epoch, learning rate.

    Args:
        epochs: At least one.
        path: Of the PNG file; replaced whole.

    Source:
        Engine specification B 1.14.
    """
    from matplotlib.figure import Figure  # Here, because it costs half a second.

    figure = Figure(SIZE_INCHES, DOTS_PER_INCH, layout="constrained")
    losses, duration, rate = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1))
    numbers = [record.epoch for record in epochs]
    _line(losses, numbers, (record.train_loss for record in epochs), color=BLUE, label="training loss")
    _line(losses, numbers, (record.validation_loss for record in epochs), color=RED, label="validation loss")
    losses.set_ylabel("loss")
    dice = losses.twinx()
    _line(
        dice,
        numbers,
        (record.mean_pseudo_dice for record in epochs),
        color=GREEN,
        label="pseudo Dice",
        ls=":",
    )
    _line(
        dice, numbers, (record.smoothed_pseudo_dice for record in epochs), color=GREEN, label="moving average"
    )
    dice.set_ylabel("pseudo Dice")
    dice.set_ylim(0, 1)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    _line(duration, numbers, (record.seconds for record in epochs), color=BLUE)
    duration.set_ylabel("seconds per epoch")
    duration.set_ylim(bottom=0)
    _line(rate, numbers, (record.learning_rate for record in epochs), color=BLUE)
    rate.set_ylabel("learning rate")
    rate.set_xlabel("epoch")
    rate.xaxis.get_major_locator().set_params(integer=True)
    for axes in (losses, duration, rate):
        axes.grid(alpha=0.3)
    partial = path.with_name(f"{path.name}.partial")
    figure.savefig(partial, format="png")
    partial.replace(path)


def _line(axes: "Axes", numbers: Sequence[int], values: Iterable[float | None], **look: Any) -> None:
    """Draw one curve; where a value is missing or infinite it has a gap, and a lone epoch is a dot."""
    finite = [value if value is not None and math.isfinite(value) else math.nan for value in values]
    axes.plot(numbers, finite, marker=".", markersize=3, **look)
