"""From a plan that was made, read, edited and sent back to a model that was trained with it."""

import copy
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name

from tests.e2e.conftest import World
from tests.e2e.running import Service
from tests.factories import Recipe, make_dataset, make_phantom, write_array, zip_folder

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

RECIPE = Recipe(cases=5, shape=(42, 50, 46), ending=".nii.gz")
"""Large beside the patches that so little memory allows: the planner adds a low-resolution stage."""

CHOICES = {"preset": "resenc_m", "gpu_memory_gb": 0.03}

TRAINED = ("3d_lowres", "3d_small")


@dataclass
class Planned:
    """A dataset of the running service, and a plan that was made for it."""

    service: Service
    dataset: Any
    address: str
    plan: Any

    def edited(self, **entries: Any) -> Any:
        """Return the plan with a configuration of its own beside those of the planner."""
        values = copy.deepcopy(self.plan["plan"])
        values["configurations"]["3d_small"] = {"inherits_from": "3d_fullres", **entries}
        return values

    def put(self, values: Any, **headers: str) -> httpx.Response:
        """Send a plan back."""
        return self.service.client.put(self.address, json=values, headers=headers)


@pytest.fixture(scope="module")
def planned(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planned]:
    folder, service = tmp_path_factory.mktemp("planned"), world.service
    archive = zip_folder(make_dataset(folder / "raw", RECIPE), folder / "larger.zip", inside="Larger")
    dataset = service.upload(archive, "Larger")
    answer = service.client.post(
        f"/datasets/{dataset['id']}/plans", json=CHOICES, headers={"Prefer": "wait=60"}
    )
    assert answer.status_code == 200, answer.text
    address = answer.json()["links"]["self"]
    yield Planned(service, dataset, address, service.get(address))
    service.client.delete(address)


def test_a_plan_says_why_and_what_a_prediction_takes(planned: Planned) -> None:
    names = ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    assert (planned.plan["state"], planned.plan["configurations"]) == ("ready", names)
    assert planned.plan["plan"]["experiment_planner_used"] == "nnUNetPlannerResEncM"
    reasons = {(one["configuration"], one["topic"]): one["reason"] for one in planned.plan["decisions"]}
    assert "cascade" in reasons[None, "configurations"]
    assert reasons["3d_fullres", "spacing"]
    assert reasons["3d_fullres", "patch_size"]

    told = planned.service.get(f"{planned.address}?image_shape=100,400,400")["prediction"]

    assert {one["configuration"] for one in told} == set(names)
    voxels = 100 * 400 * 400
    assert all(one["cpu_bytes"] > voxels * 4 and one["reason"] for one in told)
    fingerprint = planned.service.get(f"/datasets/{planned.dataset['id']}/fingerprint")
    assert len(fingerprint["spacings"]) == RECIPE.cases


def test_every_mistake_of_an_edited_plan_is_named_at_once(planned: Planned) -> None:
    values = planned.edited(patch_size=[23, 24, 24], batch_size=0)
    values["configurations"]["2d"]["normalization_schemes"] = ["ZScore"]

    response = planned.put(values)

    assert response.status_code == 422
    places = [one["where"] for one in response.json()["problems"]]
    assert "configurations.3d_small.batch_size" in places
    assert "configurations.2d.normalization_schemes" in places
    assert all(place in response.json()["detail"] for place in places)
    assert planned.service.get(planned.address)["plan"] == planned.plan["plan"]


def test_residual_encoders_of_two_resolutions_train_as_an_edited_plan_says_and_predict(
    planned: Planned, tmp_path: Path
) -> None:
    tag = planned.service.client.get(planned.address).headers["ETag"]
    values = planned.edited(patch_size=[20, 20, 20], batch_size=3)
    stored = planned.put(values, **{"If-Match": tag})
    assert stored.status_code == 200, stored.text
    assert planned.put(values, **{"If-Match": tag}).status_code == 412
    image = write_array(make_phantom(RECIPE, 9).voxels_czyx[0], tmp_path / "new_0000.nii.gz", RECIPE)

    accepted = planned.service.train(
        planned.dataset,
        plan=planned.plan["name"],
        configurations=TRAINED,
        folds=[0],
        epochs=1,
        iterations_per_epoch=2,
    )
    busy = planned.service.client.delete(planned.address)
    job = planned.service.end_of(accepted["job_id"])
    assert job["state"] == "succeeded", job["error"]
    prediction = planned.service.predict(job["result"]["model_id"], image)

    assert busy.status_code == 409
    training = planned.service.get(f"/trainings/{accepted['id']}")
    assert {one["configuration"] for one in training["validation"]} == set(TRAINED)
    assert training["configuration"] in TRAINED
    mask: Any = sitk.ReadImage(str(planned.service.segmentation(prediction, tmp_path / "mask.nii.gz")))
    assert mask.GetSize() == RECIPE.shape[::-1]


def test_a_cascade_trains_after_every_fold_of_its_first_stage_and_predicts(
    planned: Planned, tmp_path: Path
) -> None:
    image = write_array(make_phantom(RECIPE, 9).voxels_czyx[0], tmp_path / "new_0000.nii.gz", RECIPE)
    values = copy.deepcopy(planned.plan["plan"])
    for name in ("3d_lowres", "3d_fullres"):  # Small networks and large patches, so that it is quick.
        configuration = values["configurations"][name]
        arguments = configuration["architecture"]["arch_kwargs"]
        arguments["features_per_stage"] = [4] * arguments["n_stages"]
        unit = [math.prod(axis) for axis in zip(*arguments["strides"], strict=True)]
        configuration["patch_size"] = [-(-40 // step) * step for step in unit]
    stored = planned.service.client.put(f"/datasets/{planned.dataset['id']}/plans/small", json=values)
    assert stored.status_code == 201, stored.text

    accepted = planned.service.train(
        planned.dataset,
        plan="small",
        configurations=["3d_cascade_fullres"],
        folds=[0],
        epochs=1,
        iterations_per_epoch=2,
        settings={"optimizer": "adamw", "initial_learning_rate": 0.001},
    )
    job = planned.service.end_of(accepted["job_id"], seconds=400)  # Six trainings, one after the other.
    assert job["state"] == "succeeded", job["error"]
    prediction = planned.service.predict(job["result"]["model_id"], image)

    training = planned.service.get(f"/trainings/{accepted['id']}")
    assert training["configuration"] == "3d_cascade_fullres"
    assert training["request"]["settings"]["optimizer"] == "adamw"
    folds = {(one["configuration"], one["fold"]) for one in training["epochs"]}
    assert folds == {("3d_cascade_fullres", 0), *(("3d_lowres", fold) for fold in range(5))}
    mask: Any = sitk.ReadImage(str(planned.service.segmentation(prediction, tmp_path / "mask.nii.gz")))
    assert mask.GetSize() == RECIPE.shape[::-1]


def test_a_plan_moves_to_another_dataset(world: World, planned: Planned) -> None:
    plans = f"/datasets/{world.dataset['id']}/plans"
    source = {"dataset_id": planned.dataset["id"], "plan": planned.plan["name"]}

    response = planned.service.client.post(plans, json={"from": source, "name": "moved"})

    assert response.status_code == 201, response.text
    moved = planned.service.get(f"{plans}/moved")
    assert (moved["origin"], moved["plan"]["dataset_name"]) == ("moved", world.dataset["name"])
    assert (
        moved["plan"]["configurations"]["2d"]["patch_size"]
        == (planned.plan["plan"]["configurations"]["2d"]["patch_size"])
    )
    assert planned.service.client.delete(f"{plans}/moved").status_code == 204
