"""Images in, segmentations out: every way to send one, and every geometry that must come back."""

import gzip
import io
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name
from sqlalchemy import select

from app.db.models import TrainedModel
from app.settings import Settings
from tests.e2e.conftest import RECIPE, World
from tests.e2e.running import ROOT, kill
from tests.factories import make_phantom, rotation_xyz, write_array

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

NEW = 7
"""Number of a phantom that no training has seen."""

OBLIQUE = replace(
    RECIPE,
    spacing=(2.5, 0.8, 1.1),
    origin_xyz=(-31.5, 12.25, 7.0),
    direction=rotation_xyz((10, -20, 35)),
    seed=9,
)
"""A geometry that no shortcut survives."""

RAW = {"Content-Type": "application/octet-stream"}

Send = Callable[[httpx.Client, str, Path], httpx.Response]


def send_form(client: httpx.Client, model_id: str, image: Path) -> httpx.Response:
    files = {"image": (image.name, image.read_bytes())}
    return client.post("/predict", files=files, data={"model": model_id}, headers={"Prefer": "wait=60"})


def send_numbered(client: httpx.Client, model_id: str, image: Path) -> httpx.Response:
    files = {"image_0000": ("without a telling name", image.read_bytes())}
    return client.post(f"/predict?model={model_id}", files=files, headers={"Prefer": "wait=60"})


def send_raw(client: httpx.Client, model_id: str, image: Path) -> httpx.Response:
    headers = RAW | {"Prefer": "respond-async, wait=60"}
    return client.post(f"/v1/predict?model={model_id}", content=image.read_bytes(), headers=headers)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return write_array(make_phantom(RECIPE, NEW).voxels_czyx[0], tmp_path / "in" / "new_0000.nii.gz", RECIPE)


@pytest.mark.parametrize("send", [send_form, send_numbered, send_raw])
def test_every_way_to_send_an_image_leads_to_the_same_segmentation(
    world: World, image: Path, tmp_path: Path, send: Send
) -> None:
    response = send(world.service.client, world.model_id, image)

    assert response.status_code == 200, response.text
    assert response.headers["Location"].endswith(f"/jobs/{response.json()['job_id']}")
    prediction = world.service.get(response.json()["links"]["self"])
    assert prediction["state"] == "succeeded"
    labels_zyx = _labels(world.service.segmentation(prediction, tmp_path / "mask.nii.gz"))
    volume_ml = float(np.prod(RECIPE.spacing)) / 1000
    assert prediction["volumes"] == {
        "left": pytest.approx(np.sum(labels_zyx == 1) * volume_ml),
        "right": pytest.approx(np.sum(labels_zyx == 2) * volume_ml),
    }
    reference_zyx = make_phantom(RECIPE, NEW).labels_zyx
    assert all(_dice(labels_zyx == label, reference_zyx == label) > 0.5 for label in (1, 2))


def test_the_answer_is_the_file_for_who_waits_for_gzip(world: World, image: Path, tmp_path: Path) -> None:
    response = world.service.client.post(
        f"/predict?model={world.model_id}",
        content=image.read_bytes(),
        headers=RAW | {"Accept": "application/gzip", "Prefer": "wait=60"},
    )

    assert (response.status_code, response.headers["content-type"]) == (200, "application/gzip")
    assert gzip.decompress(response.content)[344:348] == b"n+1\x00"
    (tmp_path / "answer.nii.gz").write_bytes(response.content)
    asked = world.service.predict(world.model_id, image)
    asked_zyx = _labels(world.service.segmentation(asked, tmp_path / "mask.nii.gz"))
    assert np.array_equal(_labels(tmp_path / "answer.nii.gz"), asked_zyx)


def test_the_second_prediction_loads_nothing(world: World, image: Path) -> None:
    world.service.predict(world.model_id, image)

    second = world.service.predict(world.model_id, image)

    assert second["provenance"]["warm"] is True
    assert second["provenance"]["folds"] == [0]
    assert second["timings"]["network"] > 0


def test_a_predictor_that_was_killed_is_replaced(world: World, image: Path) -> None:
    world.service.predict(world.model_id, image)
    predictor = next(pid for pid, name in world.service.descendants().items() if "worker.predictor" in name)
    kill(predictor)

    prediction = world.service.predict(world.model_id, image)

    assert prediction["provenance"]["warm"] is False


def test_the_preview_is_a_picture(world: World, image: Path) -> None:
    prediction = world.service.predict(world.model_id, image)

    response = world.service.client.get(prediction["links"]["preview"])

    assert response.headers["content-type"] == "image/png"
    assert response.content.startswith(b"\x89PNG\r\n\x1a\n")


def test_the_mask_is_that_of_the_engine_alone(world: World, image: Path, tmp_path: Path) -> None:
    model = _model_folder(world, tmp_path / "model")

    mine = _labels(
        world.service.segmentation(world.service.predict(world.model_id, image), tmp_path / "mask.nii.gz")
    )
    engine = [sys.executable, "-m", "core", "predict", "--model", str(model)]
    engine += ["--input", str(image.parent), "--out", str(tmp_path / "out")]
    # As many threads as the service has: in bf16, another division of the work moves a voxel now and then.
    environment = Settings(threads=1).child_environment()
    subprocess.run(engine, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=300)

    assert np.array_equal(mine, _labels(tmp_path / "out" / "new.nii.gz"))


def test_what_is_asked_for_beside_the_mask_comes_with_it(world: World, image: Path, tmp_path: Path) -> None:
    service, plain = world.service, world.service.predict(world.model_id, image)
    options = {"folds": "0", "mirroring": "false", "probabilities": "true", "uncertainty": "true"}

    prediction = service.predict(world.model_id, image, **options)
    missing = service.client.post(
        f"/predict?model={world.model_id}&folds=3", content=image.read_bytes(), headers=RAW
    )

    links = prediction["links"]
    mask: Any = sitk.ReadImage(str(service.segmentation(prediction, tmp_path / "mask.nii.gz")))
    labels_zyx = sitk.GetArrayFromImage(mask)
    npz = np.load(io.BytesIO(service.client.get(links["probabilities"]).content))
    assert np.array_equal(npz["probabilities"].argmax(0), labels_zyx)
    assert np.allclose(npz["probabilities"].sum(0), 1, atol=1e-5)
    place = pickle.loads(service.client.get(links["properties"]).content)["sitk_stuff"]  # noqa: S301
    assert place["spacing"] == mask.GetSpacing()
    (tmp_path / "map.nii.gz").write_bytes(service.client.get(links["uncertainty"]).content)
    uncertainty: Any = sitk.ReadImage(str(tmp_path / "map.nii.gz"))
    assert (uncertainty.GetSize(), uncertainty.GetOrigin()) == (mask.GetSize(), mask.GetOrigin())
    assert 0 < sitk.GetArrayFromImage(uncertainty).max() <= 1
    assert (prediction["options"]["mirroring"], plain["options"]["mirroring"]) == (False, True)
    assert prediction["provenance"]["folds"] == [0]
    assert "uncertainty" not in plain["links"]
    assert (missing.status_code, "it has 0;" in missing.json()["detail"]) == (422, True)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii.gz", ".nii"])
def test_geometry_comes_back_to_the_last_bit(world: World, tmp_path: Path, ending: str) -> None:
    image = write_array(make_phantom(OBLIQUE).voxels_czyx[0], tmp_path / f"oblique{ending}", OBLIQUE)
    sent: Any = sitk.ReadImage(str(image))
    assert sent.GetPixelIDTypeAsString() == "16-bit signed integer"

    prediction = world.service.predict(world.model_id, image)
    mask: Any = sitk.ReadImage(str(world.service.segmentation(prediction, tmp_path / f"mask{ending}")))

    assert mask.GetSize() == sent.GetSize()
    assert mask.GetSpacing() == sent.GetSpacing()
    assert mask.GetOrigin() == sent.GetOrigin()
    assert mask.GetDirection() == sent.GetDirection()
    assert mask.GetNumberOfComponentsPerPixel() == 1


def test_an_image_that_is_cut_off_fails_with_a_sentence(world: World, image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-300])

    job = world.service.end_of(world.service.send(world.model_id, image)["job_id"])

    assert (job["state"], job["error"]["code"]) == ("failed", "unreadable-image")
    assert "damaged" in job["error"]["detail"]


def test_who_waits_for_the_file_gets_the_problem_of_a_bad_image(world: World, image: Path) -> None:
    response = world.service.client.post(
        f"/predict?model={world.model_id}",
        content=image.read_bytes()[:-300],
        headers=RAW | {"Accept": "application/gzip", "Prefer": "wait=60"},
    )

    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert "damaged" in response.json()["detail"]


def _labels(path: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def _dice(found: Any, reference: Any) -> float:
    return float(2 * np.sum(found & reference) / (np.sum(found) + np.sum(reference)))


def _model_folder(world: World, folder: Path) -> Path:
    """Put the model's folder together from the store, as an export would."""
    ((files,),) = world.rows(select(TrainedModel.files).where(TrainedModel.id == UUID(world.model_id)))
    for name, ref in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(world.data / "store" / ref["key"], target)
    return folder
