"""Models over REST: import, list, read, delete; what a deletion takes along and what it leaves."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import select

from app.db.base import transaction
from app.db.models import StoredObject
from app.jobs import JobState, Lane
from app.payloads import ImportPayload, ImportResult
from app.services import models, steering
from app.services.claims import Claim
from app.services.resources import Resources
from app.settings import Settings
from tests.app import playing

ZIP = {"Content-Type": "application/zip"}

MODEL = playing.zip_bytes(["plans.json"])


def publish_import(resources: Resources, folder: Path, taken: Claim, contents: dict[str, Any]) -> None:
    """End an import with real files."""
    typical = playing.typical_result(taken).model_dump()
    prefix = f"import_model/{taken.job_id}/{taken.fence}"
    files = {
        str(number): playing.publish(resources, folder, f"{prefix}/{number}", json.dumps(content).encode())
        for number, content in enumerate(contents.values())
    }
    result = ImportResult.model_validate({**typical, "files": files, "paths": tuple(contents)})
    playing.finish(resources.sessions, taken, result)


def known_keys(resources: Resources) -> set[str]:
    with transaction(resources.readers) as session:
        return set(session.scalars(select(StoredObject.key)))


def problem(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.json()["detail"])


@pytest.mark.parametrize(
    "body",
    [{"content": MODEL, "headers": ZIP}, {"files": {"file": ("model.zip", MODEL)}}],
    ids=["raw", "form"],
)
def test_a_zip_becomes_a_job_and_then_a_model(
    client: httpx.Client, resources: Resources, tmp_path: Path, body: dict[str, Any]
) -> None:

    accepted = client.post("/models?configuration=3d_fullres&folds=0,all&checkpoint=best", **body)

    assert accepted.status_code == 202, accepted.text
    address = accepted.json()["links"]["self"]
    assert accepted.headers["Location"] == accepted.json()["links"]["job"]
    assert (client.get(address).json()["state"], accepted.json()["state"]) == ("importing", "importing")
    taken = playing.claim(resources.sessions, [Lane.CPU])
    assert isinstance(taken.order.payload, ImportPayload)
    assert taken.order.payload.options.to_json() == {
        "configuration": "3d_fullres",
        "folds": [0, "all"],
        "checkpoint": "best",
    }
    provenance = {"archive_sha256": taken.order.payload.archive.sha256}
    publish_import(
        resources, tmp_path, taken, {"dataset.json": playing.DESCRIPTION, "provenance.json": provenance}
    )

    model = client.get(address).json()

    assert model["origin"] == "imported"
    assert (model["name"], model["version"]) == ("Dataset004_Hippocampus", 1)
    assert (model["state"], model["configuration"], model["folds"]) == ("ready", "3d_fullres", [0])
    assert (model["description"], model["provenance"]) == (playing.DESCRIPTION, provenance)
    assert model["image"]["normalization"] == ["ZScoreNormalization"]
    assert (model["selection"], model["members"], model["postprocessing"]) == (None, [], None)
    job = client.get(model["links"]["job"]).json()
    assert (job["title"], job["result"]) == ("import model", {"model_id": model["id"]})
    assert job["links"]["model"] == address
    assert not [key for key in known_keys(resources) if key.endswith("archive.zip")]


def test_the_same_zip_is_imported_once(client: httpx.Client, resources: Resources) -> None:
    first = client.post("/models?name=Liver", content=MODEL, headers=ZIP)
    playing.play_all(resources.sessions)

    again = client.post("/models?name=Liver", content=MODEL, headers=ZIP)
    otherwise = client.post("/models?name=Spleen", content=MODEL, headers=ZIP)

    assert again.json()["id"] == first.json()["id"] != otherwise.json()["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json()["state"] == "ready"
    assert len(resources.store.keys("import_model/")) == 2  # Nobody cleans up in this test.


def test_an_import_that_failed_says_why_and_can_be_tried_again_or_deleted(
    client: httpx.Client, resources: Resources
) -> None:
    submission = playing.imported(resources, name="Liver")
    playing.fail(resources.sessions, playing.claim(resources.sessions), "the weights do not fit")

    model = client.get(f"/models/{submission.id}").json()

    assert (model["state"], model["error"]["detail"]) == ("failed", "the weights do not fit")
    assert "could not be imported: the weights do not fit" in problem(
        client.post(f"/models/{submission.id}/exports", json={}), 409
    )
    assert playing.imported(resources, name="Liver").id != submission.id
    assert playing.steer(resources.sessions, steering.retry, submission.job_id) is JobState.QUEUED
    assert "is being imported" in problem(client.post(f"/models/{submission.id}/exports", json={}), 409)
    assert f"job {submission.job_id}" in problem(client.delete(f"/models/{submission.id}"), 409)
    playing.steer(resources.sessions, steering.cancel, submission.job_id)
    assert client.delete(f"/models/{submission.id}").status_code == 204
    assert not resources.store.keys(f"import_model/{submission.job_id}/")
    assert client.get(f"/jobs/{submission.job_id}").status_code == 404


@pytest.mark.parametrize(
    ("query", "content", "words"),
    [
        ("", b"a model", "not a zip archive; send the model folder"),
        ("", MODEL[:-30], "cut off"),
        ("?folds=0;1", MODEL, "folds"),
        ("?checkpoint=latest", MODEL, "checkpoint"),
        ("?configurations=2d", MODEL, "configurations"),
        ("?name=%00", MODEL, "name"),
    ],
)
def test_what_cannot_be_a_model_is_refused_at_once(
    client: httpx.Client, resources: Resources, query: str, content: bytes, words: str
) -> None:
    assert words in problem(client.post(f"/models{query}", content=content, headers=ZIP), 422)
    assert playing.states(resources.sessions) == {}
    assert resources.store.keys("") == []


def test_a_body_of_another_type_is_told_what_to_be(client: httpx.Client) -> None:
    response = client.post("/models", content=MODEL, headers={"Content-Type": "text/plain"})

    assert "zip of a trained model" in problem(response, 415)


def test_a_list_is_filtered_and_comes_in_pages(client: httpx.Client, resources: Resources) -> None:
    trained = playing.model(resources)
    for name in ("Liver", "Spleen", "Liver"):
        playing.imported(resources, playing.zip_bytes([f"{uuid4()}"]), name=name)
    playing.play_all(resources.sessions)
    waiting = playing.imported(resources, playing.zip_bytes(["late"]))

    def listed(query: str) -> list[str]:
        return [str(one["reference"]) for one in client.get(f"/models?{query}").json()["items"]]

    assert listed("name=Liver") == ["Liver:2", "Liver:1"]
    assert listed("origin=imported&state=ready") == ["Liver:2", "Spleen:1", "Liver:1"]
    assert listed("origin=trained") == ["Hippocampus:1"]
    assert listed("state=importing") == ["None"]
    page = client.get("/models?limit=2").json()
    rest = client.get(f"/models?limit=200&cursor={page['next_cursor']}").json()
    ids = [one["id"] for one in (*page["items"], *rest["items"])]
    assert (len(ids), ids[0], ids[-1]) == (5, str(waiting.id), str(trained))


def test_a_trained_model_says_why_it_was_chosen(client: httpx.Client, resources: Resources) -> None:
    model_id = playing.model(resources)
    with transaction(resources.sessions) as session:
        model = models.find(session, model_id)
        model.files = {}

    found = client.get(f"/models/{model_id}").json()

    chosen = {"configuration": "3d_fullres", "mean_dice": 0.8, "reason": "the only configuration"}
    assert found["selection"] == chosen
    assert (found["origin"], found["reference"]) == ("trained", "Hippocampus:1")


def test_what_files_say_of_selection_members_and_postprocessing_is_passed_on(
    client: httpx.Client, resources: Resources, tmp_path: Path
) -> None:
    submission = playing.imported(resources)
    contents = {
        "selection.json": {"candidates": [1, 2]},
        "ensemble.json": {"version": 1, "members": ["a", "b"]},
        "postprocessing.json": {"version": 1, "keep_largest": [[1]]},
        "members/a/dataset.json": playing.DESCRIPTION,
    }
    publish_import(resources, tmp_path, playing.claim(resources.sessions), contents)

    model = client.get(f"/models/{submission.id}").json()

    assert model["selection"] == {"candidates": [1, 2]}
    assert (model["members"], model["description"]) == (["a", "b"], playing.DESCRIPTION)
    assert model["postprocessing"]["keep_largest"] == [[1]]


def test_a_model_goes_with_its_objects_and_what_it_segmented_stays(
    client: httpx.Client, resources: Resources
) -> None:
    model_id = playing.model(resources)
    submission = playing.prediction(resources, model_id)
    playing.export(resources, model_id)
    playing.play_all(resources.sessions)
    before = known_keys(resources)

    assert client.delete(f"/models/{model_id}").status_code == 204

    gone = {key.split("/")[0] for key in before - known_keys(resources)}
    assert gone == {"train", "select", "export_model"}
    for route in ("", "/exports"):
        assert "was deleted" in problem(client.get(f"/models/{model_id}{route}"), 404)
    assert client.get("/models").json()["items"] == []
    prediction = client.get(f"/predictions/{submission.id}").json()
    assert (prediction["model_id"], prediction["model"]) == (str(model_id), "Hippocampus:1")
    assert "model" not in prediction["links"]
    training_id = client.get("/trainings").json()["items"][0]["id"]
    training = client.get(f"/trainings/{training_id}").json()
    assert (training["model_id"], "model" in training["links"]) == (str(model_id), False)
    assert "was deleted" in problem(client.delete(f"/models/{model_id}"), 404)


def test_versions_are_not_given_twice(client: httpx.Client, resources: Resources) -> None:
    ids = []
    for number in range(3):
        ids.append(playing.imported(resources, playing.zip_bytes([f"{number}"]), name="Liver").id)
        playing.play_all(resources.sessions)
        if number == 1:
            assert client.delete(f"/models/{ids[1]}").status_code == 204

    versions = [one["version"] for one in client.get("/models?name=Liver").json()["items"]]

    assert versions == [3, 1]


def test_a_model_that_a_job_needs_is_not_deleted(client: httpx.Client, resources: Resources) -> None:
    model_id = playing.model(resources)
    address = f"/models/{model_id}"
    predicting = playing.prediction(resources, model_id)
    assert f"job {predicting.job_id} predicts with it" in problem(client.delete(address), 409)
    playing.fail(resources.sessions, playing.claim(resources.sessions))
    exporting = playing.export(resources, model_id)
    assert f"job {exporting.job_id} imports or exports it" in problem(client.delete(address), 409)
    playing.play_all(resources.sessions)
    pretrained = {"model_id": str(model_id), "fold": "all"}
    dataset_id = client.get("/datasets").json()["items"][0]["id"]
    with transaction(resources.sessions) as session:
        weights = models.find(session, model_id).files["weights.safetensors"]
        found = models.find(session, model_id)
        found.files = {**found.files, "fold_all/weights.safetensors": weights}
    playing.training(resources, UUID(dataset_id), folds=["all"], pretrained=pretrained)
    assert "begins with its weights" in problem(client.delete(address), 409)
    playing.play_all(resources.sessions)

    assert client.delete(address).status_code == 204

    job = client.get(f"/jobs/{predicting.job_id}").json()
    assert "retry" not in job["links"]
    assert "cannot be tried again" in problem(client.post(f"/jobs/{predicting.job_id}/retry"), 409)


def test_uploads_are_limited(serve: Any, settings: Settings) -> None:
    small = serve(settings.model_copy(update={"max_upload_gib": 1e-6}))

    response = small.post("/models", content=MODEL + bytes(2000), headers=ZIP)

    assert "larger than the limit" in problem(response, 413)
