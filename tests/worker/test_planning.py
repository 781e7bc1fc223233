"""The planning job on real files: what it tells of a training that its plan does not allow."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from app.payloads import PlanPayload, PlanResult, WorkOrder
from app.storage import LocalStore
from core.domain.progress import SilentObserver
from core.errors import PlanError
from core.io.archive import ArchiveLimits
from tests.factories import STANDARD, make_dataset, zip_folder
from worker.planning import plan
from worker.workspace import Workspace

LIMITS = ArchiveLimits(files=1000, unpacked_bytes=2**30, ratio=200)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", LocalStore(tmp_path / "store"), LIMITS)


@pytest.fixture
def flat(workspace: Workspace, tmp_path: Path) -> PlanPayload:
    """A training on images of one slice each."""
    folder = make_dataset(tmp_path / "raw", replace(STANDARD, shape=(1, 40, 36)))
    archive = workspace.store.put("dataset/archive.zip", zip_folder(folder, tmp_path / "raw.zip"))
    return PlanPayload(
        training_id=uuid4(), dataset_id=uuid4(), dataset_name="Flat", archive=archive, fingerprint=None
    )


def planned(payload: PlanPayload, workspace: Workspace) -> PlanResult:
    order = WorkOrder(job_id=uuid4(), fence=1, payload=payload)
    return PlanResult.model_validate(plan(order, payload, workspace, SilentObserver())["result"])


def test_flat_images_are_planned_for_in_two_dimensions(flat: PlanPayload, workspace: Workspace) -> None:
    result = planned(flat, workspace)

    assert [one.name for one in result.planned] == ["2d"]
    assert result.configurations == ("2d",)


@pytest.mark.parametrize("name", ["3d_fullres", "3d_lowres", "3d_hires"])
def test_a_configuration_that_the_plan_will_not_have_is_told_with_those_it_has(
    flat: PlanPayload, workspace: Workspace, name: str
) -> None:
    wanted = flat.model_copy(update={"configurations": ("2d", name)})

    with pytest.raises(PlanError, match=f"no configuration {name} for this dataset; ask for: 2d"):
        planned(wanted, workspace)


def test_the_stage_before_a_cascade_is_known_by_its_digest_too(
    workspace: Workspace, flat: PlanPayload, tmp_path: Path
) -> None:
    folder = make_dataset(tmp_path / "volumes", replace(STANDARD, cases=2, shape=(42, 50, 46)))
    archive = workspace.store.put("dataset/volumes.zip", zip_folder(folder, tmp_path / "volumes.zip"))
    wanted = {"archive": archive, "gpu_memory_gb": 0.03, "configurations": ("3d_cascade_fullres",)}

    result = planned(flat.model_copy(update=wanted), workspace)

    assert result.configurations == ("3d_cascade_fullres",)
    assert set(result.digests) == {"3d_cascade_fullres", "3d_lowres"}
    assert len(set(result.digests.values())) == 2
