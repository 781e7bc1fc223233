"""What trainings begin with, over HTTP: splits, patients, weights of a model, an earlier training."""

import time
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import select

from app.db.base import transaction
from app.db.models import StoredObject, TrainedModel
from app.jobs import JobKind
from app.payloads import TrainPayload, TrainResult
from app.services.claims import Claim
from app.services.resources import Resources
from core.domain.pretraining import PretrainedRecord, TensorLeft, WeightsSource
from core.domain.splits import parse_patients, parse_splits
from tests.app import playing

CASES = [f"case_{number:03d}" for number in range(6)]
SPLITS = [{"train": CASES[2:], "val": CASES[:2]}, {"train": CASES[:2], "val": CASES[2:]}]


@pytest.fixture
def dataset_id(resources: Resources) -> str:
    return str(playing.ready_dataset(resources))


def train(client: httpx.Client, **body: Any) -> Any:
    response = client.post("/train", json=body)
    assert response.status_code == 202, response.text
    return response.json()


def refused(client: httpx.Client, **body: Any) -> str:
    response = client.post("/train", json=body)
    assert response.status_code == 422, response.text
    return str(response.json()["detail"])


def play(resources: Resources) -> list[TrainPayload]:
    """Play everything; return what was trained."""
    payloads = []
    while (taken := playing.try_claim(resources.sessions)) is not None:
        if isinstance(taken.order.payload, TrainPayload):
            payloads.append(taken.order.payload)
        playing.finish(resources.sessions, taken, result_of(taken))
    return payloads


def result_of(taken: Claim, **changes: Any) -> Any:
    """Return what a job might find; a fold keeps its checkpoint, and what it took over."""
    found = playing.typical_result(taken)
    if not isinstance(found, TrainResult):
        return found
    payload = taken.order.payload
    assert isinstance(payload, TrainPayload)
    taken_over = PretrainedRecord(
        source=WeightsSource(name="x/fold_0/weights.safetensors", sha256="0" * 64),
        taken=("encoder.a",),
        left=(TensorLeft(name="decoder.seg_layers.0.weight", reason="head", shape=(2, 4)),),
        unused=(),
    )
    names = ("weights.safetensors", "checkpoint.safetensors")
    return found.model_copy(
        update={
            "files": {name: playing.stored(taken, name) for name in names},
            "epochs": payload.settings.epochs,
            "pretrained": None if payload.beginning.pretrained is None else taken_over,
        }
        | changes
    )


def test_own_splits_reach_every_fold(client: httpx.Client, resources: Resources, dataset_id: str) -> None:
    body = train(client, dataset_id=dataset_id, splits=SPLITS)

    payloads = play(resources)

    assert [payload.fold for payload in payloads] == [0, 1]
    ref = payloads[0].beginning.splits
    assert ref is not None
    splits = parse_splits(resources.store.path(ref).read_bytes())
    assert [(list(one.train), list(one.val)) for one in splits] == [(s["train"], s["val"]) for s in SPLITS]
    training = client.get(f"/trainings/{body['id']}").json()
    assert (training["state"], training["request"]["splits"]) == ("succeeded", SPLITS)


def test_fewer_cases_than_folds_can_be_trained_with_own_splits(
    client: httpx.Client, resources: Resources
) -> None:
    dataset_id = str(playing.ready_dataset(resources, cases=2))
    splits = [{"train": ["case_000"], "val": ["case_001"]}]

    train(client, dataset_id=dataset_id, splits=splits)

    assert [payload.fold for payload in play(resources)] == [0]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"splits": [{"train": ["case_000", "case_9"], "val": ["case_001"]}]}, "does not have: case_9"),
        ({"splits": [{"train": CASES, "val": ["case_001"]}]}, "trains on case_001 and validates on the same"),
        ({"splits": [{"train": [], "val": ["case_001"]}]}, "splits.0.train must be a list of at least 1"),
        ({"splits": [{"train": ["case_000"]}]}, "splits.0.val is missing"),
        ({"splits": []}, "splits must be a list of at least 1 entry"),
        ({"splits": [{"train": CASES, "val": [], "test": []}]}, "splits.0.test is not known here"),
        ({"splits": SPLITS, "folds": [2]}, "there is no fold 2 among 2 splits"),
        ({"splits": SPLITS, "folds": ["all"]}, "fold all trains on every case"),
        ({"splits": SPLITS, "group_by": "(.)"}, "contradict each other"),
        ({"group_by": "case_(\\d"}, "is no regular expression"),
        ({"group_by": "case_"}, "has no group"),
        ({"group_by": "^(patient)"}, "finds no patient in case_000"),
        ({"group_by": "^(case)"}, "1 patient cannot be dealt into 5 folds"),
        ({"group_by": "(a)" * 100}, "group_by must be a text of at most 200 characters"),
        ({"pretrained": {"model": "x"}}, "pretrained.model_id is missing"),
        (
            {"splits": [{"train": CASES[:5], "val": CASES[5:]}], "configurations": ["3d_cascade_fullres"]},
            "no split validates case_000",
        ),
    ],
)
def test_what_cannot_be_begun_with_is_refused(
    client: httpx.Client, resources: Resources, dataset_id: str, body: dict[str, Any], sentence: str
) -> None:
    before = stored_keys(resources)

    assert sentence in refused(client, dataset_id=dataset_id, **body)

    assert stored_keys(resources) == before
    assert resources.store.keys("trainings/") == []


def stored_keys(resources: Resources) -> set[str]:
    with transaction(resources.readers) as session:
        return set(session.scalars(select(StoredObject.key)))


def test_patients_are_found_in_the_case_identifiers(
    client: httpx.Client, resources: Resources, dataset_id: str
) -> None:
    train(client, dataset_id=dataset_id, group_by="_(\\d+)$", folds=[0])

    (payload,) = play(resources)

    assert payload.beginning.patients is not None
    text = resources.store.path(payload.beginning.patients).read_bytes()
    assert parse_patients(text, "x") == {case: case[-3:] for case in CASES}


def test_an_expression_that_would_search_for_years_is_refused_in_time(
    client: httpx.Client, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = playing.upload(resources)
    found = playing.ingest_result(6)
    cases = tuple(case.model_copy(update={"case": "a" * 60 + case.case}) for case in found.cases)
    taken = playing.claim(resources.sessions)
    playing.finish(resources.sessions, taken, found.model_copy(update={"cases": cases}))
    monkeypatch.setattr("app.services.grouping.PATIENCE_SECONDS", 1.0)
    started = time.monotonic()

    detail = refused(client, dataset_id=str(submission.id), group_by="^(a+)+$")

    assert "takes too long" in detail
    assert time.monotonic() - started < 20


def test_weights_of_a_model_reach_the_folds_and_what_was_taken_is_shown(
    client: httpx.Client, resources: Resources, dataset_id: str
) -> None:
    model_id = model_of(client, resources, dataset_id)

    body = train(
        client, dataset_id=dataset_id, folds=[0], pretrained={"model_id": model_id, "fold": 1}, epochs=9
    )
    (payload,) = play(resources)

    began_with = payload.beginning.pretrained
    assert began_with is not None
    assert (str(began_with.model_id), began_with.fold) == (model_id, 1)
    assert began_with.weights.key.endswith("/weights.safetensors")
    (fold,) = client.get(f"/trainings/{body['id']}").json()["folds"]
    shown = fold["pretrained"]
    assert (shown["model_id"], shown["fold"], shown["taken"]) == (model_id, 1, 1)
    assert shown["left"][0]["reason"] == "head"


def model_of(client: httpx.Client, resources: Resources, dataset_id: str) -> str:
    """Train two folds; the model has the files of both."""
    body = train(client, dataset_id=dataset_id, folds=[0, 1], epochs=7)
    while (taken := playing.try_claim(resources.sessions)) is not None:
        result = result_of(taken)
        if taken.kind is JobKind.SELECT:
            files = {
                f"fold_{one.fold}/{name}": ref
                for one in taken.order.trained
                for name, ref in one.files.items()
            }
            result = result.model_copy(update={"reused": files})
        playing.finish(resources.sessions, taken, result)
    return str(client.get(f"/trainings/{body['id']}").json()["model_id"])


def test_a_model_that_is_not_there_or_lacks_the_fold_is_named(
    client: httpx.Client, resources: Resources, dataset_id: str
) -> None:
    model_id, unknown = model_of(client, resources, dataset_id), uuid4()

    missing = client.post("/train", json={"dataset_id": dataset_id, "pretrained": {"model_id": str(unknown)}})
    detail = refused(client, dataset_id=dataset_id, pretrained={"model_id": model_id, "fold": 4})

    assert (missing.status_code, str(unknown) in missing.json()["detail"]) == (404, True)
    assert "has no fold 4; it has: 0, 1" in detail


def test_of_an_ensemble_a_member_is_named_whose_weights_are_taken(
    client: httpx.Client, resources: Resources, dataset_id: str
) -> None:
    model_id = model_of(client, resources, dataset_id)
    with transaction(resources.sessions) as session:
        model = session.get_one(TrainedModel, UUID(model_id))
        weights = model.files["fold_0/weights.safetensors"]
        model.files = dict.fromkeys(
            (f"members/{name}/fold_0/weights.safetensors" for name in ("2d", "3d_fullres")), weights
        )

    unnamed = refused(client, dataset_id=dataset_id, pretrained={"model_id": model_id})
    wrong = refused(client, dataset_id=dataset_id, pretrained={"model_id": model_id, "member": "3d"})
    body = {"dataset_id": dataset_id, "pretrained": {"model_id": model_id, "member": "2d"}}

    assert "is an ensemble; choose whose weights to take with member: 2d, 3d_fullres" in unnamed
    assert "with member: 2d, 3d_fullres" in wrong
    assert client.post("/train", json=body).status_code == 202


def test_a_member_of_a_model_that_is_no_ensemble_is_refused(
    client: httpx.Client, resources: Resources, dataset_id: str
) -> None:
    model_id = model_of(client, resources, dataset_id)

    detail = refused(client, dataset_id=dataset_id, pretrained={"model_id": model_id, "member": "2d"})

    assert "is no ensemble and has no member 2d; leave member out" in detail


def test_stages_that_a_cascade_needs_do_not_begin_with_its_weights(
    client: httpx.Client, resources: Resources, dataset_id: str
) -> None:
    model_id = model_of(client, resources, dataset_id)
    train(
        client,
        dataset_id=dataset_id,
        configurations=["3d_cascade_fullres"],
        folds=["all"],
        pretrained={"model_id": model_id},
    )
    plan = playing.claim(resources.sessions)
    planned = playing.typical_result(plan)
    stages = [{"name": "3d_lowres"}, {"name": "3d_cascade_fullres", "previous_stage": "3d_lowres"}]
    made = type(planned).model_validate(planned.model_dump() | {"planned": stages})
    playing.finish(resources.sessions, plan, made)

    payloads = play(resources)

    assert [(one.configuration, one.beginning.pretrained is not None) for one in payloads] == [
        ("3d_lowres", False),
        ("3d_cascade_fullres", True),
    ]


def test_a_training_gets_more_epochs_from_where_its_folds_ended(
    client: httpx.Client, resources: Resources, dataset_id: str
) -> None:
    before = train(client, dataset_id=dataset_id, splits=SPLITS, epochs=7, seed=5, name="Ours")
    play(resources)

    response = client.post(f"/trainings/{before['id']}/continue", json={"epochs": 12})
    taken = [playing.claim(resources.sessions)]
    while taken[-1].kind is not JobKind.TRAIN:
        playing.finish(resources.sessions, taken[-1], result_of(taken[-1]))
        taken.append(playing.claim(resources.sessions))

    assert response.status_code == 202
    order = taken[-1].order
    assert isinstance(order.payload, TrainPayload)
    assert (order.payload.settings.epochs, order.payload.settings.seed) == (12, 5)
    assert order.checkpoint is not None
    assert (order.checkpoint.epochs, order.checkpoint.file.key.rpartition("/")[2]) == (
        7,
        "checkpoint.safetensors",
    )
    assert order.payload.beginning.splits is not None
    view = client.get(f"/trainings/{response.json()['id']}").json()
    assert (view["continues"], view["name"], view["request"]["epochs"]) == (before["id"], "Ours", 12)
    assert client.get(f"/trainings/{before['id']}").json()["continues"] is None


def test_a_training_that_cannot_go_further_says_why(
    client: httpx.Client, resources: Resources, dataset_id: str
) -> None:
    body = train(client, dataset_id=dataset_id, folds=[0], epochs=7)
    address = f"/trainings/{body['id']}/continue"
    early = client.post(address, json={"epochs": 12})
    play(resources)
    fewer = client.post(address, json={"epochs": 7})
    other = client.post(address, json={"epochs": 12, "seed": 3})
    unknown = client.post(f"/trainings/{uuid4()}/continue", json={"epochs": 12})

    assert (early.status_code, f"wait for job {body['job_id']}" in early.json()["detail"]) == (409, True)
    assert (fewer.status_code, "has 7 epochs already" in fewer.json()["detail"]) == (422, True)
    assert (other.status_code, "seed is not known here" in other.json()["detail"]) == (422, True)
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    ("changes", "status", "sentence"),
    [
        ({"files": {}}, 409, "kept no checkpoints"),
        ({"epochs": 3}, 422, "every fold ended early"),
    ],
)
def test_folds_that_have_nothing_to_go_on_from_say_so(
    client: httpx.Client,
    resources: Resources,
    dataset_id: str,
    *,
    changes: dict[str, Any],
    status: int,
    sentence: str,
) -> None:
    body = train(client, dataset_id=dataset_id, folds=[0], epochs=7)
    while (taken := playing.try_claim(resources.sessions)) is not None:
        playing.finish(resources.sessions, taken, result_of(taken, **changes))

    response = client.post(f"/trainings/{body['id']}/continue", json={"epochs": 12})

    assert (response.status_code, sentence in response.json()["detail"]) == (status, True)
