"""Side by side: every thing once, nothing beyond the memory, and nobody left waiting when something goes wrong."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.crew import MOST_IN_A_PARCEL, Crew, LostWorkerError, _parcels, may_fork, worked_on
from core.errors import ImageError


@contextmanager
def another_thread() -> Iterator[None]:
    """Keep a thread at work, so that nobody forks."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield
    end.set()
    thread.join()


@contextmanager
def nobody_else() -> Iterator[None]:
    yield


@pytest.fixture(params=["processes", "threads"])
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    with another_thread() if request.param == "threads" else nobody_else():
        assert may_fork() is (request.param == "processes")
        yield request.param


def squared(number: int) -> int:
    return number * number


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_every_thing_is_worked_on_once(workers: int, count: int) -> None:
    things = list(range(count))

    seen = [(one.index, one.result) for one in worked_on(squared, things, Crew(workers))]

    assert sorted(seen) == [(number, number * number) for number in things]


@pytest.mark.usefixtures("mode")
def test_what_one_raises_harms_no_other() -> None:
    def work(number: int) -> int:
        if number % 3 == 0:
            raise ImageError(f"number {number} is bad", case=str(number))
        return number

    finished = list(worked_on(work, list(range(10)), Crew(2)))

    errors = {one.index: one.error for one in finished if one.error is not None}
    assert sorted(errors) == [0, 3, 6, 9]
    assert isinstance(errors[3], ImageError)
    assert (errors[3].message, errors[3].context) == ("number 3 is bad", {"case": "3"})


def test_processes_are_used_where_they_may_be(mode: str) -> None:
    pids = {one.result for one in worked_on(lambda _: os.getpid(), list(range(8)), Crew(2))}

    assert (os.getpid() in pids) is (mode == "threads")


@pytest.mark.usefixtures("mode")
def test_they_work_at_the_same_time(tmp_path: Path) -> None:
    def work(number: int) -> bool:
        (tmp_path / str(number)).touch()
        deadline = time.monotonic() + 20
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(list(tmp_path.iterdir())) == 2

    assert [one.result for one in worked_on(work, [0, 1], Crew(2))] == [True, True]


@pytest.mark.usefixtures("mode")
def test_memory_is_not_exceeded(tmp_path: Path) -> None:
    needed = [70, 60, 50, 40, 30, 20, 10] * 3

    def work(index: int) -> int:
        mine = tmp_path / f"{index}-{needed[index]}"
        mine.touch()
        time.sleep(0.005)
        held = sum(int(path.name.split("-")[1]) for path in tmp_path.iterdir())
        mine.unlink()
        return held

    held = [
        one.result or 0 for one in worked_on(work, list(range(len(needed))), Crew(3, 100), needed.__getitem__)
    ]

    assert len(held) == len(needed)
    assert max(held) <= 100


@pytest.mark.usefixtures("mode")
def test_a_thing_that_needs_more_than_there_is_is_worked_on_alone() -> None:
    finished = worked_on(squared, [50, 5, 40], Crew(2, 10), lambda number: number)

    assert [(one.index, one.result) for one in finished] == [(1, 25), (0, 2500), (2, 1600)]


@pytest.mark.usefixtures("mode")
def test_what_cannot_be_estimated_fails_as_if_it_had_been_worked_on() -> None:
    def needs(number: int) -> int:
        if number == 1:
            raise ImageError("number 1 is bad")
        return number

    finished = {one.index: one for one in worked_on(squared, [0, 1, 2], Crew(2, 10), needs)}

    assert isinstance(finished[1].error, ImageError)
    assert (finished[0].result, finished[2].result) == (0, 4)


@pytest.mark.usefixtures("mode")
def test_whoever_stops_listening_stops_the_work(tmp_path: Path) -> None:
    def work(number: int) -> int:
        (tmp_path / str(number)).touch()
        time.sleep(0.02)
        return number

    finished = worked_on(work, list(range(200)), Crew(2))
    next(finished)
    finished.close()

    begun = len(list(tmp_path.iterdir()))
    time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) == begun < 100


def test_a_process_that_is_killed_is_told_with_what_it_worked_on() -> None:
    def work(number: int) -> int:
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pytest.raises(LostWorkerError) as caught:
        list(worked_on(work, list(range(8)), Crew(2)))

    assert 5 in caught.value.indices


def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()

    def work(_: int) -> int:
        (pids / str(os.getpid())).touch()
        time.sleep(60)
        return 0

    parent = os.fork()
    if parent == 0:
        list(worked_on(work, [0, 1], Crew(2)))
        os._exit(0)
    while len(list(pids.iterdir())) < 2:
        time.sleep(0.01)

    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)

    deadline = time.monotonic() + 20
    while any(_is_alive(int(path.name)) for path in pids.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(_is_alive(int(path.name)) for path in pids.iterdir())


def test_a_thread_beside_the_main_one_does_not_fork() -> None:
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(may_fork()), daemon=True)
    thread.start()
    thread.join()

    assert answers == [False]


@given(st.integers(0, 3000), st.integers(1, 64))
def test_parcels_hold_everything_in_order(count: int, workers: int) -> None:
    parcels = _parcels(count, workers)

    assert [index for parcel in parcels for index in parcel.indices] == list(range(count))
    assert all(1 <= len(parcel.indices) <= MOST_IN_A_PARCEL for parcel in parcels)
    assert count == 0 or len(parcels) >= min(count, workers)


def _is_alive(pid: int) -> bool:
    """Whether a process runs, and is not merely waiting to be buried."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] not in {"Z", "X"}
