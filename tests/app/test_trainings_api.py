"""POST /train, trainings and their jobs over HTTP."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.db.base import transaction
from app.jobs import JobKind
from app.payloads import TrainPayload, TrainResult
from app.services import jobs
from app.services.resources import Resources
from core.domain.progress import Progress
from tests.app import playing


def start(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post(
        "/train", json={key: str(value) if key == "dataset_id" else value for key, value in body.items()}
    )


def test_a_training_is_accepted_with_one_job_to_follow(client: httpx.Client, resources: Resources) -> None:
    dataset_id = playing.ready_dataset(resources)

    response = start(client, dataset_id=dataset_id)

    body = response.json()
    assert (response.status_code, body["state"]) == (202, "queued")
    assert response.headers["location"] == f"/jobs/{body['job_id']}"
    job = client.get(f"/jobs/{body['job_id']}").json()
    assert (job["kind"], [child["kind"] for child in job["children"]]) == ("training", ["plan"])
    assert job["queue"] == {"position": 1}


def test_defaults_are_those_of_nnunet(client: httpx.Client, resources: Resources) -> None:
    training_id = start(client, dataset_id=playing.ready_dataset(resources)).json()["id"]

    request = client.get(f"/trainings/{training_id}").json()["request"]

    assert request["folds"] == [0, 1, 2, 3, 4]
    assert (request["epochs"], request["iterations_per_epoch"]) == (1000, 250)
    assert (request["preset"], request["configurations"]) == ("default", None)


def test_a_finished_training_shows_curves_scores_and_model(
    client: httpx.Client, resources: Resources
) -> None:
    body = start(client, dataset_id=playing.ready_dataset(resources), folds=[0], name="Ours").json()
    for _ in range(2):
        playing.finish(resources.sessions, playing.claim(resources.sessions))
    taken = playing.claim(resources.sessions)
    with transaction(resources.sessions) as session:
        jobs.record_epoch(session, taken, playing.epoch(0))
        jobs.record_epoch(session, taken, playing.epoch(1, loss=float("inf")))
    playing.finish(resources.sessions, taken)
    playing.play_all(resources.sessions)

    training = client.get(f"/trainings/{body['id']}").json()

    assert (training["state"], training["name"], training["configuration"]) == (
        "succeeded",
        "Ours",
        "3d_fullres",
    )
    assert [(one["fold"], one["epoch"], one["train_loss"]) for one in training["epochs"]] == [
        (0, 0, -0.5),
        (0, 1, None),
    ]
    assert training["epochs"][0]["pseudo_dice"] == {"hippocampus": 0.7}
    assert training["validation"] == [
        {"configuration": "3d_fullres", "fold": 0, "case": "case_000", "dice": {"hippocampus": 0.8}}
    ]
    assert [job["kind"] for job in training["jobs"]] == ["plan", "preprocess", "train", "select"]
    job = client.get(f"/jobs/{body['job_id']}").json()
    assert job["result"] == {"training_id": body["id"], "model_id": training["model_id"]}
    assert job["progress"]["percent"] == 100
    (model,) = client.get("/models").json()["items"]
    assert (model["id"], model["training_id"]) == (training["model_id"], body["id"])
    assert (model["channels"], model["reference"]) == (["MRI"], "Ours:1")
    assert [one["id"] for one in client.get("/trainings").json()["items"]] == [body["id"]]


def test_the_parent_says_what_is_going_on(client: httpx.Client, resources: Resources) -> None:
    body = start(client, dataset_id=playing.ready_dataset(resources), folds=[0, 1]).json()
    for _ in range(2):
        playing.finish(resources.sessions, playing.claim(resources.sessions))
    taken = playing.claim(resources.sessions)
    progress = Progress(stage="train", done=3, total=10, note="epoch 3 of 10, loss -0.61")
    with transaction(resources.sessions) as session:
        jobs.record_progress(session, taken, progress, 70.0)

    job = client.get(f"/jobs/{body['job_id']}").json()

    assert job["state"] == "running"
    shown = job["progress"]
    assert shown["note"] == "train 3d_fullres fold 0: epoch 3 of 10, loss -0.61"
    assert (shown["stage"], shown["done"], shown["total"]) == ("train", 2, 5)
    assert 20 < shown["percent"] < 40
    assert shown["eta_seconds"] >= 140
    assert job["children"][2]["progress"]["eta_seconds"] == 70.0


def test_percent_grows_from_stage_to_stage(client: httpx.Client, resources: Resources) -> None:
    body = start(
        client, dataset_id=playing.ready_dataset(resources), folds=[0, 1], configurations=["2d"]
    ).json()

    seen = [client.get(f"/jobs/{body['job_id']}").json()["progress"]["percent"]]
    while (taken := playing.try_claim(resources.sessions)) is not None:
        playing.finish(resources.sessions, taken)
        seen.append(client.get(f"/jobs/{body['job_id']}").json()["progress"]["percent"])

    assert seen[0] == 0
    assert seen[-1] == 100
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("folds", [None, [0], [0, 1, 2, 3, 4], [7]])
def test_fewer_cases_than_folds_are_refused_with_what_to_send(
    client: httpx.Client, resources: Resources, folds: list[int] | None
) -> None:
    dataset_id = playing.ready_dataset(resources, cases=4)

    response = start(client, dataset_id=dataset_id, **({} if folds is None else {"folds": folds}))

    assert response.status_code == 422
    assert '"folds": ["all"]' in response.json()["detail"]
    assert start(client, dataset_id=dataset_id, folds=["all"]).status_code == 202


def test_a_dataset_that_is_not_ready_is_refused(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    early = start(client, dataset_id=submission.id)
    playing.fail(resources.sessions, playing.claim(resources.sessions), "label 3 is not listed")
    late = start(client, dataset_id=submission.id)

    assert (early.status_code, late.status_code) == (409, 409)
    assert "still being checked" in early.json()["detail"]
    assert "label 3 is not listed" in late.json()["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("folds", []),
        ("folds", [-1]),
        ("folds", [0, 0]),
        ("folds", ["0"]),
        ("folds", ["none"]),
        ("folds", [True]),
        ("folds", [0, "all"]),
        ("folds", 0),
        ("folds", [1.5]),
        ("folds", [10**30]),
        ("configurations", ["3d\nhires"]),
        ("configurations", []),
        ("configurations", ["2d", "2d"]),
        ("configurations", "2d"),
        ("preset", "resenc_xxl"),
        ("epochs", 0),
        ("epochs", "many"),
        ("epochs", 10**30),
        ("iterations_per_epoch", -5),
        ("gpu_memory_gb", 0),
        ("target_spacing", [1, 1]),
        ("target_spacing", [1, 0, 1]),
        ("suppress_transpose", "yes"),
        ("plan", "../plans"),
        ("gpu_memory_gb", "8"[:0]),
        ("seed", -1),
        ("seed", 2**63),
        ("name", ""),
        ("name", "a\x00b"),
        ("name", "x" * 101),
        ("tenant_id", "me"),
        ("state", "succeeded"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(
    client: httpx.Client, resources: Resources, field: str, value: object
) -> None:
    response = start(client, dataset_id=playing.ready_dataset(resources), **{field: value})

    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert field.removesuffix("s") in response.json()["detail"]


def test_an_unknown_dataset_is_said_to_be_unknown(client: httpx.Client) -> None:
    missing = uuid4()

    response = start(client, dataset_id=missing)

    assert response.status_code == 404
    assert str(missing) in response.json()["detail"]


@pytest.mark.parametrize("path", ["trainings", "models", "jobs", "predictions"])
def test_unknown_and_malformed_ids_are_answered(client: httpx.Client, path: str) -> None:
    unknown, malformed = client.get(f"/{path}/{uuid4()}"), client.get(f"/{path}/42")

    assert (unknown.status_code, malformed.status_code) == (404, 422)
    assert unknown.headers["content-type"] == malformed.headers["content-type"] == "application/problem+json"


def dataset_of(resources: Resources, shapes: Sequence[tuple[int, int, int]]) -> UUID:
    submission = playing.upload(resources)
    found = playing.ingest_result(len(shapes))
    cases = tuple(
        case.model_copy(update={"shape": shape}) for case, shape in zip(found.cases, shapes, strict=True)
    )
    claim = playing.claim(resources.sessions)
    playing.finish(resources.sessions, claim, found.model_copy(update={"cases": cases}))
    return submission.id


@pytest.mark.parametrize("wanted", [["3d_fullres"], ["2d", "3d_lowres"], ["3d_cascade_fullres"]])
def test_flat_images_are_not_trained_on_as_volumes(
    client: httpx.Client, resources: Resources, wanted: list[str]
) -> None:
    flat = dataset_of(resources, [(1, 50, 40)] * 6)

    refused = client.post("/train", json={"dataset_id": str(flat), "configurations": wanted})
    planned = client.post("/train", json={"dataset_id": str(flat), "configurations": ["2d"]})

    assert refused.status_code == 422
    assert f"{wanted[-1]} is for volumes" in refused.json()["detail"]
    assert "ask for: 2d" in refused.json()["detail"]
    assert planned.status_code == 202


def test_what_becomes_of_some_flat_images_the_plan_decides(
    client: httpx.Client, resources: Resources
) -> None:
    mixed = dataset_of(resources, [(1, 50, 40)] * 5 + [(2, 50, 40)])

    response = client.post("/train", json={"dataset_id": str(mixed), "configurations": ["3d_fullres"]})

    assert response.status_code == 202


def test_settings_of_a_training_are_what_the_engine_gets(client: httpx.Client, resources: Resources) -> None:
    dataset_id = playing.ready_dataset(resources)
    settings = {"optimizer": "adamw", "loss": "dice_topk", "mirror_axes": [0, 1], "early_stop_epochs": 9}

    response = client.post(
        "/train", json={"dataset_id": str(dataset_id), "folds": [0], "epochs": 50, "settings": settings}
    )

    assert response.status_code == 202, response.text
    played = playing.play_all(resources.sessions)
    trained = next(one.order.payload for one in played if one.kind is JobKind.TRAIN)
    assert isinstance(trained, TrainPayload)
    given = trained.settings
    assert (given.optimizer, given.loss, given.mirror_axes, given.early_stop_epochs, given.epochs) == (
        "adamw",
        "dice_topk",
        (0, 1),
        9,
        50,
    )
    view = client.get(f"/trainings/{response.json()['id']}").json()
    assert view["request"]["settings"]["optimizer"] == "adamw"
    assert [(one["fold"], one["epochs"], one["stopped_early"]) for one in view["folds"]] == [(0, None, False)]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"loss": "focal"}, "there is no loss named 'focal'; choose one of: ce, dice, dice_ce"),
        ({"augmentation": "wild"}, "there is no augmentation named 'wild'"),
        ({"optimiser": "sgd"}, "settings.optimiser is not known here"),
        ({"momentum": "0.9"}, "settings.momentum must be a number"),
        ({"mirror_axes": [3]}, "settings.mirror_axes.0 must be at most 2"),
        ({"epochs": 3}, "settings.epochs is not known here"),
        ({"swapped_labels": [["left", "right"]]}, "swapped_labels need swap_axis"),
        ({"schedule": "linear"}, "polynomial"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    client: httpx.Client, resources: Resources, chosen: dict[str, object], words: str
) -> None:
    dataset_id = playing.ready_dataset(resources)

    response = client.post("/train", json={"dataset_id": str(dataset_id), "settings": chosen})

    assert response.status_code == 422
    assert words in response.json()["detail"]


def test_the_plot_of_a_fold_can_be_looked_at(
    client: httpx.Client, resources: Resources, tmp_path: Path
) -> None:
    accepted = client.post(
        "/train", json={"dataset_id": str(playing.ready_dataset(resources)), "folds": [0], "epochs": 50}
    ).json()
    for _ in range(2):
        playing.finish(resources.sessions, playing.claim(resources.sessions))
    taken = playing.claim(resources.sessions)
    early = client.get(f"/jobs/{taken.job_id}/progress.png")
    ref = playing.publish(
        resources, tmp_path, f"train/{taken.job_id}/{taken.fence}/progress.png", b"a picture"
    )
    result = playing.typical_result(taken)
    assert isinstance(result, TrainResult)
    result = result.model_copy(
        update={"files": {**result.files, "progress.png": ref}, "epochs": 30, "best_epoch": 20}
    )
    playing.finish(resources.sessions, taken, result)

    (fold,) = client.get(f"/trainings/{accepted['id']}").json()["folds"]
    plot = client.get(fold["links"]["plot"])

    assert early.status_code == 409
    assert (fold["epochs"], fold["best_epoch"], fold["stopped_early"]) == (30, 20, True)
    assert (plot.content, plot.headers["content-type"]) == (b"a picture", "image/png")
    assert (
        client.get(fold["links"]["plot"], headers={"If-None-Match": plot.headers["etag"]}).status_code == 304
    )
    assert client.get(f"/jobs/{accepted['job_id']}/progress.png").status_code == 404
