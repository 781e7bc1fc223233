"""Scratch folders: built once, whole or not at all, from objects that are what they were."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from app.jobs import IngestPayload, ObjectRef, WorkOrder
from app.storage import LocalStore, StoreError
from core.domain.progress import SilentObserver
from core.errors import CancelledError
from tests.factories import make_dataset, zip_folder
from worker.archive import ArchiveError, ArchiveLimits
from worker.workspace import Workspace, build_once, locked

LIMITS = ArchiveLimits(files=100, unpacked_bytes=2**30, ratio=200)

BUILDER = """
import sys, time
from pathlib import Path
from core.domain.progress import SilentObserver
from worker.workspace import build_once

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


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", LocalStore(tmp_path / "store"), LIMITS)


def put(workspace: Workspace, tmp_path: Path, key: str, content: bytes) -> ObjectRef:
    source = tmp_path / uuid4().hex  # The store keeps the file itself: nobody writes to it again.
    source.write_bytes(content)
    return workspace.store.put(key, source)


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


def test_a_dataset_is_unpacked_once(workspace: Workspace, tmp_path: Path) -> None:
    archive = zip_folder(make_dataset(tmp_path / "made"), tmp_path / "made.zip", inside="Dataset001_Made")
    ref = workspace.store.put("a/archive.zip", archive)

    first = workspace.raw_dataset(ref, SilentObserver())
    (first / "mark").touch()
    again = workspace.raw_dataset(ref, SilentObserver())

    assert first == again
    assert (again / "mark").exists()
    assert json.loads((again / "dataset.json").read_text())["numTraining"] == 5


def test_nothing_of_a_refused_archive_stays(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("hello")
    ref = workspace.store.put("a/archive.zip", zip_folder(tmp_path / "empty", tmp_path / "empty.zip"))

    with pytest.raises(ArchiveError, match=r"no dataset\.json"):
        workspace.raw_dataset(ref, SilentObserver())

    assert [entry.suffix for entry in (workspace.folder / "datasets").iterdir()] == [".lock"]


def test_a_model_is_fetched_with_its_folders(workspace: Workspace, tmp_path: Path) -> None:
    files = {
        "plans.json": put(workspace, tmp_path, "plan/1/plans.json", b"{}"),
        "fold_0/weights.safetensors": put(workspace, tmp_path, "train/1/weights", b"weights"),
    }

    folder = workspace.model(files, SilentObserver())

    assert (folder / "fold_0" / "weights.safetensors").read_bytes() == b"weights"
    assert (folder / "plans.json").read_bytes() == b"{}"


@pytest.mark.parametrize("damage", [b"WEIGHTS", b"weight", None])
def test_a_model_whose_bytes_changed_is_refused(
    workspace: Workspace, tmp_path: Path, damage: bytes | None
) -> None:
    ref = put(workspace, tmp_path, "train/1/weights", b"weights")
    stored = workspace.store.path(ref)
    stored.unlink() if damage is None else stored.write_bytes(damage)

    with pytest.raises(StoreError, match="damaged"):
        workspace.model({"fold_0/weights.safetensors": ref}, SilentObserver())

    assert [entry.suffix for entry in (workspace.folder / "models").iterdir()] == [".lock"]


def test_an_outbox_is_empty_and_older_claims_go(workspace: Workspace) -> None:
    orders = [_order(uuid4()), _order(uuid4())]
    old = [workspace.outbox(one) for one in orders]
    newer = orders[0].model_copy(update={"fence": 3})

    new = workspace.outbox(newer)
    workspace.clear_outbox(orders[0])

    assert new.is_dir()
    assert list(new.iterdir()) == []
    assert [folder.exists() for folder in old] == [False, True]


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


def test_other_folders_of_preprocessed_cases_are_those_that_are_whole(workspace: Workspace) -> None:
    for name in ("mine", "other", "half.partial"):
        (workspace.folder / "preprocessed" / name).mkdir(parents=True)
    (workspace.folder / "preprocessed" / "mine.lock").touch()

    assert [path.name for path in workspace.other_preprocessed("mine")] == ["other"]


def _order(job_id: object) -> WorkOrder:
    archive = ObjectRef(key="a", sha256="0" * 64, size_bytes=1)
    payload = IngestPayload(dataset_id=uuid4(), archive=archive)
    return WorkOrder.model_validate({"job_id": job_id, "fence": 1, "payload": payload})
