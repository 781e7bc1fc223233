"""Preprocessing for jobs: nothing is made that this machine has, and what another release left is made anew."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from app.payloads import ObjectRef, PreprocessPayload, PreprocessResult, WorkOrder
from app.storage import LocalStore
from core.domain.progress import Progress, SilentObserver
from core.domain.record import write_json
from core.errors import CancelledError
from core.io.archive import ArchiveLimits
from core.io.case_store import CaseStore
from tests.factories import Recipe, case_name, make_dataset, make_phantom, write_case, zip_folder
from tests.plans import small_plan
from worker.preprocessed import preprocessed_here, preprocessing_digest
from worker.tasks import preprocess
from worker.workspace import Workspace, is_readable

LIMITS = ArchiveLimits(files=1000, unpacked_bytes=2**30, ratio=200)
RECIPE = Recipe(cases=4)


class Watched(SilentObserver):
    """Counts cases, and asks to stop after some."""

    def __init__(self, stop_after: int = 99) -> None:
        self.done = 0
        self._stop_after = stop_after

    def report(self, progress: Progress) -> None:
        self.done = progress.done if progress.stage == "preprocess" else 0

    def stop_requested(self) -> bool:
        return self.done >= self._stop_after


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", LocalStore(tmp_path / "store"), LIMITS)


def put_dataset(workspace: Workspace, folder: Path) -> ObjectRef:
    name = f"{uuid4()}.zip"
    return workspace.store.put(f"dataset/{name}", zip_folder(folder, folder.with_name(name)))


def put_plan(workspace: Workspace, folder: Path, spacing: tuple[float, float, float]) -> ObjectRef:
    plan, _ = small_plan(spacing)
    name = f"{uuid4()}.json"
    write_json(folder / name, plan.to_json())
    return workspace.store.put(f"plan/{name}", folder / name)


def payload(archive: ObjectRef, plans: ObjectRef) -> PreprocessPayload:
    return PreprocessPayload(training_id=uuid4(), archive=archive, plans=plans, configuration="small")


def order(work: PreprocessPayload, earlier: PreprocessResult | None = None) -> WorkOrder:
    return WorkOrder(job_id=uuid4(), fence=1, payload=work, preprocessed=earlier)


def test_a_new_version_of_a_dataset_takes_what_did_not_change(workspace: Workspace, tmp_path: Path) -> None:
    raw = make_dataset(tmp_path / "raw", RECIPE)
    plans = put_plan(workspace, tmp_path, (1.0, 1.5, 1.0))
    work = payload(put_dataset(workspace, raw), plans)
    old, _ = preprocessed_here(work, workspace, Watched(), threads=1)
    write_case(raw, "Tr", case_name(2), make_phantom(replace(RECIPE, seed=5), 2), RECIPE)
    (raw / f"imagesTr/{case_name(3)}_0000.nii.gz").unlink()
    (raw / f"labelsTr/{case_name(3)}.nii.gz").unlink()

    new, _ = preprocessed_here(payload(put_dataset(workspace, raw), plans), workspace, Watched(), threads=1)

    assert new != old
    assert CaseStore(new).case_ids == tuple(case_name(number) for number in (0, 1, 2))
    assert CaseStore(old).case_ids == tuple(case_name(number) for number in (0, 1, 2, 3))
    shared = [CaseStore(new).file(one).samefile(CaseStore(old).file(one)) for one in CaseStore(new).case_ids]
    assert shared == [True, True, False]


def test_another_plan_shares_nothing(workspace: Workspace, tmp_path: Path) -> None:
    archive = put_dataset(workspace, make_dataset(tmp_path / "raw", RECIPE))
    folders = [
        preprocessed_here(
            payload(archive, put_plan(workspace, tmp_path, spacing)), workspace, Watched(), threads=1
        )[0]
        for spacing in ((1.0, 1.5, 1.0), (2.0, 1.0, 1.0))
    ]

    names = [path.name for path in folders[0].iterdir()]

    assert not any((folders[0] / name).samefile(folders[1] / name) for name in names)


def test_an_interrupted_job_leaves_what_it_finished(workspace: Workspace, tmp_path: Path) -> None:
    archive = put_dataset(workspace, make_dataset(tmp_path / "raw", RECIPE))
    work = payload(archive, put_plan(workspace, tmp_path, (1.0, 1.5, 1.0)))
    with pytest.raises(CancelledError):
        preprocessed_here(work, workspace, Watched(stop_after=2), threads=1)
    (partial,) = (workspace.folder / "preprocessed").glob("*.partial")
    finished = {path.name: path.stat().st_ino for path in partial.iterdir()}

    folder, _ = preprocessed_here(work, workspace, Watched(), threads=1)

    assert len(finished) >= 2
    assert {name: (folder / name).stat().st_ino for name in finished} == finished
    assert len(CaseStore(folder).case_ids) == 4
    assert not partial.exists()


def test_the_result_names_one_file_per_case(workspace: Workspace, tmp_path: Path) -> None:
    archive = put_dataset(workspace, make_dataset(tmp_path / "raw", RECIPE))
    work = payload(archive, put_plan(workspace, tmp_path, (1.0, 1.5, 1.0)))

    message = preprocess(order(work), work, workspace, Watched(), threads=1)

    assert sorted(message["files"]) == [f"{number}.npz" for number in range(4)]
    assert message["result"]["cases"] == [case_name(number) for number in range(4)]
    refs = {
        name: workspace.store.put(f"preprocess/{name}", Path(path)) for name, path in message["files"].items()
    }
    result = PreprocessResult.model_validate({**message["result"], "files": refs})
    assert is_readable(result)
    elsewhere = Workspace(tmp_path / "elsewhere", workspace.store, LIMITS)
    fetched = CaseStore(elsewhere.fetch_preprocessed(result, "0" * 64, SilentObserver()))
    assert fetched.load(case_name(3)).labels_zyx is not None
    again = preprocess(order(work, result), work, workspace, Watched(), threads=1)
    assert (again["files"], PreprocessResult.model_validate(again["result"])) == ({}, result)


def test_what_the_release_before_stored_is_made_again(workspace: Workspace, tmp_path: Path) -> None:
    archive = put_dataset(workspace, make_dataset(tmp_path / "raw", RECIPE))
    work = payload(archive, put_plan(workspace, tmp_path, (1.0, 1.5, 1.0)))
    names = [
        f"{number}/{file}"
        for number in range(4)
        for file in ("case.json", "labels.npy", "locations.npy", "voxels.npy")
    ]
    (tmp_path / "old").write_bytes(b"old")
    refs = {name: workspace.store.put(f"old/{name}", tmp_path / "old") for name in names}
    cases = tuple(case_name(number) for number in range(4))
    earlier = PreprocessResult(files=refs, cases=cases, digest="0" * 64)

    message = preprocess(order(work, earlier), work, workspace, Watched(), threads=1)

    assert not is_readable(earlier)
    assert sorted(message["files"]) == [f"{number}.npz" for number in range(4)]


def test_arrays_are_shared_by_what_shapes_them() -> None:
    plan, _ = small_plan((1.0, 1.0, 1.0))
    coarser, _ = small_plan((2.0, 1.0, 1.0))
    other_name = plan.model_copy(update={"plans_name": "other"})
    ref = ObjectRef(key="a", sha256="0" * 64, size_bytes=1)
    other_archive = ref.model_copy(update={"sha256": "1" * 64})

    digests = [
        preprocessing_digest(archive, one, "small")
        for archive, one in ((ref, plan), (ref, other_name), (ref, coarser), (other_archive, plan))
    ]

    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
