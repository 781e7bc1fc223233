"""The scratch folder of a machine: leftovers go, and what is over the budget, but never what is in use."""

import os
import time
from pathlib import Path

import pytest

from app.storage import LocalStore
from core.domain.progress import SilentObserver
from core.io.archive import ArchiveLimits
from worker.cleaning import STALE_SECONDS, UNUSED_SECONDS, clean_scratch
from worker.shared import lock_of
from worker.workspace import DATASET_SUFFIX, Workspace

LIMITS = ArchiveLimits(files=100, unpacked_bytes=2**30, ratio=200)
LARGE = 1000.0 * 2**30
DATASET = "a" * 64 + DATASET_SUFFIX
STORE = f"{'b' * 16}-{'c' * 64}"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def make(folder: Path, *, unused_for: float = 0.0, size: int = 1000) -> Path:
    """Make a folder as a job leaves it that ended so many seconds ago."""
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(bytes(size))
    lock_of(folder.with_name(folder.name.removesuffix(".partial"))).touch()
    moment = time.time() - unused_for
    for path in (folder, lock_of(folder.with_name(folder.name.removesuffix(".partial")))):
        os.utime(path, (moment, moment))
    return folder


def names(scratch: Path) -> list[str]:
    return sorted(entry.relative_to(scratch).as_posix() for entry in scratch.glob("*/*"))


def test_nothing_goes_as_long_as_there_is_room(scratch: Path) -> None:
    for name in (f"datasets/{DATASET}", f"preprocessed/{STORE}", "models/" + "d" * 64):
        make(scratch / name, unused_for=1000 * STALE_SECONDS)
    before = names(scratch)

    clean_scratch(scratch, LARGE)

    assert len(before) == 6
    assert names(scratch) == before


def test_a_machine_that_did_nothing_yet_has_nothing_to_clean(scratch: Path) -> None:
    clean_scratch(scratch, 0)

    assert not scratch.exists()


@pytest.mark.parametrize(
    "name",
    [
        f"datasets/{DATASET}.partial",
        f"models/{'d' * 64}.partial",
        f"preprocessed/.{STORE}.removed",
    ],
)
def test_what_a_killed_process_left_goes_at_once(scratch: Path, name: str) -> None:
    make(scratch / name)
    lock_of(scratch / name).unlink(missing_ok=True)

    clean_scratch(scratch, LARGE)

    assert names(scratch) == []


@pytest.mark.parametrize(
    "name",
    [
        f"preprocessed/{STORE}.partial",
        f"preprocessed/{'c' * 64}",
        f"datasets/{'a' * 64}",
        f"datasets/{'a' * 64}-0",
    ],
)
def test_what_was_interrupted_long_ago_or_another_release_left_goes_after_a_day(
    scratch: Path, name: str
) -> None:
    make(scratch / name, unused_for=STALE_SECONDS - 600)
    clean_scratch(scratch, LARGE)
    young = names(scratch)
    for entry in (scratch / name).parent.iterdir():
        os.utime(entry, (0, 0))

    clean_scratch(scratch, LARGE)

    assert name in young
    assert names(scratch) == []


def test_the_longest_unused_goes_first(scratch: Path) -> None:
    store, dataset, model = (
        make(scratch / name, unused_for=hours * 3600.0)
        for name, hours in ((f"preprocessed/{STORE}", 4), (f"datasets/{DATASET}", 6), ("models/m", 2))
    )

    clean_scratch(scratch, 2500)
    first = [folder.exists() for folder in (dataset, store, model)]
    clean_scratch(scratch, 1)

    assert first == [False, True, True]
    assert names(scratch) == []


def test_what_was_used_just_now_stays_whatever_the_budget(scratch: Path) -> None:
    folder = make(scratch / f"preprocessed/{STORE}", unused_for=UNUSED_SECONDS - 600)

    clean_scratch(scratch, 1)

    assert folder.is_dir()


def test_what_a_job_uses_stays_whatever_the_budget(scratch: Path, tmp_path: Path) -> None:
    workspace = Workspace(scratch, LocalStore(tmp_path / "store"), LIMITS)
    folder = make(workspace.preprocessed("b" * 64, "c" * 64))
    with workspace.holds:
        workspace.hold(folder, lambda _: None, SilentObserver())
        for path in (folder, lock_of(folder)):
            os.utime(path, (0, 0))

        clean_scratch(scratch, 1)
        used = folder.is_dir()
    clean_scratch(scratch, 1)
    just_used = folder.is_dir()
    for path in (folder, lock_of(folder)):
        os.utime(path, (0, 0))
    clean_scratch(scratch, 1)

    assert (used, just_used, folder.exists()) == (True, True, False)


def test_files_that_lie_elsewhere_too_count_in_parts(scratch: Path, tmp_path: Path) -> None:
    folder = make(scratch / f"preprocessed/{STORE}", unused_for=2 * UNUSED_SECONDS)
    os.link(folder / "file", tmp_path / "in the store")

    clean_scratch(scratch, 600)

    assert folder.is_dir()


def test_the_lock_of_a_build_that_failed_goes_after_a_day(scratch: Path) -> None:
    young, old = (scratch / "datasets" / f"{name}.lock" for name in ("young", "old"))
    young.parent.mkdir(parents=True)
    young.touch()
    old.touch()
    os.utime(old, (0, 0))

    clean_scratch(scratch, LARGE)

    assert names(scratch) == ["datasets/young.lock"]
