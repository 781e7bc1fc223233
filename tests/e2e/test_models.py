"""Models in and out of a running service: exported, imported, named, moved, used, and deleted."""

import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name

from tests.e2e.conftest import RECIPE, World
from tests.e2e.running import Service
from tests.factories import make_phantom, write_array

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

NAME = "Exchanged"

WAITING = {"Prefer": "wait=60"}


@dataclass
class Exchanged:
    """A model that was exported from the service and imported again, in both formats."""

    service: Service
    trained: Any
    zips: dict[str, bytes]
    models: dict[str, Any]


@pytest.fixture(scope="module")
def exchanged(world: World) -> Iterator[Exchanged]:
    service = world.service
    zips = {one: export(service, world.model_id, one) for one in ("official", "native")}
    models = {one: import_model(service, content) for one, content in zips.items()}
    yield Exchanged(service, service.get(f"/models/{world.model_id}"), zips, models)
    for model in models.values():
        service.client.delete(model["links"]["self"])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return write_array(make_phantom(RECIPE, 7).voxels_czyx[0], tmp_path / "in" / "new_0000.nii.gz", RECIPE)


def export(service: Service, model_id: str, target: str) -> bytes:
    """Have a model exported; load the zip in two parts."""
    answer = service.client.post(f"/models/{model_id}/exports", json={"format": target}, headers=WAITING)
    assert answer.status_code == 200, answer.text
    found = service.get(answer.json()["links"]["self"])
    assert found["state"] == "succeeded", found["error"]
    parts = [
        service.client.get(found["links"]["file"], headers={"Range": range_})
        for range_ in ("bytes=0-999", "bytes=1000-")
    ]
    assert [part.status_code for part in parts] == [206, 206]
    content = b"".join(part.content for part in parts)
    assert hashlib.sha256(content).hexdigest() == found["sha256"]
    return content


def import_model(service: Service, content: bytes) -> Any:
    """Send a model, wait for its import, and return it."""
    answer = service.client.post(
        f"/models?name={NAME}", content=content, headers={"Content-Type": "application/zip", **WAITING}
    )
    assert answer.status_code == 200, answer.text
    model = service.get(answer.json()["links"]["self"])
    assert model["state"] == "ready", model["error"]
    return model


def labels_of(service: Service, model: str, image: Path, path: Path) -> Any:
    """Segment an image; return the prediction and its label map."""
    prediction = service.predict(model, image)
    return prediction, sitk.GetArrayFromImage(sitk.ReadImage(service.segmentation(prediction, path)))


@pytest.mark.parametrize("target", ["official", "native"])
def test_an_imported_model_segments_as_the_one_that_was_exported(
    exchanged: Exchanged, image: Path, tmp_path: Path, target: str
) -> None:
    service, model = exchanged.service, exchanged.models[target]
    _, expected_zyx = labels_of(service, exchanged.trained["id"], image, tmp_path / "expected.nii.gz")

    prediction, found_zyx = labels_of(service, model["reference"], image, tmp_path / "found.nii.gz")

    assert np.array_equal(found_zyx, expected_zyx)
    assert np.unique(found_zyx).size > 1
    assert (prediction["model_id"], prediction["model"]) == (model["id"], model["reference"])


@pytest.mark.parametrize("target", ["official", "native"])
def test_an_imported_model_says_what_it_is(exchanged: Exchanged, target: str) -> None:
    trained, model = exchanged.trained, exchanged.models[target]

    for entry in ("configuration", "folds", "channels", "labels", "image"):
        assert model[entry] == trained[entry]
    assert model["image"]["spacing"] == pytest.approx(RECIPE.spacing)
    assert model["provenance"]["archive_sha256"] == hashlib.sha256(exchanged.zips[target]).hexdigest()
    assert model["provenance"]["weights_sha256"].keys() == trained["provenance"]["weights_sha256"].keys()
    assert model["description"]["labels"] == trained["labels"]
    assert trained["selection"]["winner"] == [trained["configuration"]]
    assert trained["selection"]["reason"] == trained["reason"]


def test_the_zips_hold_what_their_names_say(exchanged: Exchanged) -> None:
    names = {
        target: zipfile.ZipFile(io.BytesIO(content)).namelist() for target, content in exchanged.zips.items()
    }

    assert any(name.endswith("/fold_0/checkpoint_final.pth") for name in names["official"])
    assert "fold_0/weights.safetensors" in names["native"]


def test_an_alias_moves_to_another_version_and_its_model_is_kept(exchanged: Exchanged, image: Path) -> None:
    service, (first, second) = exchanged.service, exchanged.models.values()
    address = f"/models/aliases/{NAME}@production"
    set_ = service.client.put(address, json={"version": first["version"]})
    assert set_.status_code == 201, set_.text

    before = service.predict(f"{NAME}@production", image)
    moved = service.client.put(
        address, json={"model_id": second["id"]}, headers={"If-Match": set_.headers["ETag"]}
    )
    after = service.predict(f"{NAME}@production", image)

    assert moved.status_code == 200
    assert [one["model_id"] for one in (before, after)] == [first["id"], second["id"]]
    assert service.client.delete(f"/models/{second['id']}").status_code == 409
    assert service.client.delete(address).status_code == 204


def test_a_deleted_model_leaves_its_predictions_and_none_of_its_files(
    world: World, exchanged: Exchanged, image: Path, tmp_path: Path
) -> None:
    service = exchanged.service
    native = zipfile.ZipFile(io.BytesIO(exchanged.zips["native"]))
    repacked = io.BytesIO()
    with zipfile.ZipFile(repacked, "w") as archive:  # The same model, but another zip.
        for name in native.namelist():
            archive.writestr(name, native.read(name))
    model = import_model(service, repacked.getvalue())
    prediction = service.predict(model["id"], image)
    stored = world.data / "store" / "import_model" / model["job_id"]
    assert [path for path in stored.rglob("*") if path.is_file()]

    assert service.client.delete(f"/models/{model['id']}").status_code == 204

    assert not [path for path in stored.rglob("*") if path.is_file()]
    assert service.client.get(f"/models/{model['id']}").status_code == 404
    kept = service.get(prediction["links"]["self"])
    assert kept["model"] == model["reference"]
    assert service.segmentation(kept, tmp_path / "kept.nii.gz").stat().st_size > 0
    refused = service.client.post(
        "/predict", files={"image": (image.name, image.read_bytes())}, data={"model": model["reference"]}
    )
    assert (refused.status_code, "was deleted" in refused.json()["detail"]) == (404, True)
