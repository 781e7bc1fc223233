"""What the verbs of the command line share: options, files that a user names, progress on a terminal."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import FINGERPRINT_FILE, Fingerprint
from core.domain.geometry import COARSEST_MM, FINEST_MM, Shape
from core.domain.plan import Plan
from core.domain.progress import Observer, Progress, SilentObserver
from core.domain.training import EpochRecord, Fold
from core.errors import DatasetError, DomainError, PlanningError, TrainingError

DEVICES = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
"""As `PredictionOptions` has it."""

LARGEST_FILE = 2**29
"""Bytes of a JSON file; a fingerprint of a million cases has a quarter of that."""

LONGEST_AXIS = 100_000
"""Voxels of an image whose prediction is estimated."""

Raw = Annotated[Path, typer.Option(help="Dataset folder: dataset.json, imagesTr, labelsTr.", readable=False)]
Out = Annotated[Path, typer.Option(help="Where the result goes.")]
Plans = Annotated[Path, typer.Option(help="plans.json")]
Configuration = Annotated[str, typer.Option(help="2d, 3d_fullres, or another one of the plans.")]
Workers = Annotated[int | None, typer.Option(help="Threads; by default one per core.", min=1)]
Precision = Annotated[Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Of the arithmetic.")]


def _known_device(name: str) -> str:
    """Refuse a device of a kind that is not used.

    Raises:
        BadParameter: It is none.
    """
    if not DEVICES.fullmatch(name):
        raise typer.BadParameter(f"there is no device {name!r}; write auto, cpu, cuda or cuda:1")
    return name


Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1 …", callback=_known_device)]


MOST_GPU_MEMORY_GB = 1000
"""As the service has it."""


def sensible_memory(gpu_memory_gb: float | None) -> float | None:
    """Refuse a memory that no GPU has; however small, planning says whether a patch fits.

    Raises:
        BadParameter: It is none.
    """
    if gpu_memory_gb is not None and not 0 < gpu_memory_gb <= MOST_GPU_MEMORY_GB:
        raise typer.BadParameter(
            f"{gpu_memory_gb:g} is no memory of a GPU; write GB, more than 0 and at most {MOST_GPU_MEMORY_GB}"
        )
    return gpu_memory_gb


class LineObserver(SilentObserver):
    """Says on standard error when a stage is done; for files and pipes, in which no bar can move."""

    def report(self, progress: Progress) -> None:
        """Print one line at the end of a stage."""
        if progress.done == progress.total:
            print(f"{progress.stage}: {progress.done} of {progress.total}", file=sys.stderr)

    def record_epoch(self, epoch: EpochRecord) -> None:
        """Print one line per epoch."""
        print(_epoch_line(epoch), file=sys.stderr, flush=True)


@contextmanager
def observing() -> Iterator[Observer]:
    """Show how far a verb is, with bars if somebody watches."""
    if not sys.stderr.isatty():
        yield LineObserver()
        return
    from core.bars import shown_bars

    with shown_bars(_epoch_line) as observer:
        yield observer


def _epoch_line(epoch: EpochRecord) -> str:
    """Put what an epoch measured into one line."""
    dice = "  ".join(f"{name} {figure(value)}" for name, value in epoch.pseudo_dice.items())
    return (
        f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, validation {figure(epoch.validation_loss)}, "
        f"pseudo Dice {dice}, {epoch.seconds:.1f} s"
    )


def read_text(path: Path) -> str:
    """Read a small file that the user named."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise DatasetError(f"cannot read {path}: it is larger than any such file; is it the right one?")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise DatasetError(f"cannot read {path}: it is no text in UTF-8; is it the right file?") from reason
    except OSError as reason:
        raise DatasetError(f"cannot read {path}: {reason.strerror}; check the path") from reason
    except ValueError as reason:
        raise DatasetError(f"cannot read {str(path)!r}: {reason}; check the path") from reason


@contextmanager
def about(path: Path, name: str) -> Iterator[None]:
    """Name the user's file in what is said of it.

    Args:
        path: Which file.
        name: What sentences about a file of its kind call it.
    """
    try:
        yield
    except DomainError as error:
        rest = error.message.removeprefix(name)
        sentence = f"{path}{rest}" if rest != error.message else f"{path}: {rest}"
        raise type(error)(sentence, **error.context) from error


def read_description(path: Path) -> DatasetDescription:
    """Read a dataset.json that the user named."""
    text = read_text(path)
    with about(path, "dataset.json"):
        description = DatasetDescription.parse(text)
        description.label_set()
    return description


def read_fingerprint(path: Path) -> Fingerprint:
    """Read a dataset_fingerprint.json that the user named."""
    text = read_text(path)
    with about(path, FINGERPRINT_FILE):
        return Fingerprint.parse(text)


def read_plan(path: Path) -> Plan:
    """Read a plans.json that somebody may have edited."""
    from core.planning.check import checked_plan

    text = read_text(path)
    with about(path, "plans.json"):
        return checked_plan(text)


def require_other(out: Path, *read: Path) -> None:
    """Refuse to write a result over what it is made from."""
    for path in read:
        if path.exists() and out.exists() and out.samefile(path):
            raise DatasetError(f"{out} is read for this, and would be lost; name another file for the result")


def is_within(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder or lies in it, wherever symbolic links lead."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def read_triple(text: str) -> tuple[float, float, float]:
    """Read three positive numbers separated by commas."""
    try:
        z, y, x = (float(part) for part in text.split(","))
        if min(z, y, x) >= FINEST_MM and max(z, y, x) <= COARSEST_MM:
            return (z, y, x)
    except ValueError:
        pass
    raise PlanningError(f"{text!r} is not z,y,x: three positive numbers such as 1,0.5,0.5")


def read_shape(text: str) -> Shape:
    """Read three voxel counts separated by commas."""
    counts = text.split(",")
    if len(counts) == len("zyx") and all(part.strip().isdecimal() for part in counts):
        z, y, x = (int(part) for part in counts)
        if min(z, y, x) >= 1 and max(z, y, x) <= LONGEST_AXIS:
            return (z, y, x)
    raise PlanningError(
        f"{text!r} is not z,y,x: three whole numbers of voxels from 1 to {LONGEST_AXIS}, such as 40,512,512"
    )


def fold_of(text: str) -> Fold:
    """Read a fold."""
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise TrainingError(f"{text!r} is no fold; give 0, 1, … or all")
    return int(text)


def figure(value: float | None) -> str:
    """Four digits, or a dash where the value is undefined."""
    return "-" if value is None else f"{value:.4f}"
