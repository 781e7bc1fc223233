"""What cannot be done gets its sentence, and never a 500."""

import io
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.conftest import RECIPE, World
from tests.factories import make_dataset, make_phantom, write_array, zip_folder

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

FEW = replace(RECIPE, cases=3, shape=(6, 8, 8))


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return buffer.getvalue()


def send(world: World, content: bytes) -> Any:
    headers = {"Content-Type": "application/zip", "Prefer": "wait=60"}
    return world.service.client.post("/datasets?name=Bad", content=content, headers=headers)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100)], ids=["empty", "text", "cut"])
def test_what_is_no_zip_is_refused_at_once(world: World, content: bytes) -> None:
    response = send(world, content)

    assert response.status_code in (400, 422), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zipped("readme.txt"), "no dataset.json"),
        (zipped("dataset.json", "../../outside"), "unsafe name"),
        (zipped("dataset.json"), "channel_names"),
    ],
    ids=["other content", "hostile", "empty description"],
)
def test_what_is_no_dataset_becomes_invalid_and_says_why(world: World, content: bytes, words: str) -> None:
    response = send(world, content)

    dataset = world.service.get(response.json()["links"]["self"])
    assert (response.status_code, dataset["state"]) == (200, "invalid")
    assert any(words in problem["message"] for problem in dataset["problems"]), dataset["problems"]
    assert not list(world.data.rglob("outside"))


def test_every_problem_of_every_case_is_named_at_once(world: World, tmp_path: Path) -> None:
    raw = make_dataset(tmp_path / "raw", replace(FEW, cases=5))
    (raw / "labelsTr" / "phantom_000.nii.gz").unlink()
    (raw / "imagesTr" / "phantom_001_0000.nii.gz").write_bytes(b"no image")
    wrong_labels = make_phantom(FEW, 2).labels_zyx
    wrong_labels[0, 0, 0] = 9
    write_array(wrong_labels, raw / "labelsTr" / "phantom_002.nii.gz", FEW)
    write_array(make_phantom(FEW, 3).labels_zyx[:-1], raw / "labelsTr" / "phantom_003.nii.gz", FEW)

    dataset = world.service.upload(zip_folder(raw, tmp_path / "bad.zip"), "Bad")

    assert dataset["state"] == "invalid"
    found = {problem["case"]: problem["message"] for problem in dataset["problems"]}
    assert set(found) == {f"phantom_00{number}" for number in range(4)}
    assert "9" in found["phantom_002"]
    response = world.service.client.post("/train", json={"dataset_id": dataset["id"]})
    assert response.status_code == 409
    assert "problem" in response.json()["detail"]


def test_fewer_cases_than_folds_are_refused_with_what_to_send(world: World, tmp_path: Path) -> None:
    dataset = world.service.upload(
        zip_folder(make_dataset(tmp_path / "raw", FEW), tmp_path / "few.zip"), "Few"
    )
    assert dataset["state"] == "ready", dataset["problems"]

    response = world.service.client.post("/train", json={"dataset_id": dataset["id"]})

    assert response.status_code == 422
    assert '"folds": ["all"]' in response.json()["detail"]


@pytest.mark.parametrize(
    ("request_body", "words"),
    [
        ({"fold": [0]}, "fold"),
        ({"folds": [0, 0]}, "more than once"),
        ({"epochs": 0}, "epochs"),
        ({"settings": {"loss": "focal"}}, "there is no loss named 'focal'; choose one of: ce, dice"),
        ({"settings": {"optimiser": "sgd", "momentum": "0.9"}}, "settings.optimiser is not known here"),
        ({"settings": {"swapped_labels": [["a", "b"]]}}, "swapped_labels need swap_axis"),
        ({"plan": "nnUNetPlans", "preset": "resenc"}, "preset"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_training_that_cannot_be_is_refused(world: World, request_body: dict[str, Any], words: str) -> None:
    response = world.service.client.post("/train", json={"dataset_id": world.dataset["id"], **request_body})

    assert response.status_code == 422
    assert words in response.json()["detail"]


def test_a_configuration_that_the_dataset_is_too_small_for_is_refused_with_those_there_are(
    world: World,
) -> None:
    accepted = world.service.train(world.dataset, configurations=["3d_lowres"], folds=["all"])

    job = world.service.end_of(accepted["job_id"])

    assert job["state"] == "failed"
    assert (job["error"]["code"], job["error"]["job"]) == ("invalid-plan", "plan")
    assert "ask for: 2d, 3d_fullres" in job["error"]["detail"]


@pytest.mark.parametrize("noun", ["datasets", "trainings", "jobs", "models", "predictions"])
@pytest.mark.parametrize("name", [str(uuid4()), "no-id"])
def test_an_unknown_id_is_not_found(world: World, noun: str, name: str) -> None:
    response = world.service.client.get(f"/{noun}/{name}")

    assert response.status_code in (404, 422)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"]


@pytest.mark.parametrize(
    "files", [{"image": b"<html>"}, {"image": bytes(400)}, {"image": b""}, {"picture": b"x"}]
)
def test_an_image_that_is_none_is_refused_at_once(world: World, files: dict[str, bytes]) -> None:
    response = world.service.client.post(f"/predict?model={world.model_id}", files=files)

    assert response.status_code == 422
    assert response.json()["detail"]


def test_a_model_that_does_not_exist_is_not_found(world: World, tmp_path: Path) -> None:
    image = write_array(make_phantom(FEW).voxels_czyx[0], tmp_path / "x.nii.gz", FEW)

    response = world.service.client.post(
        f"/predict?model={uuid4()}", files={"image": (image.name, image.read_bytes())}
    )

    assert response.status_code == 404
    assert "model" in response.json()["detail"]
