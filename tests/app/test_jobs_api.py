"""Jobs over HTTP: wait, cancel, list, follow from the versioned prefix."""

import threading
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.services import steering
from app.services.resources import Resources
from tests.app import playing


def test_a_client_that_waits_gets_the_end(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)

    def work() -> None:
        time.sleep(0.3)
        playing.finish(resources.sessions, playing.claim(resources.sessions))

    worker = threading.Thread(target=work)
    worker.start()
    response = client.get(f"/jobs/{submission.job_id}", headers={"Prefer": "respond-async, wait=15"})
    worker.join()

    assert response.json()["state"] == "succeeded"
    assert response.json()["result"] == {"dataset_id": str(submission.id)}
    assert response.headers["preference-applied"] == "wait=15"
    assert "retry-after" not in response.headers


def test_a_wait_ends_with_its_time(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    start = time.monotonic()

    response = client.get(f"/jobs/{submission.job_id}", headers={"Prefer": "wait=1"})

    assert 0.9 < time.monotonic() - start < 5
    assert response.json()["state"] == "queued"
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("prefer", ["wait=", "wait=-1", "wait=abc", "waiting=5", "", "wait=1e9"])
def test_a_preference_that_makes_no_sense_is_ignored(
    client: httpx.Client, resources: Resources, prefer: str
) -> None:
    submission = playing.upload(resources)

    response = client.get(f"/jobs/{submission.job_id}", headers={"Prefer": prefer})

    assert response.status_code == 200
    assert "preference-applied" not in response.headers


def test_a_wait_is_cut_to_the_limit(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    response = client.get(f"/jobs/{submission.job_id}", headers={"Prefer": "wait=999999999"})

    assert response.headers["preference-applied"] == "wait=20"


def test_positions_in_the_queue_are_those_of_the_claims(client: httpx.Client, resources: Resources) -> None:
    sent = [playing.upload(resources).job_id for _ in range(3)]

    positions = [client.get(f"/jobs/{one}").json()["queue"]["position"] for one in sent]
    playing.claim(resources.sessions)
    later = [client.get(f"/jobs/{one}").json()["queue"]["position"] for one in sent]

    assert positions == [1, 2, 3]
    assert later == [None, 1, 2]


def test_cancel_over_http(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)

    first = client.post(f"/jobs/{submission.job_id}/cancel")
    again = client.post(f"/jobs/{submission.job_id}/cancel")

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.headers["location"] == f"/jobs/{submission.job_id}"
    assert first.json()["state"] == again.json()["state"] == "canceled"
    assert first.json()["error"]["code"] == "canceled"


def test_a_running_job_is_asked_to_stop_and_polled_for_its_end(
    client: httpx.Client, resources: Resources
) -> None:
    submission = playing.upload(resources)
    playing.claim(resources.sessions)

    response = client.post(f"/jobs/{submission.job_id}/cancel")

    assert response.status_code == 202
    assert response.json()["state"] == "canceling"
    assert response.headers["location"] == f"/jobs/{submission.job_id}"
    assert int(response.headers["retry-after"]) >= 1


def test_a_job_that_has_succeeded_cannot_be_canceled(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    response = client.post(f"/jobs/{submission.job_id}/cancel")

    assert response.status_code == 409
    assert "already succeeded" in response.json()["detail"]


def test_canceling_an_unknown_job(client: httpx.Client) -> None:
    assert client.post(f"/jobs/{uuid4()}/cancel").status_code == 404


def test_the_list_has_trainings_with_their_jobs_below(client: httpx.Client, resources: Resources) -> None:
    submission = playing.training(resources, playing.ready_dataset(resources))

    everything = client.get("/jobs").json()["items"]
    queued = client.get("/jobs?state=queued&kind=training").json()["items"]

    assert [job["kind"] for job in everything] == ["training", "ingest"]
    assert [job["id"] for job in queued] == [str(submission.job_id)]
    assert [child["kind"] for child in everything[0]["children"]] == ["plan"]


def test_a_failed_job_carries_its_problem(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.fail(resources.sessions, playing.claim(resources.sessions), "the archive holds a link")

    job = client.get(f"/jobs/{submission.job_id}").json()

    assert job["state"] == "failed"
    assert job["error"]["detail"] == "the archive holds a link"
    assert job["finished_at"] is not None


def test_links_stay_within_the_version_that_was_asked(client: httpx.Client, resources: Resources) -> None:
    response = client.post(
        "/v1/datasets?name=A", content=playing.zip_bytes(), headers={"Content-Type": "application/zip"}
    )

    job = client.get(response.headers["location"]).json()

    assert response.headers["location"].startswith("/v1/jobs/")
    assert all(link.startswith("/v1/") for link in job["links"].values())
    assert resources.queue is not None


def test_a_queued_job_is_paused_and_resumed(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)

    paused = client.post(f"/jobs/{submission.job_id}/pause")
    resumed = client.post(f"/jobs/{submission.job_id}/resume")

    assert (paused.status_code, paused.json()["state"]) == (200, "paused")
    assert (resumed.status_code, resumed.json()["state"]) == (202, "queued")
    assert resumed.headers["location"] == f"/jobs/{submission.job_id}"


def test_a_running_job_is_asked_to_pause_and_polled(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.claim(resources.sessions)

    response = client.post(f"/jobs/{submission.job_id}/pause")

    assert (response.status_code, response.json()["state"]) == (202, "pausing")
    assert response.headers["retry-after"] == "1"


def test_a_failed_job_is_tried_again(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.fail(resources.sessions, playing.claim(resources.sessions))

    response = client.post(f"/jobs/{submission.job_id}/retry")

    body = response.json()
    assert (response.status_code, body["state"]) == (202, "queued")
    assert (body["error"], body["started_at"], body["finished_at"]) == (None, None, None)


@pytest.mark.parametrize(("verb", "words"), [("resume", "not paused"), ("retry", "failed or was canceled")])
def test_what_a_job_does_not_allow_gets_its_sentence(
    client: httpx.Client, resources: Resources, verb: str, words: str
) -> None:
    submission = playing.upload(resources)

    response = client.post(f"/jobs/{submission.job_id}/{verb}")

    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    assert words in response.json()["detail"]
    assert response.json()["state"] == "queued"


@pytest.mark.parametrize("verb", ["pause", "resume", "retry"])
def test_steering_an_unknown_job(client: httpx.Client, verb: str) -> None:
    assert client.post(f"/jobs/{uuid4()}/{verb}").status_code == 404


def test_links_say_what_may_be_asked_of_a_job(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)

    def verbs() -> set[str]:
        links = client.get(f"/jobs/{submission.job_id}").json()["links"]
        return set(links) & {"cancel", "pause", "resume", "retry"}

    queued = verbs()
    playing.steer(resources.sessions, steering.pause, submission.job_id)
    paused = verbs()
    playing.steer(resources.sessions, steering.cancel, submission.job_id)
    canceled = verbs()
    playing.steer(resources.sessions, steering.retry, submission.job_id)
    playing.play_all(resources.sessions)
    succeeded = verbs()

    assert queued == {"cancel", "pause"}
    assert paused == {"cancel", "resume"}
    assert canceled == {"retry"}
    assert succeeded == set()


def steering_links(job: dict[str, Any]) -> set[str]:
    return set(job["links"]) & {"cancel", "pause", "resume", "retry"}


def test_what_would_be_refused_is_not_offered(client: httpx.Client, resources: Resources) -> None:
    submission = playing.training(resources, playing.ready_dataset(resources), folds=[0])
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    def offered() -> dict[str, set[str]]:
        job = client.get(f"/jobs/{submission.job_id}").json()
        assert all(
            steering_links(client.get(one["links"]["self"]).json()) == steering_links(one)
            for one in job["children"]
        )
        return {one["kind"]: steering_links(one) for one in (job, *job["children"])}

    playing.steer(resources.sessions, steering.pause, submission.job_id)
    paused = offered()
    playing.steer(resources.sessions, steering.resume, submission.job_id)
    playing.fail(resources.sessions, playing.claim(resources.sessions))
    failed = offered()

    assert (paused["training"], paused["preprocess"]) == ({"cancel", "resume"}, {"cancel"})
    assert (failed["training"], failed["preprocess"]) == ({"retry"}, {"retry"})
    assert failed["train"] == failed["select"] == failed["plan"] == set()


def test_a_job_whose_plan_is_gone_cannot_be_tried_again(client: httpx.Client, resources: Resources) -> None:
    dataset_id = playing.ready_dataset(resources)
    accepted = client.post(f"/datasets/{dataset_id}/plans", json={}).json()
    address = f"/jobs/{accepted['job_id']}"
    client.post(f"{address}/cancel")

    before = steering_links(client.get(address).json())
    client.delete(accepted["links"]["self"])
    after = steering_links(client.get(address).json())

    assert (before, after) == ({"retry"}, set())
    assert client.post(f"{address}/retry").status_code == 409
