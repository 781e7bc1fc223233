"""Archives of older layouts become the same nnU-Net v2 dataset on every machine, and what cannot is told."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from app.errors import StorageFullError
from app.payloads import IngestPayload, IngestResult, ObjectRef
from app.storage import LocalStore
from core.domain.conversion import Layout
from core.domain.progress import SilentObserver
from core.errors import DatasetError
from core.io.archive import ArchiveLimits
from tests.factories import case_name, make_dataset, make_phantom, write_array, zip_folder
from tests.older_layouts import FOUR_AXES, OBLIQUE, make_older, older_json
from worker.raw import CONVERSION_FILE, conversion_of
from worker.tasks import ingest
from worker.workspace import Workspace

LIMITS = ArchiveLimits(files=1000, unpacked_bytes=2**30, ratio=200)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "machine" / "workspace", LocalStore(tmp_path / "store"), LIMITS)


def stored(workspace: Workspace, folder: Path, *, inside: str = "Task99_Phantoms") -> ObjectRef:
    return workspace.store.put("a/archive.zip", zip_folder(folder, folder.parent / "made.zip", inside=inside))


def ingested(workspace: Workspace, archive: ObjectRef) -> IngestResult:
    return ingest(IngestPayload(dataset_id=uuid4(), archive=archive), workspace, SilentObserver())


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def edit(folder: Path, **changes: Any) -> None:
    (folder / "dataset.json").write_text(json.dumps({**older_json(), **changes}))


@pytest.mark.parametrize("layout", [Layout.DECATHLON, Layout.V1])
def test_an_older_dataset_becomes_ready(workspace: Workspace, tmp_path: Path, layout: Layout) -> None:
    archive = stored(workspace, make_older(tmp_path / "made", FOUR_AXES, layout, tests=2))
    before = workspace.store.path(archive).read_bytes()

    result = ingested(workspace, archive)

    assert (result.problems, len(result.cases)) == ((), 3)
    assert result.description["labels"] == {"background": 0, "left": 1, "right": 2}
    assert result.description["channel_names"] == {"0": "MRI0", "1": "MRI1"}
    assert workspace.store.path(archive).read_bytes() == before
    raw = workspace.raw_dataset(archive, SilentObserver())
    assert sorted(path.name for path in raw.iterdir()) == ["dataset.json", "imagesTr", "labelsTr"]


@pytest.mark.parametrize("layout", [Layout.DECATHLON, Layout.V1])
def test_a_dataset_says_that_it_was_converted_and_what_was_left_out(
    workspace: Workspace, tmp_path: Path, layout: Layout
) -> None:
    source = make_older(tmp_path / "made", FOUR_AXES, layout, tests=2)
    (source / "splits_final.json").write_text("[]")
    archive = stored(workspace, source)
    tests = 2 if layout is Layout.DECATHLON else 4

    notes = {note.kind: note.message for note in ingested(workspace, archive).notes if note.case is None}
    again = ingested(workspace, archive)

    assert layout in notes["converted"]
    assert "3 cases" in notes["converted"]
    assert f"imagesTs ({tests} files), splits_final.json" in notes["left-out"]
    assert notes.items() <= {note.kind: note.message for note in again.notes}.items()


def test_a_dataset_of_which_all_was_converted_names_nothing_left_out(
    workspace: Workspace, tmp_path: Path
) -> None:
    result = ingested(workspace, stored(workspace, make_older(tmp_path / "made")))

    kinds = {note.kind for note in result.notes}
    assert "converted" in kinds
    assert "left-out" not in kinds


def test_a_dataset_in_the_layout_of_today_is_not_said_to_be_converted(
    workspace: Workspace, tmp_path: Path
) -> None:
    source = make_dataset(tmp_path / "made", replace(OBLIQUE, cases=2))

    result = ingested(workspace, stored(workspace, source))

    assert {"converted", "left-out"}.isdisjoint(note.kind for note in result.notes)


def test_two_machines_make_the_same_dataset(workspace: Workspace, tmp_path: Path) -> None:
    archive = stored(workspace, make_older(tmp_path / "made", FOUR_AXES))
    other = Workspace(tmp_path / "other machine", workspace.store, LIMITS)

    here, there = (files_below(one.raw_dataset(archive, SilentObserver())) for one in (workspace, other))

    assert here == there
    assert len(here) == 3 * 3 + 1


def test_a_dataset_is_converted_once(workspace: Workspace, tmp_path: Path) -> None:
    archive = stored(workspace, make_older(tmp_path / "made"))

    first = workspace.raw_dataset(archive, SilentObserver())
    (first / "mark").touch()
    again = workspace.raw_dataset(archive, SilentObserver())

    assert first == again
    assert (again / "mark").exists()
    folders = [entry for entry in (workspace.folder / "datasets").iterdir() if entry.is_dir()]
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [
        [CONVERSION_FILE, "dataset"]
    ]


def test_what_a_mac_adds_is_no_part_of_the_dataset(workspace: Workspace, tmp_path: Path) -> None:
    source = make_older(tmp_path / "made")
    archive = zip_folder(source, tmp_path / "mac.zip", inside="Task99_Phantoms")
    with zipfile.ZipFile(archive, "a") as opened:
        for name in ("imagesTr/._phantom_000.nii.gz", "labelsTr/._phantom_000.nii.gz", "._dataset.json"):
            opened.writestr(f"Task99_Phantoms/{name}", b"\x00\x05\x16\x07")
            opened.writestr(f"__MACOSX/Task99_Phantoms/{name}", b"\x00\x05\x16\x07")
        opened.writestr("__MACOSX/._Task99_Phantoms", b"\x00\x05\x16\x07")
        opened.writestr("Task99_Phantoms/__MACOSX/dataset.json", b"{}")
        opened.writestr("Task99_Phantoms/.DS_Store", b"x")

    result = ingested(workspace, workspace.store.put("a/archive.zip", archive))

    assert (result.problems, len(result.cases)) == ((), 3)


def test_what_cannot_be_converted_is_told_with_all_the_rest(workspace: Workspace, tmp_path: Path) -> None:
    recipe = replace(FOUR_AXES, cases=5)
    source = make_older(tmp_path / "made", recipe)
    damaged = source / "imagesTr" / f"{case_name(0)}.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    (source / "labelsTr" / f"{case_name(1)}.nii.gz").unlink()
    wrong_labels = make_phantom(recipe, 2).labels_zyx
    wrong_labels[0, 0, 0] = 9
    write_array(wrong_labels.astype(np.uint8), source / "labelsTr" / f"{case_name(2)}.nii.gz", recipe)
    archive = stored(workspace, source)

    result = ingested(workspace, archive)

    assert {(problem.case, problem.kind) for problem in result.problems} == {
        (case_name(0), "unreadable-image"),
        (case_name(1), "missing-label"),
        (case_name(2), "undeclared-label"),
    }
    assert ingested(workspace, archive) == result
    found = conversion_of(workspace.raw_dataset(archive, SilentObserver()))
    assert found is not None
    assert (found.layout, found.cases) == (Layout.DECATHLON, 3)


def test_a_dataset_of_which_nothing_is_left_names_every_case(workspace: Workspace, tmp_path: Path) -> None:
    source = make_older(tmp_path / "made", FOUR_AXES)
    for image in (source / "imagesTr").iterdir():
        image.write_bytes(image.read_bytes()[:200])

    result = ingested(workspace, stored(workspace, source))

    assert {case_name(number) for number in range(3)} <= {problem.case for problem in result.problems}
    assert result.cases == ()


def test_a_conversion_that_has_no_room_says_what_it_needs(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_older(tmp_path / "made", replace(FOUR_AXES, shape=(30, 40, 40)))
    archive = stored(workspace, source)
    size = sum(len(content) for content in files_below(source).values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(size, 0, size))

    with pytest.raises(
        StorageFullError, match=r"needs about .* GiB, but only .* GiB are free.*SEG_WORKSPACE_DIR"
    ):
        ingested(workspace, archive)

    assert [entry.suffix for entry in (workspace.folder / "datasets").iterdir()] == [".lock"]


def test_labels_that_no_network_can_learn_are_told_once(workspace: Workspace, tmp_path: Path) -> None:
    source = make_older(tmp_path / "made")
    edit(source, labels={"0": "background", "1": "left", "2": "right", "7": "middle"})

    result = ingested(workspace, stored(workspace, source))

    assert [problem.kind for problem in result.problems] == ["invalid-labels"]
    assert len(result.cases) == 3


def test_what_deserves_a_look_is_noted(workspace: Workspace, tmp_path: Path) -> None:
    source = make_older(tmp_path / "made")
    edit(source, training=older_json()["training"][:1], labels={"0": "air", "1": "left", "2": "right"})

    result = ingested(workspace, stored(workspace, source))

    assert result.problems == ()
    assert {"unlisted-case", "background-label"} <= {note.kind for note in result.notes}


@pytest.mark.parametrize(
    "path", ["../../../secret.nii.gz", "/etc/passwd", "./imagesTr/../../../secret.nii.gz"]
)
@pytest.mark.parametrize("key", ["image", "label"])
def test_no_file_outside_is_read_because_a_description_names_it(
    workspace: Workspace, tmp_path: Path, key: str, path: str
) -> None:
    write_array(make_phantom(OBLIQUE).labels_zyx, tmp_path / "secret.nii.gz", OBLIQUE)
    source = make_older(tmp_path / "made")
    listed = older_json()["training"]
    edit(source, training=[*listed, {**listed[0], key: path}])
    archive = stored(workspace, source)

    result = ingested(workspace, archive)

    assert [problem.kind for problem in result.problems] == ["invalid-dataset"]
    assert "leads out of the dataset" in result.problems[0].message
    assert str(tmp_path) not in result.problems[0].message
    with pytest.raises(DatasetError):
        workspace.raw_dataset(archive, SilentObserver())
    assert [entry.suffix for entry in (workspace.folder / "datasets").iterdir()] == [".lock"]


def test_an_archive_cannot_bring_a_conversion_of_its_own(workspace: Workspace, tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "made", replace(OBLIQUE, cases=2))
    archive = zip_folder(source, tmp_path / "made.zip", inside="Dataset001_Made")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(CONVERSION_FILE, b"{}")

    raw = workspace.raw_dataset(workspace.store.put("a/archive.zip", archive), SilentObserver())

    assert conversion_of(raw) is None
