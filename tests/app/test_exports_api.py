"""Exports over REST: asked for once, loaded whole and in ranges, deleted."""

from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from app.payloads import ExportPayload, ExportResult
from app.services.resources import Resources
from tests.app import playing
from tests.app.test_models_api import problem

CONTENT = b"PK a zip of ten thousand weights"


@pytest.fixture
def model_id(resources: Resources) -> UUID:
    return playing.model(resources)


def finish(resources: Resources, folder: Path) -> ExportPayload:
    """Play the worker of the next export."""
    taken = playing.claim(resources.sessions)
    assert isinstance(taken.order.payload, ExportPayload)
    key = f"export_model/{taken.job_id}/{taken.fence}/model.zip"
    result = ExportResult(files={"model.zip": playing.publish(resources, folder, key, CONTENT)})
    playing.finish(resources.sessions, taken, result)
    return taken.order.payload


def test_an_export_is_a_job_and_then_a_zip(
    client: httpx.Client, resources: Resources, model_id: UUID, tmp_path: Path
) -> None:
    accepted = client.post(f"/models/{model_id}/exports", json={"format": "official"})

    assert accepted.status_code == 202, accepted.text
    links = accepted.json()["links"]
    assert "once job" in problem(client.get(links["file"]), 409)
    payload = finish(resources, tmp_path)
    assert (payload.format, set(payload.model_files)) == ("official", {"dataset.json", "weights.safetensors"})
    export = client.get(links["self"]).json()
    assert (export["state"], export["size_bytes"]) == ("succeeded", len(CONTENT))
    job = client.get(links["job"]).json()
    assert job["result"] == {"model_id": str(model_id), "export_id": export["id"]}
    assert job["links"]["export"] == links["self"]
    whole = client.get(links["file"])
    assert (whole.content, whole.headers["content-type"]) == (CONTENT, "application/zip")
    assert whole.headers["content-disposition"] == f'attachment; filename="{model_id}.zip"'
    assert whole.headers["etag"] == f'"{export["sha256"]}"'


def test_a_zip_is_loaded_in_ranges_and_not_twice(
    client: httpx.Client, resources: Resources, model_id: UUID, tmp_path: Path
) -> None:
    address = client.post(f"/models/{model_id}/exports", json={}).json()["links"]["file"]
    finish(resources, tmp_path)
    tag = client.get(address).headers["etag"]

    part = client.get(address, headers={"Range": "bytes=3-7", "If-Range": tag})
    beyond = client.get(address, headers={"Range": "bytes=1000-"})
    changed = client.get(address, headers={"Range": "bytes=3-7", "If-Range": '"other"'})
    known = client.get(address, headers={"If-None-Match": tag})

    assert (part.status_code, part.content) == (206, CONTENT[3:8])
    assert part.headers["content-range"] == f"bytes 3-7/{len(CONTENT)}"
    assert (beyond.status_code, changed.content, known.status_code) == (416, CONTENT, 304)


def test_the_same_export_is_made_once_and_again_after_a_bad_end(
    client: httpx.Client, resources: Resources, model_id: UUID, tmp_path: Path
) -> None:
    def ask(target: str) -> httpx.Response:
        return client.post(f"/models/{model_id}/exports", json={"format": target})

    failed = ask("official").json()
    playing.fail(resources.sessions, playing.claim(resources.sessions), "the network is no U-Net")
    assert "the export failed: the network is no U-Net" in problem(client.get(failed["links"]["file"]), 409)

    first, native = ask("official"), ask("native")
    finish(resources, tmp_path)
    again = ask("official")

    assert failed["id"] != first.json()["id"] == again.json()["id"] != native.json()["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert client.get(failed["links"]["self"]).status_code == 404
    listed = client.get(f"/models/{model_id}/exports").json()["items"]
    assert [one["format"] for one in listed] == ["native", "official"]


def test_an_export_is_deleted_with_its_zip(
    client: httpx.Client, resources: Resources, model_id: UUID, tmp_path: Path
) -> None:
    links = client.post(f"/models/{model_id}/exports", json={}).json()["links"]
    assert "is being made" in problem(client.delete(links["self"]), 409)
    finish(resources, tmp_path)

    assert client.delete(links["self"]).status_code == 204

    assert resources.store.keys("export_model/") == []
    for link in ("self", "file", "job"):
        assert client.get(links[link]).status_code == 404
    assert client.get("/models").json()["items"][0]["id"] == str(model_id)


def test_what_is_not_there_gets_its_sentence(client: httpx.Client, model_id: UUID) -> None:
    nowhere = uuid4()

    assert f"there is no model {nowhere}" in problem(client.post(f"/models/{nowhere}/exports", json={}), 404)
    assert "has no export" in problem(client.get(f"/models/{model_id}/exports/{nowhere}"), 404)
    odd = client.post(f"/models/{model_id}/exports", json={"format": "onnx"})
    assert "official" in problem(odd, 422)
