"""Settings of a training over HTTP: what is taken reaches the folds, what cannot be is named."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from app.db.base import transaction
from app.db.models import Training
from app.payloads import TrainPayload
from app.services.resources import Resources
from tests.app import playing


def send(client: httpx.Client, resources: Resources, settings: Any, **body: Any) -> httpx.Response:
    dataset_id = str(playing.ready_dataset(resources))
    return client.post("/train", json={"dataset_id": dataset_id, "settings": settings, **body})


def test_settings_reach_every_fold(client: httpx.Client, resources: Resources) -> None:
    settings = {
        "loss": "topk",
        "optimizer": "adamw",
        "initial_learning_rate": 0.001,
        "mirror_axes": [0, 1],
        "early_stop_epochs": 20,
    }

    response = send(client, resources, settings, folds=[0], epochs=7, seed=3)
    played = playing.play_all(resources.sessions)

    assert response.status_code == 202, response.text
    (payload,) = [one.order.payload for one in played if isinstance(one.order.payload, TrainPayload)]
    found = payload.settings.to_json()
    assert {name: found[name] for name in settings} == settings
    assert (found["epochs"], found["seed"], found["schedule"]) == (7, 3, "polynomial")
    training = client.get(f"/trainings/{response.json()['id']}").json()
    assert training["request"]["settings"]["loss"] == "topk"


@pytest.mark.parametrize(
    ("lengths", "validated"),
    [({}, 50), ({"iterations_per_epoch": 20}, 4), ({"validation_iterations_per_epoch": 7}, 7)],
)
def test_how_much_is_validated_can_be_chosen_and_is_else_in_proportion(
    client: httpx.Client, resources: Resources, lengths: dict[str, int], validated: int
) -> None:
    response = send(client, resources, {}, folds=[0], **lengths)
    played = playing.play_all(resources.sessions)

    assert response.status_code == 202, response.text
    (payload,) = [one.order.payload for one in played if isinstance(one.order.payload, TrainPayload)]
    assert payload.settings.validation_iterations_per_epoch == validated


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (
            {"loss": "focal"},
            "there is no loss named 'focal'; choose one of: ce, dice, dice_ce, dice_topk, topk",
        ),
        (
            {"augmentation": "DA5"},
            "there is no augmentation named 'DA5'; choose one of: default, none, strong",
        ),
        ({"learning_rate": 1}, "settings.learning_rate is not known here; leave it out"),
        ({"momentum": 1}, "settings.momentum must be less than 1"),
        ({"deterministic": 1}, "settings.deterministic must be true or false"),
        ({"warmup_epochs": 2.5}, "settings.warmup_epochs must be a whole number"),
        ({"optimizer": "lion"}, "settings.optimizer must be 'sgd', 'adamw' or 'adam'"),
        ({"initial_learning_rate": None}, "settings.initial_learning_rate must be a number"),
        ("strong", "settings must be a JSON object"),
        ({"swap_axis": 2}, "swapped_labels need swap_axis, and it needs them"),
        ({"swapped_labels": [["hippocampus", "x"]]}, "swapped_labels need swap_axis, and it needs them"),
        (
            {"swapped_labels": [["hippocampus", "amygdala"]], "swap_axis": 2},
            "'amygdala' is no single foreground",
        ),
        ({"swapped_labels": [["background", "hippocampus"]], "swap_axis": 2}, "it has: hippocampus"),
        ({"swapped_labels": [["hippocampus", "hippocampus"]], "swap_axis": 2}, "more than once"),
        ({"swapped_labels": [["hippocampus"]], "swap_axis": 2}, "settings.swapped_labels.0"),
        (
            {"swapped_labels": [["hippocampus", "x"]], "swap_axis": 2, "mirror_axes": [0, 1]},
            "mirror_axes [0, 1] leave that axis out",
        ),
        ({"warmup_epochs": 1000}, "warmup_epochs is 1000, but the training has epochs 1000"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    client: httpx.Client, resources: Resources, chosen: Any, sentence: str
) -> None:
    response = send(client, resources, chosen)

    assert (response.status_code, sentence in response.json()["detail"]) == (422, True), response.json()[
        "detail"
    ]


def test_a_training_can_be_looked_at_whose_loss_is_gone_or_that_an_earlier_release_asked_for(
    client: httpx.Client, resources: Resources
) -> None:
    found = send(client, resources, {}, folds=[0]).json()
    with transaction(resources.sessions) as session:
        row = session.get_one(Training, UUID(found["id"]))
        known = {"dataset_id", "folds", "epochs", "iterations_per_epoch", "seed", "name", "preset"}
        row.request = {name: value for name, value in row.request.items() if name in known}
    old = client.get(f"/jobs/{found['job_id']}")
    with transaction(resources.sessions) as session:
        row = session.get_one(Training, UUID(found["id"]))
        row.request = row.request | {"settings": {"loss": "of_a_package_that_is_gone"}}
    gone = client.get(f"/jobs/{found['job_id']}")

    assert (old.status_code, gone.status_code) == (200, 200)
