"""Where a training begins that others began before: the furthest checkpoint, wherever it is."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.payloads import Beginning, Checkpoint, ObjectRef, TrainPayload, WorkOrder
from app.storage import LocalStore
from core.domain.model import CHECKPOINT_FILE
from core.domain.splits import Grouping
from core.domain.training import Split, TrainingSettings
from core.errors import CancelledError
from core.io.archive import ArchiveLimits
from core.training import checkpoint
from core.training.loop import train_fold
from tests.core.pipeline.bench import plan_of
from tests.core.training.small_training import Listener, setup_in
from worker import training
from worker.observer import CheckpointObserver, PipeObserver
from worker.partner import Task
from worker.workspace import Workspace

FOLD = "fold_0"

JOB = uuid4()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    limits = ArchiveLimits(files=10, unpacked_bytes=10**6, ratio=100)
    return Workspace(tmp_path / "workspace", LocalStore(tmp_path / "store"), limits)


def order(fence: int, stored: Checkpoint | None = None) -> WorkOrder:
    ref = ObjectRef(key="a", sha256="0" * 64, size_bytes=1)
    payload = TrainPayload(
        training_id=JOB,
        archive=ref,
        plans=ref,
        fingerprint=ref,
        configuration="2d",
        fold=0,
        settings=TrainingSettings(),
    )
    return WorkOrder(job_id=JOB, fence=fence, payload=payload, checkpoint=stored)


def trained(workspace: Workspace, fence: int) -> Path:
    """Train two epochs and half of the third in a claim's folder; return the fold's."""
    folder = workspace.training(order(fence)) / FOLD
    with pytest.raises(CancelledError):
        train_fold(setup_in(folder), Listener(stops=lambda done: done >= 13))
    return folder


def begin(workspace: Workspace, fence: int, stored: Checkpoint | None = None) -> tuple[Path, list[Any]]:
    """Begin a claim; return the fold's folder and what the parent is told."""
    told: list[Any] = []
    claim = order(fence, stored)
    folder = workspace.training(claim) / FOLD
    observer = CheckpointObserver(
        PipeObserver(told.append), folder / CHECKPOINT_FILE, workspace.outbox(claim), 1000
    )
    training.begin_where_others_stopped(claim, folder, workspace, observer)
    return folder, [(message["event"], message.get("epochs")) for message in told if "epochs" in message]


def test_folds_that_stopped_early_stay_as_they_are_where_others_go_further(tmp_path: Path) -> None:
    task = Task(
        raw=tmp_path,
        plan=plan_of(),
        configuration="small",
        fold=0,
        settings=TrainingSettings(),
        model=tmp_path,
    )

    assert task.order().keeps_ended


def store(workspace: Workspace, file: Path, epochs: int) -> Checkpoint:
    return Checkpoint(file=workspace.store.put(f"train/{JOB}/1/{uuid4().hex}", file), epochs=epochs)


def epochs_in(folder: Path) -> int:
    found = checkpoint.read(folder)
    return 0 if found is None else len(found[0].epochs)


def test_a_claim_goes_on_from_the_last_epoch_of_the_one_before(workspace: Workspace) -> None:
    trained(workspace, 1)

    folder, told = begin(workspace, 2)

    assert epochs_in(folder) == 2
    assert told == [("resumed", 2), ("checkpoint", 2)]


def test_a_damaged_checkpoint_is_neither_taken_over_nor_handed_on(workspace: Workspace) -> None:
    before = trained(workspace, 1)
    content = bytearray((before / CHECKPOINT_FILE).read_bytes())
    content[-20] ^= 1
    (before / CHECKPOINT_FILE).write_bytes(content)

    folder, told = begin(workspace, 2)

    handed = workspace.folder / "outbox" / f"{JOB}-2" / "checkpoint-1.safetensors"
    assert told == [("resumed", 1), ("checkpoint", 1)]
    assert epochs_in(folder) == 1
    assert handed.read_bytes() == (folder / CHECKPOINT_FILE).read_bytes()


def test_the_store_is_asked_when_it_has_more(workspace: Workspace, tmp_path: Path) -> None:
    elsewhere = Workspace(tmp_path / "other", workspace.store, workspace.limits)
    stored = store(workspace, trained(elsewhere, 1) / CHECKPOINT_FILE, 2)

    folder, told = begin(workspace, 2, stored)

    assert epochs_in(folder) == 2
    assert told == [("resumed", 2)]


def test_a_stored_checkpoint_that_is_gone_costs_epochs_and_not_the_training(workspace: Workspace) -> None:
    before = trained(workspace, 1)
    stored = store(workspace, before / CHECKPOINT_FILE, 3)
    workspace.store.delete(stored.file.key)

    folder, told = begin(workspace, 2, stored)

    assert epochs_in(folder) == 2
    assert told == [("resumed", 2), ("checkpoint", 2)]


def test_with_no_checkpoint_left_a_training_begins_anew(workspace: Workspace) -> None:
    gone = Checkpoint(file=ObjectRef(key="train/gone", sha256="0" * 64, size_bytes=1), epochs=7)

    folder, told = begin(workspace, 2, gone)

    assert epochs_in(folder) == 0
    assert told == [("resumed", 0)]


def test_a_claim_that_took_nothing_over_leaves_what_is_there(workspace: Workspace) -> None:
    trained(workspace, 1)
    workspace.training(order(2))

    workspace.clear_training(order(2), keep_last=True)

    assert epochs_in(begin(workspace, 3)[0]) == 2


def test_a_claim_that_took_over_clears_what_was_before(workspace: Workspace) -> None:
    trained(workspace, 1)
    begin(workspace, 2)

    workspace.clear_training(order(2), keep_last=True)

    assert workspace.earlier_trainings(order(3)) == [workspace.training(order(2))]


def test_nothing_stays_of_a_training_that_has_ended(workspace: Workspace) -> None:
    trained(workspace, 1)
    begin(workspace, 2)

    workspace.clear_training(order(2), keep_last=False)

    assert not (workspace.folder / "trainings" / str(JOB)).exists()


def test_splits_and_patients_come_from_the_store(workspace: Workspace, tmp_path: Path) -> None:
    splits, patients = tmp_path / "splits", tmp_path / "patients"
    splits.write_text('[{"train": ["a"], "val": ["b"]}]')
    patients.write_text('{"a_1": "a", "b_1": "b"}')
    refs = [workspace.store.put(f"trainings/{file.name}.json", file) for file in (splits, patients)]

    own = training._splits(Beginning(splits=refs[0]), workspace)
    grouping = training._splits(Beginning(patients=refs[1]), workspace)

    assert own == (Split(train=("a",), val=("b",)),)
    assert grouping == Grouping(patients={"a_1": "a", "b_1": "b"})
    assert training._splits(Beginning(), workspace) is None
