"""Scratch folders: built once, whole or not at all, from objects that are what they were."""

import json
from pathlib import Path
from uuid import uuid4

import pytest

from app.payloads import IngestPayload, ObjectRef, WorkOrder
from app.storage import LocalStore, StoreError
from core.domain.progress import SilentObserver
from core.errors import ArchiveError
from core.io.archive import ArchiveLimits
from tests.factories import make_dataset, zip_folder
from worker.shared import lock_of, remove_unused
from worker.workspace import Workspace

LIMITS = ArchiveLimits(files=100, unpacked_bytes=2**30, ratio=200)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", LocalStore(tmp_path / "store"), LIMITS)


def put(workspace: Workspace, tmp_path: Path, key: str, content: bytes) -> ObjectRef:
    source = tmp_path / uuid4().hex  # The store keeps the file itself: nobody writes to it again.
    source.write_bytes(content)
    return workspace.store.put(key, source)


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


def test_other_folders_of_preprocessed_cases_are_whole_and_of_the_same_recipe(workspace: Workspace) -> None:
    recipe, other = "a" * 64, "b" * 64
    mine, earlier, half, foreign = (
        workspace.preprocessed(*names)
        for names in ((recipe, "mine"), (recipe, "earlier"), (recipe, "half.partial"), (other, "earlier"))
    )
    for folder in (mine, earlier, half, foreign, mine.with_name("of another release")):
        folder.mkdir(parents=True)
    lock_of(mine).touch()

    assert workspace.other_preprocessed(recipe, "mine", SilentObserver()) == (earlier,)
    assert not remove_unused(earlier)
    workspace.holds.close()
    assert remove_unused(earlier)


def _order(job_id: object) -> WorkOrder:
    archive = ObjectRef(key="a", sha256="0" * 64, size_bytes=1)
    payload = IngestPayload(dataset_id=uuid4(), archive=archive)
    return WorkOrder.model_validate({"job_id": job_id, "fence": 1, "payload": payload})
