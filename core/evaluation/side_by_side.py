"""Many cases worked on side by side: progress is told, a wish to stop heeded, and what fails is said in one sentence."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from core.crew import Crew, LostWorkerError, worked_on
from core.domain.progress import Observer, Progress
from core.errors import CancelledError, DatasetError, DomainError
from core.preprocessing.budget import SHARE_OF_AVAILABLE, available_bytes

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Errand:
    """What is done for each case, and who follows it."""

    stage: str
    """What the observer is told."""
    observer: Observer
    workers: int = 2
    """Cases at the same time; fewer where memory is short."""


def each_case(
    work: Callable[[T], R],
    cases: Sequence[T],
    errand: Errand,
    *,
    name: Callable[[T], str],
    needs: Callable[[T], int],
) -> list[R]:
    """Do work on every case, and return what came of each, in their order.

    Args:
        work: As for `core.crew.worked_on`: mostly done in a process of its own.
        cases: To be worked on.
        errand: Whom to tell, and how many hands there are.
        name: What to call a case in a sentence.
        needs: Bytes that a case takes at most.

    Raises:
        DomainError: Work on some cases failed; the sentence joins those of all, and the kind is that of the first.
        DatasetError: A process was killed.
        CancelledError: The observer asked to stop.
    """
    crew = Crew(errand.workers, int(SHARE_OF_AVAILABLE * available_bytes()))
    results: dict[int, R] = {}
    faults: dict[int, DomainError] = {}
    _heed(errand)
    try:
        with closing(worked_on(work, cases, crew, needs)) as finished_cases:
            for finished in finished_cases:
                if finished.error is None:
                    results[finished.index] = finished.result  # type: ignore[assignment]  # It may be None itself.
                elif isinstance(finished.error, DomainError):
                    faults[finished.index] = finished.error
                else:
                    raise finished.error
                done = len(results) + len(faults)
                errand.observer.report(Progress(stage=errand.stage, done=done, total=len(cases)))
                if done < len(cases):
                    _heed(errand)
    except LostWorkerError as error:
        names = ", ".join(name(cases[index]) for index in error.indices)
        raise DatasetError(
            f"a process was killed while it worked on {names}, probably because the machine ran out of memory; use "
            "fewer workers, or close other programs"
        ) from error
    if faults:
        first = faults[min(faults)]
        sentence = "; ".join(faults[index].message for index in sorted(faults))
        raise type(first)(sentence, **first.context) from first
    return [results[index] for index in range(len(cases))]


def _heed(errand: Errand) -> None:
    """Stop if the observer wants that.

    Raises:
        CancelledError: It does.
    """
    if errand.observer.stop_requested():
        raise CancelledError(f"{errand.stage} stopped")
