"""Making things ahead of their consumer, in one background thread."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

MADE_AHEAD = 2
"""Batches that are ready or in the making while the network is busy; more would only hold memory."""


def made_ahead(make: Callable[[int], T], count: int) -> Generator[T, None, None]:
    """Yield make(0), make(1), … make(count - 1), each computed while its predecessors are consumed.

    The thread ends with the iteration, also when the consumer leaves early or fails; what `make` raises
    reaches the consumer in its turn. The thread computes on one core, since the network needs the others,
    and so that results do not depend on how many there are.
    """
    # A thread's count of cores is that of the last call to set_num_threads by any thread, unless the
    # thread has asked before: let the caller ask before the maker's is reduced.
    torch.get_num_threads()
    maker = ThreadPoolExecutor(1, "batches", initializer=torch.set_num_threads, initargs=(1,))
    ahead: deque[Future[T]] = deque()
    try:
        for index in range(count + MADE_AHEAD):
            if index < count:
                ahead.append(maker.submit(make, index))
            if index >= MADE_AHEAD:
                yield ahead.popleft().result()
    finally:
        maker.shutdown(cancel_futures=True)
