"""Announcing jobs: what lies in Redis then, and that nothing depends on it being there."""

import json
import os
import signal
import time
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import servers
from pydantic import ValidationError
from redis import Redis, RedisError
from servers import RedisServer

from app.jobs import BATCH, INTERACTIVE, JobState, Lane
from app.queue import Announcement, CeleryQueue, PolledQueue, Queue, open_queue
from app.services import jobs, steering
from app.services.resources import Resources
from app.services.transitions import announced
from app.settings import Settings
from app.supervisor import free_port
from tests.app import playing
from tests.app.conftest import Serve

BOUND_SECONDS = 10
"""A request may be held up for so long by a broker that does not answer."""


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with closing(Redis.from_url(redis_url, decode_responses=True)) as client:
        yield client


@pytest.fixture
def queue(redis_url: str) -> CeleryQueue:
    return CeleryQueue(redis_url)


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that a test may stop."""
    with servers.redis_server() as server:
        yield server


def announcement(lane: Lane = Lane.CPU, priority: int = 6) -> Announcement:
    return Announcement(uuid4(), lane, priority)


def messages(redis: Redis, name: str) -> list[dict[str, Any]]:
    """Return a list's messages, the oldest first."""
    return [json.loads(text) for text in reversed(redis.lrange(name, 0, -1))]


def job_ids(redis: Redis, name: str) -> list[UUID]:
    """Return the jobs that a list's messages point at, the oldest first."""
    return [UUID(json.loads(b64decode(one["body"]))[0][0]) for one in messages(redis, name)]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    """Have a Redis take connections and say nothing."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("lane", "priority", "name"),
    [
        (Lane.PREDICT, INTERACTIVE, "predict"),
        (Lane.PREDICT, BATCH, "predict:3"),
        (Lane.CPU, 6, "cpu:6"),
        (Lane.TRAIN, 9, "train:9"),
    ],
)
def test_a_message_lies_in_the_list_of_its_lane_and_priority(
    queue: CeleryQueue, redis: Redis, lane: Lane, priority: int, name: str
) -> None:
    one, other = announcement(lane, priority), announcement(lane, priority)

    queue.announce([one, other])

    assert job_ids(redis, name) == [one.job_id, other.job_id]


def test_a_message_says_only_which_job(queue: CeleryQueue, redis: Redis) -> None:
    one = announcement()

    queue.announce([one])

    (message,) = messages(redis, "cpu:6")
    arguments, keywords, embedded = json.loads(b64decode(message["body"]))
    assert (arguments, keywords) == ([str(one.job_id)], {})
    assert set(embedded.values()) == {None}
    assert (message["headers"]["task"], message["content-type"]) == ("run_job", "application/json")


def test_messages_of_every_priority_are_counted(queue: CeleryQueue) -> None:
    before = queue.messages()

    queue.announce(
        [announcement(Lane.CPU, 6), announcement(Lane.PREDICT, BATCH), announcement(Lane.PREDICT, 0)]
    )

    assert before == {Lane.CPU: 0, Lane.TRAIN: 0, Lane.PREDICT: 0}
    assert queue.messages() == {Lane.CPU: 1, Lane.TRAIN: 0, Lane.PREDICT: 2}


def test_a_broker_that_answers_is_reachable(queue: CeleryQueue) -> None:
    queue.require_reachable()


def test_announcing_goes_on_after_redis_was_emptied(
    queue: CeleryQueue, redis: Redis, redis_server: RedisServer
) -> None:
    queue.announce([announcement()])
    redis_server.empty()

    one = announcement()
    queue.announce([one])

    assert job_ids(redis, "cpu:6") == [one.job_id]


def test_announcing_goes_on_after_redis_was_restarted(own_redis: RedisServer) -> None:
    queue = CeleryQueue(own_redis.url)
    queue.announce([announcement()])

    own_redis.restart(crash=True)
    one = announcement()
    queue.announce([one])

    with closing(Redis.from_url(own_redis.url, decode_responses=True)) as redis:
        assert job_ids(redis, "cpu:6")[-1] == one.job_id


def require_patience(queue: Queue) -> None:
    """Check that a queue without a broker refuses nothing and takes a bounded time."""
    with at_most(BOUND_SECONDS):
        queue.announce(announcement() for _ in range(100))
    with at_most(BOUND_SECONDS):
        assert queue.messages() == {}
    with at_most(BOUND_SECONDS), pytest.raises((RedisError, OSError)):
        queue.require_reachable()


def test_a_broker_that_was_never_there_disturbs_nobody() -> None:
    require_patience(CeleryQueue(f"redis://127.0.0.1:{free_port('127.0.0.1', 0)}/0"))


def test_a_broker_that_has_stopped_disturbs_nobody(own_redis: RedisServer) -> None:
    queue = CeleryQueue(own_redis.url)
    queue.announce([announcement()])

    own_redis.stop(crash=True)

    require_patience(queue)


@pytest.mark.slow
def test_a_broker_that_takes_connections_and_says_nothing_disturbs_nobody(own_redis: RedisServer) -> None:
    queue = CeleryQueue(own_redis.url)
    queue.announce([announcement()])

    with frozen(own_redis):
        require_patience(queue)

    one = announcement()
    queue.announce([one])
    with closing(Redis.from_url(own_redis.url, decode_responses=True)) as redis:
        assert job_ids(redis, "cpu:6")[-1] == one.job_id


def test_without_a_broker_nobody_is_told_and_nothing_is_counted() -> None:
    queue = open_queue(None)

    queue.announce([announcement()])
    queue.require_reachable()

    assert isinstance(queue, PolledQueue)
    assert queue.messages() == {}


def with_queue(resources: Resources, queue: Queue) -> Resources:
    return Resources(resources.sessions, resources.readers, resources.store, queue)


@pytest.fixture
def telling(resources: Resources, queue: CeleryQueue) -> Resources:
    """Resources that announce over Redis."""
    return with_queue(resources, queue)


def test_a_new_job_is_announced(telling: Resources, redis: Redis) -> None:
    submission = playing.upload(telling)

    assert job_ids(redis, "cpu:6") == [submission.job_id]


def test_nothing_is_announced_before_the_commit(telling: Resources, redis: Redis) -> None:
    submission = playing.upload(telling)
    playing.steer(telling.sessions, steering.pause, submission.job_id)
    redis.flushall()

    with announced(telling.sessions, telling.queue) as session:
        steering.resume(session, submission.job_id)
        session.flush()
        before = redis.exists("cpu:6")

    assert before == 0
    assert job_ids(redis, "cpu:6") == [submission.job_id]


def test_nothing_is_announced_that_was_rolled_back(telling: Resources, redis: Redis) -> None:
    submission = playing.upload(telling)
    playing.steer(telling.sessions, steering.pause, submission.job_id)
    redis.flushall()

    def fail_at_the_end() -> None:
        with announced(telling.sessions, telling.queue) as session:
            steering.resume(session, submission.job_id)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_at_the_end()

    assert redis.exists("cpu:6") == 0
    assert playing.job_row(telling.sessions, submission.job_id).state is JobState.PAUSED


def test_a_request_that_is_sent_again_is_not_announced_again(
    redis: Redis, settings: Settings, serve: Serve, redis_url: str
) -> None:
    client = serve(settings.model_copy(update={"broker_url": redis_url}))
    headers = {"Content-Type": "application/zip", "Idempotency-Key": "once"}

    content = playing.zip_bytes()  # Once: a zip says when it was made.

    answers = [client.post("/datasets?name=A", content=content, headers=headers) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert [str(one) for one in job_ids(redis, "cpu:6")] == [answers[0].json()["job_id"]]


def test_of_a_training_its_plan_is_announced_and_never_itself(telling: Resources, redis: Redis) -> None:
    dataset_id = playing.ready_dataset(telling)
    redis.flushall()

    submission = playing.training(telling, dataset_id)
    steered = [steering.pause, steering.resume, steering.cancel, steering.retry]
    for verb in steered:
        with announced(telling.sessions, telling.queue) as session:
            verb(session, submission.job_id)

    told = job_ids(redis, "cpu:6")
    assert len(told) == 3
    assert submission.job_id not in told
    assert len(set(told)) == 1


def test_a_job_is_announced_when_what_it_waited_for_is_done(telling: Resources, redis: Redis) -> None:
    playing.training(telling, playing.ready_dataset(telling), folds=[0, 1])
    playing.finish(telling.sessions, playing.claim(telling.sessions))
    taken = playing.claim(telling.sessions)
    before = redis.exists("train:9")

    with announced(telling.sessions, telling.queue) as session:
        jobs.succeed(session, taken, playing.typical_result(taken))

    freed = [playing.claim(telling.sessions).job_id for _ in range(2)]
    assert before == 0
    assert job_ids(redis, "train:9") == freed


def test_a_job_that_is_given_back_is_announced(telling: Resources, redis: Redis) -> None:
    submission = playing.upload(telling)
    taken = playing.claim(telling.sessions)
    redis.flushall()

    with announced(telling.sessions, telling.queue) as session:
        jobs.give_back(session, taken, "its worker was stopped")

    assert job_ids(redis, "cpu:6") == [submission.job_id]


def test_urgency_chooses_the_list_of_a_prediction(telling: Resources, redis: Redis) -> None:
    model_id = playing.model(telling)

    batch = playing.prediction(telling, model_id, "batch")
    interactive = playing.prediction(telling, model_id)

    assert job_ids(redis, "predict") == [interactive.job_id]
    assert job_ids(redis, "predict:3") == [batch.job_id]


def test_a_request_is_answered_though_the_broker_is_away(settings: Settings, serve: Serve) -> None:
    client = serve(settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"}))

    with at_most(BOUND_SECONDS):
        response = client.post(
            "/datasets?name=A", content=playing.zip_bytes(), headers={"Content-Type": "application/zip"}
        )

    assert response.status_code == 202
    assert client.get(response.headers["location"]).json()["state"] == "queued"


def test_a_service_whose_broker_is_away_is_not_ready_and_says_so(
    settings: Settings, serve: Serve, own_redis: RedisServer
) -> None:
    client = serve(settings.model_copy(update={"broker_url": own_redis.url}))
    before = client.get("/health/ready")
    own_redis.stop()

    with at_most(BOUND_SECONDS):
        away = client.get("/health/ready")
    own_redis.start()
    after = client.get("/health/ready")

    assert [answer.status_code for answer in (before, away, after)] == [200, 503, 200]
    assert away.json()["failed"] == ["queue"]
    assert httpx.codes.is_success(client.get("/health/live").status_code)


class Broken(PolledQueue):
    """A queue with a mistake in it."""

    def announce(self, announcements: Iterable[Announcement]) -> None:
        raise ValueError(announcements)


def test_a_mistake_in_announcing_undoes_nothing_that_is_committed(resources: Resources) -> None:
    submission = playing.upload(with_queue(resources, Broken()))

    row = playing.job_row(resources.sessions, submission.job_id)
    assert row.state is JobState.QUEUED
    assert resources.store.keys("datasets/")


@pytest.mark.parametrize(
    "url", ["redis://h:6379/abc", "redis://h/0?foo=bar", "amqp://h", "h:6379", "redis://", "redis://h/0/1"]
)
def test_a_broker_that_cannot_be_named_so_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match="redis://:password@host"):
        Settings(broker_url=url)


@pytest.mark.parametrize("url", ["redis://h", "redis://:p@h:6379/1", "rediss://h/0?ssl_cert_reqs=required"])
def test_a_broker_with_a_proper_name_is_taken(url: str) -> None:
    assert Settings(broker_url=url).broker_url == url


def test_a_lane_without_a_worker_is_reported_and_fails_nothing(
    serve: Serve, settings: Settings, redis_url: str
) -> None:
    client = serve(settings.model_copy(update={"broker_url": redis_url}))
    worker = CeleryQueue(redis_url)

    before = client.get("/health/ready")
    worker.show([Lane.CPU, Lane.TRAIN], 60)
    after = client.get("/health/ready")
    worker.show([Lane.CPU], 0.001)
    time.sleep(0.1)
    gone = client.get("/health/ready")

    assert [one.status_code for one in (before, after, gone)] == [200] * 3
    assert before.json()["lanes"] == dict.fromkeys(("cpu", "train", "predict"), "no worker")
    assert after.json()["lanes"] == {"cpu": "ok", "train": "ok", "predict": "no worker"}
    assert gone.json()["lanes"] == {"cpu": "no worker", "train": "ok", "predict": "no worker"}
