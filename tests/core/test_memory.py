"""Cases that are read at the same time stay below a limit of memory together."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.memory import Memory


def test_together_they_stay_below_the_limit() -> None:
    memory, lock = Memory(10), threading.Lock()
    now, most = 0, 0

    def read(size: int) -> None:
        nonlocal now, most
        with memory.of(size):
            with lock:
                now += size
                most = max(most, now)
            threading.Event().wait(0.002)
            with lock:
                now -= size

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, [1, 4, 3, 6, 2, 5, 10, 3] * 6))

    assert 5 < most <= 10


def test_what_is_larger_than_all_of_it_is_read_alone() -> None:
    memory = Memory(10)
    entered = threading.Event()

    def read() -> None:
        with memory.of(1):
            entered.set()

    other = threading.Thread(target=read, daemon=True)
    with memory.of(100):
        other.start()
        assert not entered.wait(0.05)

    assert entered.wait(5)


def test_an_error_gives_the_memory_back() -> None:
    memory = Memory(10)

    with pytest.raises(ValueError, match="x"), memory.of(10):
        raise ValueError("x")

    with memory.of(10):
        pass
