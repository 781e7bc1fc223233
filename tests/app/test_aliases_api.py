"""Aliases over REST: set, move, list, delete; and what POST /predict takes as a model."""

import threading
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import pytest

from app.services.resources import Resources
from tests.app import playing
from tests.app.test_models_api import problem

PRODUCTION = "/models/aliases/Liver@production"

RAW = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def versions(resources: Resources) -> list[UUID]:
    """Two models of a name."""
    made = [
        playing.imported(resources, playing.zip_bytes([f"{number}"]), name="Liver").id for number in range(2)
    ]
    playing.play_all(resources.sessions)
    return made


def test_an_alias_is_set_moved_and_deleted(client: httpx.Client, versions: list[UUID]) -> None:
    first = client.put(PRODUCTION, json={"version": 1})
    moved = client.put(PRODUCTION, json={"model_id": str(versions[1])})

    assert (first.status_code, moved.status_code) == (201, 200)
    assert first.headers["Location"] == PRODUCTION == first.json()["links"]["self"]
    assert (first.json()["version"], moved.json()["version"]) == (1, 2)
    assert moved.json()["reference"] == "Liver@production"
    assert client.get(PRODUCTION).json() == moved.json()
    listed = client.get("/models?name=Liver").json()["items"]
    assert [(one["version"], one["aliases"]) for one in listed] == [(2, ["production"]), (1, [])]
    assert client.delete(PRODUCTION).status_code == 204
    assert "has no alias production; set it with PUT" in problem(client.get(PRODUCTION), 404)


def test_nobody_moves_what_another_one_moved(client: httpx.Client, versions: list[UUID]) -> None:
    tag = client.put(PRODUCTION, json={"version": 1}).headers["ETag"]
    assert client.put(PRODUCTION, json={"version": 2}, headers={"If-Match": tag}).status_code == 200

    late = client.put(PRODUCTION, json={"version": 1}, headers={"If-Match": tag})
    twice = client.put(PRODUCTION, json={"version": 1}, headers={"If-None-Match": "*"})

    assert "the alias was changed since you read it" in problem(late, 412)
    assert "the alias is there already" in problem(twice, 412)
    assert "changed" in problem(client.delete(PRODUCTION, headers={"If-Match": tag}), 412)
    assert client.get(PRODUCTION).json()["model_id"] == str(versions[1])
    assert client.get(PRODUCTION).headers["ETag"] == f'"{versions[1]}"'


def test_who_moves_an_alias_at_the_same_time_moves_it_one_after_the_other(
    client: httpx.Client, versions: list[UUID]
) -> None:
    tag = client.put(PRODUCTION, json={"version": 1}).headers["ETag"]
    statuses: list[int] = []

    def move() -> None:
        response = httpx.put(
            client.base_url.join(PRODUCTION), json={"version": 2}, headers={"If-Match": tag}, timeout=30
        )
        statuses.append(response.status_code)

    threads = [threading.Thread(target=move) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [200, 412, 412, 412]
    assert client.get(PRODUCTION).json()["model_id"] == str(versions[1])


def test_aliases_are_listed_by_name_and_in_pages(client: httpx.Client, versions: list[UUID]) -> None:
    for alias in ("production", "staging", "archived"):
        client.put(f"/models/aliases/Liver@{alias}", json={"model_id": str(versions[0])})

    page = client.get("/models/aliases?name=Liver&limit=2").json()
    rest = client.get(f"/v1/models/aliases?cursor={page['next_cursor']}").json()

    named = [one["alias"] for one in (*page["items"], *rest["items"])]
    assert named == ["archived", "staging", "production"]
    assert rest["items"][0]["links"]["self"] == "/v1/models/aliases/Liver@production"
    assert client.get("/models/aliases?name=Spleen").json()["items"] == []


@pytest.mark.parametrize("name", ["left lung", "Task04/Liver", "a@b:c", "größe?#"])
def test_any_name_can_have_aliases(client: httpx.Client, resources: Resources, name: str) -> None:
    submission = playing.imported(resources, name=name)
    playing.play_all(resources.sessions)

    answer = client.put(f"/models/aliases/{quote(name, safe='')}@production", json={"version": 1})

    assert answer.status_code == 201, answer.text
    found = client.get(answer.json()["links"]["self"]).json()
    assert (found["name"], found["model_id"]) == (name, str(submission.id))


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("Liver@production", {"version": 7}, 404, "has no version 7; it has: 1, 2"),
        ("Spleen@production", {"version": 1}, 404, "there is no model Spleen"),
        ("Liver@production", {"model_id": str(uuid4())}, 404, "there is no model"),
        ("Liver@production", {}, 422, "either a version or a model_id"),
        ("Liver@production", {"version": 1, "model_id": str(uuid4())}, 422, "either a version or a model_id"),
        ("Liver@production", {"version": "1"}, 422, "version"),
        ("Liver@production", {"version": 0}, 422, "version"),
        ("Liver@7", {"version": 1}, 422, "begins with a letter"),
        ("Liver", {"version": 1}, 422, "written name@alias"),
        ("Liver@pro%00duction", {"version": 1}, 422, "written name@alias"),
        (f"{'x' * 300}@production", {"version": 1}, 422, "written name@alias"),
    ],
)
@pytest.mark.usefixtures("versions")
def test_what_cannot_be_is_refused_in_a_sentence(
    client: httpx.Client, path: str, body: dict[str, object], status: int, words: str
) -> None:
    assert words in problem(client.put(f"/models/aliases/{path}", json=body), status)


def test_an_alias_belongs_to_models_of_its_name(
    client: httpx.Client, resources: Resources, versions: list[UUID]
) -> None:
    body = {"model_id": str(versions[0])}

    assert "set Liver@production instead" in problem(
        client.put("/models/aliases/Spleen@production", json=body), 409
    )
    unfinished = playing.imported(resources, playing.zip_bytes(["more"]), name="Liver")
    answer = client.put(PRODUCTION, json={"model_id": str(unfinished.id)})
    assert "is being imported" in problem(answer, 409)


@pytest.mark.usefixtures("versions")
def test_a_model_that_an_alias_points_at_stays(client: httpx.Client) -> None:
    model_id = client.put(PRODUCTION, json={"version": 1}).json()["model_id"]

    refused = problem(client.delete(f"/models/{model_id}"), 409)

    assert "the alias Liver@production points at the model" in refused
    client.put(PRODUCTION, json={"version": 2})
    assert client.delete(f"/models/{model_id}").status_code == 204


@pytest.mark.parametrize("named", ["id", "Liver:1", "Liver@production"])
def test_a_prediction_says_which_model_it_was(client: httpx.Client, versions: list[UUID], named: str) -> None:
    client.put(PRODUCTION, json={"version": 1})
    model = str(versions[0]) if named == "id" else named

    accepted = client.post("/predict", files={"image": ("a.nii", playing.NIFTI[0])}, data={"model": model})
    client.put(PRODUCTION, json={"version": 2})

    assert accepted.status_code == 202, accepted.text
    prediction = client.get(accepted.json()["links"]["self"]).json()
    assert (prediction["model_id"], prediction["model"]) == (str(versions[0]), "Liver:1")


@pytest.mark.usefixtures("versions")
def test_a_repeated_request_is_the_same_though_the_alias_has_moved(client: httpx.Client) -> None:
    client.put(PRODUCTION, json={"version": 1})
    headers = RAW | {"Idempotency-Key": "once"}
    address = "/predict?model=Liver@production"
    first = client.post(address, content=playing.NIFTI[0], headers=headers)
    client.put(PRODUCTION, json={"version": 2})

    again = client.post(address, content=playing.NIFTI[0], headers=headers)

    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(
    ("model", "status", "words"),
    [
        ("Liver@staging", 404, "it has: production"),
        ("Liver:9", 404, "it has: 1, 2"),
        ("Liver", 422, "name:version, or name@alias"),
        ("Liver%40%00", 422, "name:version"),
    ],
)
@pytest.mark.usefixtures("versions")
def test_a_model_that_is_not_there_gets_its_sentence(
    client: httpx.Client, model: str, status: int, words: str
) -> None:
    client.put(PRODUCTION, json={"version": 1})

    response = client.post(f"/predict?model={model}", content=playing.NIFTI[0], headers=RAW)

    assert words in problem(response, status)
