"""GET /jobs/{id}/events as clients see it: over real HTTP, live, and again after the line was cut."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr
from servers import PostgresServer

from app.api.events import LOOK_SECONDS
from app.db.base import transaction
from app.services import jobs, steering
from app.services.claims import Claim
from app.services.resources import Resources
from app.settings import Settings
from core.domain.progress import Progress
from tests.app import playing
from tests.app.conftest import Serve


@dataclass(frozen=True)
class Event:
    """One block of a stream."""

    id: str | None
    name: str
    content: dict[str, Any]


def events_of(response: httpx.Response) -> Iterator[Event]:
    """Read a stream as the HTML standard has it, until it ends; leave comments and retry times out."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(":")
        if line == "" and "data" in fields:
            yield Event(fields.get("id"), fields["event"], json.loads(fields["data"]))
        fields = {} if line == "" else {**fields, name: value.removeprefix(" ")}


@contextmanager
def stream(client: httpx.Client, job_id: UUID, last: object = None) -> Iterator[Iterator[Event]]:
    """Open a stream of a job's events."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200
        yield events_of(response)


def follow(client: httpx.Client, job_id: UUID, last: object = None) -> list[Event]:
    """Read a whole stream."""
    with stream(client, job_id, last) as events:
        return list(events)


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def record_epoch(resources: Resources, taken: Claim, number: int) -> None:
    with transaction(resources.sessions) as session:
        jobs.record_epoch(session, taken, playing.epoch(number))


def report(resources: Resources, taken: Claim, done: int) -> None:
    with transaction(resources.sessions) as session:
        jobs.record_progress(session, taken, Progress(stage="verify", done=done, total=4), None)


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()


def test_who_comes_late_is_told_everything_from_the_beginning(
    client: httpx.Client, resources: Resources
) -> None:
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    told = follow(client, submission.job_id)

    assert names(told) == ["state", "state", "state", "progress", "end"]
    assert [event.content["after"] for event in told[:3]] == ["queued", "running", "succeeded"]
    assert told[0].content == {
        "job_id": str(submission.job_id),
        "title": "ingest",
        "at": told[0].content["at"],
        "before": None,
        "after": "queued",
        "note": "",
    }
    assert told[-1].content["state"] == "succeeded"
    assert told[-1].content["result"] == {"dataset_id": str(submission.id)}


def test_entries_and_the_end_carry_ids(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    told = follow(client, submission.job_id)

    assert [event.id is not None for event in told] == [True, True, True, False, True]
    assert told[-1].id == f"{told[2].id}-end"


def test_who_comes_back_is_told_only_what_came_later(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))
    everything = follow(client, submission.job_id)

    told = follow(client, submission.job_id, everything[0].id)

    assert told == everything[1:]


def test_who_has_seen_the_end_is_told_to_stay_away(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))
    last = follow(client, submission.job_id)[-1].id

    response = client.get(f"/jobs/{submission.job_id}/events", headers={"Last-Event-ID": str(last)})

    assert (response.status_code, response.content) == (204, b"")


def test_who_was_cut_off_just_before_the_end_gets_it(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))
    last = follow(client, submission.job_id)[-3].id

    told = follow(client, submission.job_id, last)

    assert names(told) == ["progress", "end"]


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_database_that_is_restarted_cuts_no_stream(
    client: httpx.Client, resources: Resources, postgres: PostgresServer
) -> None:
    submission = playing.upload(resources)

    with stream(client, submission.job_id) as events:
        first = [next(events), next(events)]
        postgres.restart(crash=True)
        playing.finish(resources.sessions, playing.claim(resources.sessions))
        rest = list(events)

    assert names(first) == ["state", "progress"]
    assert names(rest)[-1] == "end"


def test_who_has_seen_an_end_that_was_taken_back_hears_more(
    client: httpx.Client, resources: Resources
) -> None:
    submission = playing.upload(resources)
    playing.fail(resources.sessions, playing.claim(resources.sessions))
    last = follow(client, submission.job_id)[-1].id
    playing.steer(resources.sessions, steering.retry, submission.job_id)
    playing.play_all(resources.sessions)

    told = follow(client, submission.job_id, last)

    assert [event.content["after"] for event in told[:-2]] == ["queued", "running", "succeeded"]


def test_epochs_and_steps_back_are_told(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    for number in range(3):
        record_epoch(resources, taken, number)
    with transaction(resources.sessions) as session:
        jobs.rewind(session, taken, 1)
    record_epoch(resources, taken, 1)
    playing.finish(resources.sessions, taken)

    told = follow(client, submission.job_id)

    assert names(told[2:7]) == ["epoch", "epoch", "epoch", "resumed", "epoch"]
    assert [event.content["epoch"] for event in told[2:7]] == [0, 1, 2, 1, 1]
    assert told[2].content["train_loss"] == -0.5


def test_a_training_tells_of_its_jobs(client: httpx.Client, resources: Resources) -> None:
    submission = playing.training(resources, playing.ready_dataset(resources), folds=[0])
    playing.play_all(resources.sessions)

    told = follow(client, submission.job_id)

    states = [event for event in told if event.name == "state"]
    assert {event.content["title"] for event in states} == {
        "training", "plan", "preprocess 3d_fullres", "train 3d_fullres fold 0", "select"
    }  # fmt: skip
    assert "children" not in told[-1].content
    assert told[-1].content["result"]["training_id"] == str(submission.id)


def test_events_come_while_the_stream_is_open(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)

    with stream(client, submission.job_id) as events:
        first = [next(events), next(events)]
        taken = playing.claim(resources.sessions)
        second = [next(events), next(events)]
        record_epoch(resources, taken, 0)
        third = next(events)
        playing.finish(resources.sessions, taken)
        rest = list(events)

    assert names(first) == names(second) == ["state", "progress"]
    assert [event.content.get("state") for event in (first[1], second[1])] == ["queued", "running"]
    assert third.name == "epoch"
    assert names(rest) == ["state", "progress", "end"]


def test_progress_is_told_when_it_changes_and_only_then(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)

    def work() -> None:
        for done in (1, 1, 2):
            report(resources, taken, done)
            time.sleep(3 * LOOK_SECONDS)
        with transaction(resources.sessions) as session:
            jobs.renew(session, taken, playing.LEASE_SECONDS)
        time.sleep(3 * LOOK_SECONDS)
        playing.finish(resources.sessions, taken)

    with stream(client, submission.job_id) as events:
        begin = [next(events) for _ in range(3)]
        with meanwhile(work):
            rest = list(events)

    told = [event.content["progress"] for event in rest if event.name == "progress"]
    assert names(begin) == ["state", "state", "progress"]
    assert [(progress["stage"], progress["done"]) for progress in told] == [
        ("verify", 1), ("verify", 2), ("verify", 2)
    ]  # fmt: skip
    assert [progress["percent"] for progress in told][-1] == 100
    assert set(rest[0].content) == {"id", "state", "progress", "queue"}


def test_a_job_that_is_paused_keeps_its_stream_open(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.steer(resources.sessions, steering.pause, submission.job_id)

    with stream(client, submission.job_id) as events:
        before = [next(events) for _ in range(3)]
        playing.steer(resources.sessions, steering.resume, submission.job_id)
        after = [next(events) for _ in range(2)]

    assert [event.content.get("after") or event.content["state"] for event in before + after] == [
        "queued", "paused", "paused", "queued", "queued"
    ]  # fmt: skip


def test_a_client_that_was_cut_off_misses_nothing(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    with stream(client, submission.job_id) as events:
        seen = [next(events), next(events)]

    for number in range(2):
        record_epoch(resources, taken, number)
    playing.finish(resources.sessions, taken)
    rest = follow(client, submission.job_id, seen[-1].id)

    ids = [int(event.id) for event in (seen + rest)[:-1] if event.id is not None]
    assert names(rest) == ["epoch", "epoch", "state", "progress", "end"]
    assert ids == sorted(set(ids))


def test_a_stream_says_that_nobody_may_keep_it_back(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    response = client.get(f"/jobs/{submission.job_id}/events")

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.text.startswith("retry: 2000\n\n")


def test_the_stream_of_the_versioned_address_has_versioned_links(
    client: httpx.Client, resources: Resources
) -> None:
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    with client.stream("GET", f"/v1/jobs/{submission.job_id}/events") as response:
        told = list(events_of(response))

    assert told[-1].content["links"]["events"] == f"/v1/jobs/{submission.job_id}/events"


def test_a_job_that_there_is_not_has_no_stream(client: httpx.Client) -> None:
    response = client.get(f"/jobs/{uuid4()}/events")

    assert (response.status_code, response.json()["code"]) == (404, "not-found")
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("last", ["abc", "-1", "1.5", str(2**63), "9" * 40])
def test_an_id_that_cannot_be_gets_its_sentence(
    client: httpx.Client, resources: Resources, last: str
) -> None:
    submission = playing.upload(resources)

    response = client.get(f"/jobs/{submission.job_id}/events", headers={"Last-Event-ID": last})

    assert (response.status_code, response.json()["code"]) == (422, "invalid-request")
    assert "Last-Event-ID" in response.json()["detail"]


def test_parameters_are_refused(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)

    assert client.get(f"/jobs/{submission.job_id}/events?since=1").status_code == 422


def test_a_stream_needs_the_key(serve: Serve, settings: Settings, resources: Resources) -> None:
    client = serve(settings.model_copy(update={"api_key": SecretStr("a-key-of-this-test")}))
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    refused = client.get(f"/jobs/{submission.job_id}/events")
    let_in = client.get(f"/jobs/{submission.job_id}/events", headers={"X-API-Key": "a-key-of-this-test"})

    assert (refused.status_code, let_in.status_code) == (401, 200)


def test_many_followers_do_not_hold_up_the_service(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    limits = httpx.Limits(max_connections=None)

    with ExitStack() as stack:
        many = stack.enter_context(httpx.Client(base_url=client.base_url, timeout=30, limits=limits))
        streams = [stack.enter_context(stream(many, submission.job_id)) for _ in range(60)]
        firsts = [next(one).name for one in streams]
        began = time.monotonic()
        answer = client.get(f"/jobs/{submission.job_id}")
        seconds = time.monotonic() - began

    assert firsts == ["state"] * 60
    assert (answer.status_code, seconds < 5) == (200, True)
