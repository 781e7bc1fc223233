"""POST /predict in every form, and the files that come back."""

import gzip
import hashlib
import threading
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.db.base import transaction
from app.db.models import TrainedModel
from app.jobs import Lane
from app.payloads import PredictPayload, PredictResult
from app.services import jobs
from app.services.resources import Resources
from app.settings import Settings
from tests.app import playing

NIFTI_GZ = gzip.compress(playing.NIFTI[0])

RAW = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def model_id(resources: Resources) -> UUID:
    return playing.model(resources)


def finish_with_files(resources: Resources, folder: Path, ending: str = ".nii.gz") -> bytes:
    """Play the worker of the next prediction; return the segmentation."""
    content = b"a segmentation"
    taken = playing.wait_for_claim(resources.sessions, [Lane.PREDICT])
    prefix = f"predict/{taken.job_id}/{taken.fence}"
    files = {
        f"segmentation{ending}": playing.publish(
            resources, folder, f"{prefix}/segmentation{ending}", content
        ),
        "preview.png": playing.publish(resources, folder, f"{prefix}/preview.png", b"a picture"),
    }
    result = PredictResult(
        files=files, volumes={"hippocampus": 1.5}, timings={"predict": 0.5}, provenance={"warm": True}
    )
    with transaction(resources.sessions) as session:
        jobs.succeed(session, taken, result)
    return content


def with_channels(resources: Resources, model_id: UUID, channels: list[str]) -> None:
    with transaction(resources.sessions) as session:
        session.get_one(TrainedModel, model_id).channels = channels


def order_of(resources: Resources) -> PredictPayload:
    payload = playing.claim(resources.sessions, [Lane.PREDICT]).order.payload
    assert isinstance(payload, PredictPayload)
    return payload


def test_an_image_goes_in_and_its_segmentation_comes_out(
    client: httpx.Client, resources: Resources, model_id: UUID, tmp_path: Path
) -> None:
    response = client.post(
        "/predict", files={"image": ("C:\\scans\\a b.nii.gz", NIFTI_GZ)}, data={"model": str(model_id)}
    )
    body = response.json()
    early = client.get(body["links"]["segmentation"])
    content = finish_with_files(resources, tmp_path)

    assert (response.status_code, body["state"]) == (202, "queued")
    assert (early.status_code, "queued" in early.json()["detail"]) == (409, True)
    prediction = client.get(f"/predictions/{body['id']}").json()
    assert (prediction["state"], prediction["volumes"]) == ("succeeded", {"hippocampus": 1.5})
    assert (prediction["timings"], prediction["provenance"]) == ({"predict": 0.5}, {"warm": True})
    mask = client.get(body["links"]["segmentation"])
    assert mask.content == content
    assert mask.headers["content-disposition"] == f'attachment; filename="{body["id"]}.nii.gz"'
    assert mask.headers["x-content-type-options"] == "nosniff"
    assert mask.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    again = client.get(body["links"]["segmentation"], headers={"If-None-Match": mask.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(body["links"]["preview"]).headers["content-type"] == "image/png"


def test_a_raw_body_needs_only_the_model(client: httpx.Client, resources: Resources, model_id: UUID) -> None:
    response = client.post(f"/predict?model={model_id}", content=NIFTI_GZ, headers=RAW)

    payload = order_of(resources)
    assert response.status_code == 202
    assert payload.file_ending == ".nii.gz"
    assert payload.channels[0].sha256 == hashlib.sha256(NIFTI_GZ).hexdigest()
    assert resources.store.path(payload.channels[0]).read_bytes() == NIFTI_GZ


@pytest.mark.parametrize(
    "prefer_file", ["application/gzip", "application/gzip;q=0.9, application/json;q=0.1"]
)
def test_who_waits_for_gzip_gets_the_file_itself(
    client: httpx.Client, resources: Resources, model_id: UUID, tmp_path: Path, prefer_file: str
) -> None:
    worker = threading.Thread(target=finish_with_files, args=(resources, tmp_path))
    worker.start()

    response = client.post(
        f"/predict?model={model_id}",
        content=NIFTI_GZ,
        headers={**RAW, "Prefer": "wait=15", "Accept": prefer_file},
    )
    worker.join()

    assert (response.status_code, response.content) == (200, b"a segmentation")
    assert response.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in response.headers
    assert response.headers["preference-applied"] == "wait=15"
    assert client.get(response.headers["location"]).json()["state"] == "succeeded"


def test_who_waits_for_json_gets_the_final_state(
    client: httpx.Client, resources: Resources, model_id: UUID, tmp_path: Path
) -> None:
    worker = threading.Thread(target=finish_with_files, args=(resources, tmp_path))
    worker.start()

    response = client.post(
        f"/predict?model={model_id}", content=NIFTI_GZ, headers={**RAW, "Prefer": "wait=15"}
    )
    worker.join()

    assert (response.status_code, response.json()["state"]) == (200, "succeeded")
    assert "retry-after" not in response.headers


def test_a_prediction_that_fails_tells_the_waiting_client_why(
    client: httpx.Client, resources: Resources, model_id: UUID
) -> None:
    def work() -> None:
        taken = playing.wait_for_claim(resources.sessions, [Lane.PREDICT])
        playing.fail(resources.sessions, taken, "the image is cut off")

    worker = threading.Thread(target=work)
    worker.start()
    response = client.post(
        f"/predict?model={model_id}",
        content=NIFTI_GZ,
        headers={**RAW, "Prefer": "wait=15", "Accept": "application/gzip"},
    )
    worker.join()

    assert (response.status_code, response.json()["detail"]) == (422, "the image is cut off")
    assert response.headers["content-type"] == "application/problem+json"


def test_gzip_of_what_is_no_gzip_is_refused_before_the_work(
    client: httpx.Client, resources: Resources, model_id: UUID
) -> None:
    response = client.post(
        f"/predict?model={model_id}",
        content=playing.NIFTI[0],
        headers={**RAW, "Prefer": "wait=15", "Accept": "application/gzip"},
    )

    assert response.status_code == 406
    assert playing.try_claim(resources.sessions) is None


@pytest.mark.parametrize(
    "fields", [["image", "image"], ["image_0000", "image_0001"], ["image_0001", "image_0000"]]
)
def test_channels_come_in_the_models_order(
    client: httpx.Client, resources: Resources, model_id: UUID, fields: list[str]
) -> None:
    with_channels(resources, model_id, ["T1", "T2"])
    contents = {"image_0001": gzip.compress(playing.NIFTI[0] + b"2")}
    files = [(name, ("x.nii.gz", contents.get(name, NIFTI_GZ))) for name in fields]

    response = client.post(f"/predict?model={model_id}", files=files)

    assert response.status_code == 202
    hashes = [ref.sha256 for ref in order_of(resources).channels]
    second = contents["image_0001"] if "image_0001" in fields else NIFTI_GZ
    assert hashes == [hashlib.sha256(content).hexdigest() for content in (NIFTI_GZ, second)]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("image", ("x.nii.gz", NIFTI_GZ))] * 2, "1 channel(s), in this order: MRI; 2 image(s) came"),
        ([("image_0001", ("x.nii.gz", NIFTI_GZ))], "image_0000"),
        ([("image_0000", ("x.nii.gz", NIFTI_GZ)), ("image", ("x.nii.gz", NIFTI_GZ))], "image_0000"),
        ([("image", ("x.nii.gz", NIFTI_GZ)), ("image", ("x.nii", playing.NIFTI[0]))], "different formats"),
        ([("image", ("x.nii.gz", b"<html></html>"))], "not of that format"),
        ([("image", ("x.nii.gz", gzip.compress(b"text")))], "not of that format"),
        ([("image", ("x.nii", NIFTI_GZ))], "rename it"),
        ([("image", ("x.dcm", b"DICM"))], "this is no image"),
        ([("image", ("x.nii.gz", b""))], "no file came"),
        ([("picture", ("x.nii.gz", NIFTI_GZ))], "unknown"),
    ],
)
def test_an_image_that_cannot_be_used_gets_its_sentence(
    client: httpx.Client, settings: Settings, model_id: UUID, files: Any, words: str
) -> None:
    response = client.post(f"/predict?model={model_id}", files=files)

    assert response.status_code == 422
    assert words in response.json()["detail"]
    assert list((settings.resolved_store_dir / ".incoming").iterdir()) == []


@pytest.mark.parametrize(
    ("query", "data", "status"),
    [
        ("", {}, 422),
        ("", {"model": "default"}, 422),
        ("", {"model": ""}, 422),
        ("", {"model": "x" * 5000}, 422),
        ("?model=7", {}, 422),
        (f"?model={uuid4()}", {}, 404),
        (f"?model={uuid4()}", {"model": str(uuid4())}, 422),
        (f"?model={uuid4()}&model_id=1", {}, 422),
    ],
)
def test_a_wrong_model_gets_its_sentence(
    client: httpx.Client, settings: Settings, query: str, data: dict[str, str], status: int
) -> None:
    response = client.post(f"/predict{query}", files={"image": ("x.nii.gz", NIFTI_GZ)}, data=data)

    assert response.status_code == status
    assert "model" in response.json()["detail"]
    assert list((settings.resolved_store_dir / ".incoming").iterdir()) == []


def test_what_curl_sends_by_default_is_explained(client: httpx.Client, model_id: UUID) -> None:
    response = client.post(
        f"/predict?model={model_id}",
        content=NIFTI_GZ,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )

    assert response.status_code == 415
    assert "application/octet-stream" in response.json()["detail"]


def test_a_failed_prediction_has_no_segmentation_and_says_why(
    client: httpx.Client, resources: Resources, model_id: UUID
) -> None:
    submission = playing.prediction(resources, model_id)
    playing.fail(resources.sessions, playing.claim(resources.sessions), "the image is cut off")

    response = client.get(f"/predictions/{submission.id}/segmentation")

    assert response.status_code == 409
    assert "the image is cut off" in response.json()["detail"]


def test_a_lost_file_is_our_mistake_and_says_so_without_a_path(
    client: httpx.Client, resources: Resources, model_id: UUID, settings: Settings
) -> None:
    submission = playing.prediction(resources, model_id)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    response = client.get(f"/predictions/{submission.id}/segmentation")

    assert response.status_code == 500
    assert "missing or damaged" in response.json()["detail"]
    assert str(settings.data_dir) not in response.text
