"""A creating request that is sent twice under one key is done once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
from sqlalchemy import update

from app.db.base import now, transaction
from app.db.models import IdempotencyKey
from app.services.resources import KEY_LIFETIME, Resources
from app.settings import Settings
from tests.app import playing

KEY = {"Idempotency-Key": "5f1c"}


def send(client: httpx.Client, name: str = "A", content: bytes = b"", key: str = "5f1c") -> httpx.Response:
    headers = {"Content-Type": "application/zip", "Idempotency-Key": key}
    return client.post(f"/datasets?name={name}", content=content or playing.zip_bytes(), headers=headers)


def test_the_same_upload_again_finds_the_first(client: httpx.Client, settings: Settings) -> None:
    content = playing.zip_bytes()

    first, again = send(client, content=content), send(client, content=content)

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(client.get("/datasets").json()["items"]) == 1
    archives = [file for file in (settings.resolved_store_dir / "datasets").rglob("*") if file.is_file()]
    assert len(archives) == 1


def test_another_upload_under_the_same_key_is_refused(client: httpx.Client) -> None:
    content = playing.zip_bytes()
    send(client, content=content)

    answers = [send(client, content=playing.zip_bytes(["other"])), send(client, name="B", content=content)]

    assert [answer.status_code for answer in answers] == [422, 422]
    assert "Idempotency-Key" in answers[0].json()["detail"]


def test_trainings_and_predictions_take_keys_too(client: httpx.Client, resources: Resources) -> None:
    model_id = playing.model(resources)
    dataset_id = client.get("/datasets").json()["items"][0]["id"]
    image = {"image": ("x.nii", playing.NIFTI[0])}

    def train(**more: Any) -> httpx.Response:
        return client.post(
            "/train", json={"dataset_id": dataset_id, **more}, headers={"Idempotency-Key": "t"}
        )

    def predict() -> httpx.Response:
        return client.post(f"/predict?model={model_id}", files=image, headers={"Idempotency-Key": "p"})

    assert train().json() == train().json() == train(epochs=1000).json()
    assert train(epochs=5).status_code == 422
    assert predict().json() == predict().json()


def test_options_are_part_of_what_makes_two_predictions_the_same(
    client: httpx.Client, resources: Resources
) -> None:
    model_id = playing.model(resources)

    def predict(**options: str) -> httpx.Response:
        return client.post(
            f"/predict?model={model_id}",
            files={"image": ("x.nii", playing.NIFTI[0])},
            data=options,
            headers={"Idempotency-Key": "p"},
        )

    first = predict(uncertainty="true").json()

    assert predict(uncertainty="true").json() == predict(uncertainty="1", mirroring="true").json() == first
    assert [
        predict(**other).status_code for other in ({}, {"uncertainty": "true", "mirroring": "false"})
    ] == [
        422,
        422,
    ]


def test_two_at_once_make_one(client: httpx.Client) -> None:
    content = playing.zip_bytes()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(client, content=content), range(8)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/datasets").json()["items"]) == 1


def test_a_key_is_forgotten_after_a_day(client: httpx.Client, resources: Resources) -> None:
    content = playing.zip_bytes()
    first = send(client, content=content).json()["id"]
    with transaction(resources.sessions) as session:
        session.execute(update(IdempotencyKey).values(created_at=now() - KEY_LIFETIME - timedelta(minutes=1)))

    assert send(client, content=content).json()["id"] != first


def test_a_deleted_dataset_frees_its_key(client: httpx.Client, resources: Resources) -> None:
    content = playing.zip_bytes()
    first = send(client, content=content).json()["id"]
    playing.play_all(resources.sessions)
    client.delete(f"/datasets/{first}")

    again = send(client, content=content)

    assert again.status_code == 202
    assert again.json()["id"] != first


def test_an_empty_or_endless_key_is_refused(client: httpx.Client) -> None:
    assert [send(client, key=key).status_code for key in ("", "x" * 201)] == [422, 422]
