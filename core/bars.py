"""Progress bars on a terminal, for the command line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from core.domain.progress import Progress, SilentObserver
from core.domain.training import EpochRecord


class BarObserver(SilentObserver):
    """Moves a bar per stage, and prints a line per epoch above them."""

    def __init__(self, bars: Bars, epoch_line: Callable[[EpochRecord], str]) -> None:
        self._bars, self._epoch_line = bars, epoch_line
        self._tasks: dict[str, TaskID] = {}

    def report(self, progress: Progress) -> None:
        """Move the bar of the stage."""
        task = self._tasks.get(progress.stage)
        if task is None:
            self._bars.start()  # Not before: a thread moves them, and preprocessing forks before it reports.
            task = self._tasks[progress.stage] = self._bars.add_task(progress.stage, note="")
        self._bars.update(task, completed=progress.done, total=progress.total, note=progress.note)

    def record_epoch(self, epoch: EpochRecord) -> None:
        """Print one line."""
        self._bars.console.print(self._epoch_line(epoch), markup=False)


@contextmanager
def shown_bars(epoch_line: Callable[[EpochRecord], str]) -> Iterator[BarObserver]:
    """Show bars on standard error while a verb runs.

    Args:
        epoch_line: Puts what an epoch measured into one line.
    """
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bars = Bars(*columns, console=Console(stderr=True))
    try:
        yield BarObserver(bars, epoch_line)
    finally:
        bars.stop()
