"""Which job is done next: by urgency, then by lane, then by age; over HTTP and in the queue."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from app.jobs import BATCH, INTERACTIVE, JobKind, Lane, Urgency
from app.services.resources import Resources
from tests.app import playing

RAW = {"Content-Type": "application/octet-stream"}

BATCH_FIRST: tuple[Urgency, ...] = ("batch", "interactive", "batch", "interactive")


@pytest.fixture
def model_id(resources: Resources) -> UUID:
    return playing.model(resources)


def position(client: httpx.Client, job_id: object) -> int | None:
    found: int | None = client.get(f"/jobs/{job_id}").json()["queue"]["position"]
    return found


def next_job(resources: Resources) -> str:
    return str(playing.claim(resources.sessions).job_id)


def test_interactive_predictions_go_before_batches_and_else_by_age(
    resources: Resources, model_id: UUID
) -> None:
    sent = [playing.prediction(resources, model_id, urgency).job_id for urgency in BATCH_FIRST]

    taken = [playing.claim(resources.sessions, [Lane.PREDICT]).job_id for _ in sent]

    assert taken == [sent[1], sent[3], sent[0], sent[2]]


def test_positions_in_the_queue_follow_urgency(
    client: httpx.Client, resources: Resources, model_id: UUID
) -> None:
    sent = [playing.prediction(resources, model_id, urgency).job_id for urgency in BATCH_FIRST]

    before = [position(client, one) for one in sent]
    playing.claim(resources.sessions)
    after = [position(client, one) for one in sent]

    assert before == [3, 1, 4, 2]
    assert after == [2, None, 3, 1]


def test_a_worker_of_all_lanes_takes_predictions_then_what_trainings_need_then_trainings(
    resources: Resources, model_id: UUID
) -> None:
    dataset_id = playing.ready_dataset(resources)
    playing.training(resources, dataset_id, folds=[0])
    for _ in range(2):
        playing.finish(resources.sessions, playing.claim(resources.sessions))
    playing.upload(resources)
    playing.prediction(resources, model_id, "batch")
    playing.prediction(resources, model_id)

    taken = [playing.claim(resources.sessions) for _ in range(4)]

    assert [one.kind for one in taken] == [
        JobKind.PREDICT,
        JobKind.PREDICT,
        JobKind.INGEST,
        JobKind.TRAIN,
    ]


def test_what_a_lane_holds_does_not_move_the_positions_of_another(
    client: httpx.Client, resources: Resources, model_id: UUID
) -> None:
    playing.upload(resources)
    submission = playing.prediction(resources, model_id, "batch")

    assert position(client, submission.job_id) == 1


@pytest.mark.parametrize(
    ("sent", "priority"),
    [
        ({}, INTERACTIVE),
        ({"params": {"urgency": "interactive"}}, INTERACTIVE),
        ({"params": {"urgency": "batch"}}, BATCH),
        ({"data": {"urgency": "interactive"}}, INTERACTIVE),
        ({"data": {"urgency": "batch"}}, BATCH),
    ],
)
def test_urgency_stands_in_the_address_or_in_the_form(
    client: httpx.Client, resources: Resources, model_id: UUID, sent: dict[str, Any], priority: int
) -> None:
    form = {"model": str(model_id), **sent.get("data", {})}

    answer = client.post("/predict", files={"image": image()}, params=sent.get("params"), data=form)

    assert answer.status_code == 202
    assert playing.job_row(resources.sessions, UUID(answer.json()["job_id"])).priority == priority


def test_urgency_stands_beside_a_raw_body(client: httpx.Client, resources: Resources, model_id: UUID) -> None:
    playing.prediction(resources, model_id, "batch")

    sent = client.post(
        f"/predict?model={model_id}&urgency=interactive", content=playing.NIFTI[0], headers=RAW
    )

    assert next_job(resources) == sent.json()["job_id"]


@pytest.mark.parametrize(
    ("query", "form"), [("&urgency=soon", {}), ("", {"urgency": "soon"}), ("", {"urgency": ""})]
)
def test_an_urgency_that_there_is_not_gets_its_sentence(
    client: httpx.Client, resources: Resources, model_id: UUID, query: str, form: dict[str, str]
) -> None:
    response = client.post(f"/predict?model={model_id}{query}", files={"image": image()}, data=form)

    assert response.status_code == 422
    assert "urgency" in response.json()["detail"]
    assert "batch" in response.json()["detail"]
    assert playing.try_claim(resources.sessions) is None


def image() -> tuple[str, bytes]:
    content, ending = playing.NIFTI
    return f"x{ending}", content
