"""Folders that processes share: built once, whole or not at all, and never removed while one uses them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.domain.progress import SilentObserver
from core.errors import CancelledError
from worker.shared import build_once, held, lock_of, locked, remove_unused

BUILDER = """
import sys, time
from pathlib import Path
from core.domain.progress import SilentObserver
from worker.shared import build_once

def build(folder):
    (folder / "half").write_text("half")
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))
    with (Path(sys.argv[1]).parent / "builds").open("a") as log:
        log.write("built\\n")
    (folder / "whole").write_text("whole")

build_once(Path(sys.argv[1]), build, SilentObserver())
"""


class StopsAtOnce(SilentObserver):
    def stop_requested(self) -> bool:
        return True


def builder(target: Path, seconds: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, target, str(seconds)], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_build_once(tmp_path: Path) -> None:
    target = tmp_path / "folder"

    with builder(target, 0.5) as one, builder(target, 0.5) as other:
        assert (one.wait(20), other.wait(20)) == (0, 0)

    assert (tmp_path / "builds").read_text() == "built\n"
    assert sorted(file.name for file in target.iterdir()) == ["half", "whole"]


def test_what_a_killed_build_left_is_built_anew(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with builder(target, 60) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "building\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait(20)
    assert not target.exists()

    build_once(target, lambda folder: (folder / "new").write_text("x"), SilentObserver())

    assert [file.name for file in target.iterdir()] == ["new"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "folder.lock"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        build_once(tmp_path / "folder", build, SilentObserver())

    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.lock"]


def test_waiting_for_another_process_can_be_stopped(tmp_path: Path) -> None:
    lock = tmp_path / "lock"

    with locked(lock, SilentObserver()), pytest.raises(CancelledError), locked(lock, StopsAtOnce()):
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with builder(target, 60) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        killed.kill()

    began = time.monotonic()
    with locked(tmp_path / "folder.lock", SilentObserver()):
        assert time.monotonic() - began < 5


def test_a_build_that_goes_on_finds_what_was_left(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "first").write_text("x")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        build_once(tmp_path / "folder", fails, SilentObserver(), goes_on=True)

    build_once(
        tmp_path / "folder", lambda folder: (folder / "second").touch(), SilentObserver(), goes_on=True
    )

    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["first", "second"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "folder.lock"]


HOLDER = """
import sys, time
from pathlib import Path
from core.domain.progress import SilentObserver
from worker.shared import held

with held(Path(sys.argv[1]), lambda folder: (folder / "file").touch(), SilentObserver()):
    print("holding", flush=True)
    time.sleep(60)
"""


def holder(target: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", HOLDER, target], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    return process


def test_what_a_process_uses_stays_until_the_last_one_has_ended(tmp_path: Path) -> None:
    target = tmp_path / "folder"

    with holder(target) as one, holder(target) as other:
        removed = [remove_unused(target)]
        one.kill()
        one.wait(20)
        removed.append(remove_unused(target))
        other.kill()
        other.wait(20)

    assert removed == [False, False]
    assert remove_unused(target)
    assert list(tmp_path.iterdir()) == []


def test_what_is_being_built_is_not_removed(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with builder(target, 60) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "building\n"

        removed = [remove_unused(target), remove_unused(target.with_name("folder.partial"))]
        running.kill()
        running.wait(20)

    assert removed == [False, False]
    assert (tmp_path / "folder.partial").is_dir()
    assert remove_unused(target.with_name("folder.partial"))
    assert list(tmp_path.iterdir()) == []


def test_whoever_waits_for_the_lock_of_what_is_removed_builds_it_anew(tmp_path: Path) -> None:
    target, lock = tmp_path / "folder", lock_of(tmp_path / "folder")
    target.mkdir()
    with locked(lock, SilentObserver()):
        waiting = builder(target, 0)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)  # Enough to have opened the lock, or not: either is right.
        target.rmdir()
        lock.unlink()
    with waiting:
        assert waiting.wait(20) == 0

    assert sorted(file.name for file in target.iterdir()) == ["half", "whole"]
    assert lock.is_file()


def test_a_folder_that_is_used_is_not_built_again(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    builds: list[Path] = []

    for _ in range(2):
        with held(target, builds.append, SilentObserver()) as folder:
            assert folder == target

    assert len(builds) == 1


def test_a_partial_folder_goes_without_the_whole_one_beside_it(tmp_path: Path) -> None:
    target, partial = tmp_path / "folder", tmp_path / "folder.partial"
    target.mkdir()
    partial.mkdir()

    assert remove_unused(partial)

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "folder.lock"]
