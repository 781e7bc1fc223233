"""Memory: what there is, and that nobody takes what others hold."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Lock

import pytest

from core.errors import CancelledError
from core.preprocessing.budget import Budget, available_bytes

MIB = 2**20


def test_those_who_fit_together_work_at_once() -> None:
    budget, together = Budget(100), Barrier(3)

    def work(needed: int) -> None:
        with budget.holding(needed):
            together.wait(10)

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(work, needed) for needed in (50, 30, 20)]:
            done.result()


def test_those_who_do_not_fit_wait() -> None:
    budget, lock = Budget(100), Lock()
    held, most = 0, 0

    def work(needed: int) -> None:
        nonlocal held, most
        with budget.holding(needed):
            with lock:
                held += needed
                most = max(most, held)
            with lock:
                held -= needed

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, needed) for needed in (60, 50, 40, 10, 70, 30) * 50]:
            done.result()

    assert most <= 100


def test_one_who_needs_more_than_there_is_works_alone() -> None:
    budget, inside, may_end = Budget(100), Event(), Event()

    def small() -> bool:
        with budget.holding(1):
            return may_end.is_set()

    with ThreadPoolExecutor(1) as pool, budget.holding(1000):
        other = pool.submit(small)
        inside.wait(0.05)
        may_end.set()

    assert other.result()


def test_those_who_wait_are_sent_away_when_it_is_closed() -> None:
    budget = Budget(100)

    def work() -> None:
        with budget.holding(80):
            pass

    with ThreadPoolExecutor(1) as pool, budget.holding(80):
        waiting = pool.submit(work)
        budget.close()
        with pytest.raises(CancelledError):
            waiting.result()


def test_the_machine_says_what_is_available(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    2048 kB\n")

    assert available_bytes(tmp_path / "meminfo", tmp_path) == 2 * MIB


@pytest.mark.parametrize(
    ("limit", "usage", "folder", "droppable"),
    [
        ("memory.max", "memory.current", "", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory", "total_inactive_file"),
    ],
)
def test_a_container_has_less(tmp_path: Path, limit: str, usage: str, folder: str, droppable: str) -> None:
    group = tmp_path / folder
    group.mkdir(exist_ok=True)
    (tmp_path / "meminfo").write_text("MemAvailable:    204800 kB\n")
    (group / limit).write_text(f"{50 * MIB}\n")
    (group / usage).write_text(f"{30 * MIB}\n")
    (group / "memory.stat").write_text(f"anon 5\n{droppable} {10 * MIB}\n")

    assert available_bytes(tmp_path / "meminfo", tmp_path) == 30 * MIB


def test_a_container_without_limit_has_what_the_machine_has(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable:    2048 kB\n")
    (tmp_path / "memory.max").write_text("max\n")

    assert available_bytes(tmp_path / "meminfo", tmp_path) == 2 * MIB


def test_this_machine_has_some() -> None:
    assert available_bytes() > 0
