"""From a zipped dataset to a segmentation, through crashes: the real service on phantoms."""

import gzip
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name

from tests.e2e.running import ROOT, Service, is_alive, kill, running, wait_for
from tests.factories import Recipe, make_dataset, make_phantom, rotation_xyz, write_array, zip_folder

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

RECIPE = Recipe(cases=5, shape=(16, 20, 18))

EPOCHS = 8

OBLIQUE = replace(
    RECIPE,
    spacing=(2.5, 0.8, 1.1),
    origin_xyz=(-31.5, 12.25, 7.0),
    direction=rotation_xyz((10, -20, 35)),
    seed=9,
)
"""A geometry that no shortcut survives."""

LAST_BIT = 1e-15
"""NRRD stores spacing times direction; taking them apart again costs the last bit of a double."""


@dataclass
class World:
    """A running service with a model that was trained through two crashes."""

    service: Service
    data: Path
    training: Any
    job: Any


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("service")
    archive = zip_folder(make_dataset(folder / "raw", RECIPE), folder / "phantoms.zip", inside="Phantoms")
    data, log = folder / "data", folder / "log"
    with running(data, log) as service:
        accepted = _start_training(service, archive)
        _kill_the_training_child(service, accepted["id"])
        _kill_everything(service, accepted["id"])
    with running(data, log) as service:
        job = service.end_of(accepted["job_id"])
        yield World(service, data, service.get(f"/trainings/{accepted['id']}"), job)


def test_a_training_that_was_killed_twice_succeeds(world: World) -> None:
    assert world.job["state"] == "succeeded", world.job["error"]
    assert world.job["result"]["model_id"] == world.training["model_id"]
    train = next(job for job in world.training["jobs"] if job["kind"] == "train")
    assert train["attempt"] >= 3


def test_every_epoch_is_recorded_once(world: World) -> None:
    assert [epoch["epoch"] for epoch in world.training["epochs"]] == list(range(EPOCHS))


def test_every_validation_case_is_scored_per_label(world: World) -> None:
    assert world.training["validation"]
    for score in world.training["validation"]:
        assert set(score["dice"]) == {"left", "right"}


def test_the_second_prediction_loads_nothing(world: World, tmp_path: Path) -> None:
    image = write_array(make_phantom(RECIPE, 7).voxels_czyx[0], tmp_path / "new.nii.gz", RECIPE)

    found = [_predict(world, image) for _ in range(2)]

    assert found[1]["provenance"]["warm"] is True
    assert set(found[0]["volumes"]) == {"left", "right"}
    assert found[0]["volumes"] == found[1]["volumes"]


def test_the_answer_is_the_file_for_who_waits(world: World, tmp_path: Path) -> None:
    image = write_array(make_phantom(RECIPE, 7).voxels_czyx[0], tmp_path / "new.nii.gz", RECIPE)

    response = world.service.client.post(
        f"/predict?model={world.training['model_id']}",
        content=image.read_bytes(),
        headers={
            "Content-Type": "application/octet-stream",
            "Accept": "application/gzip",
            "Prefer": "wait=60",
        },
    )

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/gzip"
    assert gzip.decompress(response.content)[344:348] == b"n+1\x00"


def test_the_mask_is_that_of_the_engine_alone(world: World, tmp_path: Path) -> None:
    image = write_array(
        make_phantom(RECIPE, 8).voxels_czyx[0], _folder(tmp_path / "in") / "new_0000.nii.gz", RECIPE
    )
    model = _model_folder(world, tmp_path / "model")

    mine = _segmentation(world, _predict(world, image), tmp_path / "service.nii.gz")
    engine = [sys.executable, "-m", "core", "predict", "--model", str(model)]
    engine += ["--input", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    subprocess.run(engine, cwd=ROOT, check=True, capture_output=True, timeout=300)

    theirs = sitk.ReadImage(str(tmp_path / "out" / "new.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(mine), sitk.GetArrayFromImage(theirs))


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii.gz", ".nii"])
def test_geometry_comes_back_as_it_went_in(world: World, tmp_path: Path, ending: str) -> None:
    image = write_array(make_phantom(OBLIQUE).voxels_czyx[0], tmp_path / f"oblique{ending}", OBLIQUE)
    sent: Any = sitk.ReadImage(str(image))

    mask = _segmentation(world, _predict(world, image), tmp_path / f"mask{ending}")

    assert mask.GetSize() == sent.GetSize()
    assert mask.GetSpacing() == pytest.approx(sent.GetSpacing(), rel=LAST_BIT)
    assert mask.GetOrigin() == pytest.approx(sent.GetOrigin(), rel=LAST_BIT)
    assert mask.GetDirection() == pytest.approx(sent.GetDirection(), rel=LAST_BIT, abs=LAST_BIT)
    assert mask.GetNumberOfComponentsPerPixel() == 1


def test_an_image_that_is_cut_off_fails_with_a_sentence(world: World, tmp_path: Path) -> None:
    image = write_array(make_phantom(RECIPE, 7).voxels_czyx[0], tmp_path / "new.nii.gz", RECIPE)
    image.write_bytes(image.read_bytes()[:-300])

    job = world.service.end_of(_send(world, image)["job_id"])

    assert job["state"] == "failed"
    assert job["error"]["code"] == "unreadable-image"


def test_a_bad_dataset_names_every_problem(world: World, tmp_path: Path) -> None:
    raw = make_dataset(tmp_path / "raw", RECIPE)
    (raw / "labelsTr" / next((raw / "labelsTr").iterdir()).name).unlink()
    next((raw / "imagesTr").iterdir()).write_bytes(b"no image")
    archive = zip_folder(raw, tmp_path / "bad.zip")

    response = world.service.client.post(
        "/datasets?name=Bad", files={"file": archive.read_bytes()}, headers={"Prefer": "wait=60"}
    )

    dataset = world.service.get(response.json()["links"]["self"])
    assert (response.status_code, dataset["state"]) == (200, "invalid")
    assert len(dataset["problems"]) >= 2
    assert all(problem["message"] for problem in dataset["problems"])


def test_a_training_is_canceled_while_it_runs(world: World) -> None:
    dataset_id = world.training["dataset_id"]
    body = {"dataset_id": dataset_id, "folds": ["all"], "epochs": 500, "iterations_per_epoch": 50}
    accepted = world.service.client.post("/train", json=body).json()
    wait_for(lambda: _running_train(world.service, accepted["job_id"]))

    world.service.client.post(f"/jobs/{accepted['job_id']}/cancel")
    job = world.service.end_of(accepted["job_id"])

    assert job["state"] == "canceled"
    assert {child["state"] for child in job["children"]} <= {"succeeded", "canceled"}
    assert world.service.get(f"/trainings/{accepted['id']}")["model_id"] is None


def _start_training(service: Service, archive: Path) -> Any:
    response = service.client.post(
        "/datasets?name=Phantoms",
        content=archive.read_bytes(),
        headers={"Content-Type": "application/zip", "Prefer": "wait=60"},
    )
    assert response.json()["state"] == "ready", service.get(response.json()["links"]["self"])
    body = {
        "dataset_id": response.json()["id"],
        "folds": [0],
        "epochs": EPOCHS,
        "iterations_per_epoch": 2,
        "seed": 1,
    }
    accepted = service.client.post("/train", json=body)
    assert accepted.status_code == 202
    return accepted.json()


def _kill_the_training_child(service: Service, training_id: str) -> None:
    """Kill the process that trains, once it has an epoch behind it."""
    _wait_for_epochs(service, training_id, 2)
    below = service.descendants()
    worker = next(pid for pid, command in below.items() if "--lanes train" in command)
    child = next(pid for pid, command in below.items() if "worker.child" in command)
    kill(child)
    wait_for(lambda: None if is_alive(child) else worker)


def _kill_everything(service: Service, training_id: str) -> None:
    """Kill the whole service, once the training goes on."""
    _wait_for_epochs(service, training_id, 4)
    everything = [service.process.pid, *service.descendants()]
    for pid in everything:
        kill(pid)
    service.process.wait()
    wait_for(lambda: None if any(is_alive(pid) for pid in everything) else everything)


def _wait_for_epochs(service: Service, training_id: str, count: int) -> None:
    wait_for(lambda: len(service.get(f"/trainings/{training_id}")["epochs"]) >= count or None)


def _running_train(service: Service, job_id: str) -> Any:
    children = service.get(f"/jobs/{job_id}")["children"]
    return next((one for one in children if one["kind"] == "train" and one["progress"]["stage"]), None)


def _send(world: World, image: Path) -> Any:
    response = world.service.client.post(
        "/predict",
        files={"image": (image.name, image.read_bytes())},
        data={"model": world.training["model_id"]},
    )
    assert response.status_code == 202, response.text
    return response.json()


def _predict(world: World, image: Path) -> Any:
    accepted = _send(world, image)
    job = world.service.end_of(accepted["job_id"])
    assert job["state"] == "succeeded", job["error"]
    return world.service.get(accepted["links"]["self"])


def _segmentation(world: World, prediction: Any, path: Path) -> Any:
    response = world.service.client.get(prediction["links"]["segmentation"])
    path.write_bytes(response.content)
    assert response.headers["content-disposition"].endswith(f'{prediction["file_ending"]}"')
    return sitk.ReadImage(str(path))


def _model_folder(world: World, folder: Path) -> Path:
    """Put a model's folder together from the store, as an export would."""
    with sqlite3.connect(world.data / "service.db") as database:
        (files,) = database.execute("SELECT files FROM trained_model").fetchone()
    database.close()
    for name, ref in json.loads(files).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(world.data / "store" / ref["key"], target)
    return folder


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
