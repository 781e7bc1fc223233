"""Going through the cases of a dataset: a few at a time, in order, while somebody listens."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from core.domain.progress import Observer, Progress
from core.errors import CancelledError
from core.io.cases import CaseFiles

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """How to go through cases: under which name, who listens, how many at a time."""

    name: str
    observer: Observer
    workers: int


def map_cases(work: Callable[[CaseFiles], T], cases: Sequence[CaseFiles], stage: Stage) -> list[T]:
    """Do work on every case in a few threads, and tell the observer.

    Threads suffice, because decoding, decompression and large array operations run outside Python's lock.

    Returns:
        Results in the order of the cases.

    Raises:
        CancelledError: The observer asked to stop.
        DomainError: What the work raised first, in the order of the cases.
    """
    results: list[T] = []
    with ThreadPoolExecutor(max_workers=stage.workers, thread_name_prefix=stage.name) as pool:
        futures = [pool.submit(work, case) for case in cases]
        try:
            for future in futures:
                if stage.observer.stop_requested():
                    raise CancelledError(f"{stage.name} stopped after {len(results)} of {len(cases)} cases")
                results.append(future.result())
                stage.observer.report(Progress(stage=stage.name, done=len(results), total=len(cases)))
        finally:
            pool.shutdown(cancel_futures=True)
    return results
