"""What workers do beside their jobs: take back, announce again, clean up, show that they live."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from redis import Redis
from sqlalchemy import update

from app import alive
from app.db.base import transaction
from app.db.clock import clock
from app.db.models import Job
from app.jobs import JobKind, JobState, Lane
from app.queue import CeleryQueue
from app.services import steering
from app.services.resources import Resources
from app.settings import GIB, Settings
from tests.app import playing
from tests.worker.running import PATIENCE_SECONDS, job, objects, started, wait_until
from worker import upkeep
from worker.machine import Worker

CPU_LIST = "cpu:6"
"""Where messages about ingests, plans and the like lie."""


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with closing(Redis.from_url(redis_url, decode_responses=True)) as client:
        yield client


@pytest.fixture
def announcer(worker: Worker, redis_url: str) -> Worker:
    """A worker that announces over Redis."""
    worker.queue = CeleryQueue(redis_url)
    return worker


def age_announcements(resources: Resources, seconds: float) -> None:
    """Let every announcement look so old."""
    with transaction(resources.sessions) as session:
        session.execute(update(Job).values(announced_at=clock(-seconds)))


def test_a_job_whose_worker_fell_silent_is_queued_and_announced(
    announcer: Worker, resources: Resources, redis: Redis
) -> None:
    submission = playing.upload(resources)
    playing.claim(resources.sessions)
    playing.let_leases_run_out(resources.sessions)

    upkeep.sweep(announcer)

    row = job(resources, submission.job_id)
    assert (row.state, row.crashes) == (JobState.QUEUED, 1)
    assert redis.llen(CPU_LIST) == 1


def test_a_job_whose_worker_beats_is_left_alone(
    announcer: Worker, resources: Resources, redis: Redis
) -> None:
    submission = playing.upload(resources)
    playing.claim(resources.sessions)

    upkeep.sweep(announcer)

    assert job(resources, submission.job_id).state is JobState.RUNNING
    assert redis.llen(CPU_LIST) == 0


def test_a_job_whose_message_was_lost_is_announced_again_once(
    announcer: Worker, resources: Resources, redis: Redis, settings: Settings
) -> None:
    playing.upload(resources)
    age_announcements(resources, settings.lease_seconds + 1)

    for _ in range(3):
        upkeep.sweep(announcer)

    assert redis.llen(CPU_LIST) == 1


def test_a_message_that_may_still_be_under_way_is_waited_for(
    announcer: Worker, resources: Resources, redis: Redis, settings: Settings
) -> None:
    playing.upload(resources)
    age_announcements(resources, settings.lease_seconds / 4)

    upkeep.sweep(announcer)

    assert redis.llen(CPU_LIST) == 0


def test_a_lane_that_has_messages_is_not_told_more(
    announcer: Worker, resources: Resources, redis: Redis, settings: Settings
) -> None:
    playing.upload(resources)
    age_announcements(resources, settings.lease_seconds + 1)
    redis.lpush(CPU_LIST, "a message")

    upkeep.sweep(announcer)

    assert redis.llen(CPU_LIST) == 1


def test_a_lost_message_of_one_lane_is_not_hidden_by_those_of_another(
    announcer: Worker, resources: Resources, redis: Redis, settings: Settings
) -> None:
    playing.upload(resources)
    age_announcements(resources, settings.lease_seconds + 1)
    redis.lpush("train:9", "a message")

    upkeep.sweep(announcer)

    assert redis.llen(CPU_LIST) == 1


def test_a_paused_job_is_not_announced(
    announcer: Worker, resources: Resources, redis: Redis, settings: Settings
) -> None:
    submission = playing.upload(resources)
    playing.steer(resources.sessions, steering.pause, submission.job_id)
    age_announcements(resources, settings.lease_seconds + 1)

    upkeep.sweep(announcer)

    assert redis.llen(CPU_LIST) == 0


def sweep_four_times_at_once(worker: Worker) -> None:
    threads = [threading.Thread(target=upkeep.sweep, args=(worker,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_sweeps_at_the_same_time_take_each_job_back_once(
    announcer: Worker, resources: Resources, redis: Redis
) -> None:
    silent = [playing.upload(resources).job_id for _ in range(5)]
    for _ in silent:
        playing.claim(resources.sessions)
    playing.let_leases_run_out(resources.sessions)

    sweep_four_times_at_once(announcer)

    found = [job(resources, one) for one in silent]
    assert [(row.state, row.crashes) for row in found] == [(JobState.QUEUED, 1)] * 5
    assert redis.llen(CPU_LIST) == 5


def test_sweeps_at_the_same_time_announce_each_job_once(
    announcer: Worker, resources: Resources, redis: Redis, settings: Settings
) -> None:
    for _ in range(5):
        playing.upload(resources)
    age_announcements(resources, settings.lease_seconds + 1)

    sweep_four_times_at_once(announcer)

    assert redis.llen(CPU_LIST) == 5


def test_nobody_is_told_anything_where_dispatchers_poll(
    worker: Worker, resources: Resources, settings: Settings
) -> None:
    submission = playing.upload(resources)
    age_announcements(resources, settings.lease_seconds + 1)
    before = job(resources, submission.job_id).announced_at

    upkeep.sweep(worker)

    assert job(resources, submission.job_id).announced_at == before


def train_job(resources: Resources) -> UUID:
    """Play a training until a fold runs."""
    playing.training(resources, playing.ready_dataset(resources), folds=[0])
    while (taken := playing.claim(resources.sessions)).kind is not JobKind.TRAIN:
        playing.finish(resources.sessions, taken)
    return taken.job_id


def let_age(*folders: Path) -> None:
    """Let folders look as if nobody had claimed anything in them for long."""
    for folder in folders:
        os.utime(folder, (0, 0))


def test_a_folder_that_was_just_claimed_stays_whatever_the_row_said_before(
    worker: Worker, resources: Resources, settings: Settings
) -> None:
    ended = playing.upload(resources).job_id
    playing.steer(resources.sessions, steering.cancel, ended)
    folder = settings.resolved_workspace_dir / "trainings" / str(ended) / "2"
    folder.mkdir(parents=True)

    upkeep.clean(worker)

    assert folder.is_dir()


def test_what_ended_jobs_left_goes_once_it_is_old(
    worker: Worker, resources: Resources, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = playing.upload(resources).job_id
    playing.finish(resources.sessions, playing.claim(resources.sessions))
    known = objects(settings)
    orphan = playing.publish(resources, settings.data_dir, f"ingest/{ended}/1/left", b"left")

    upkeep.collect(worker)
    young = objects(settings)
    monkeypatch.setattr(upkeep, "ORPHAN_SECONDS", -1)
    upkeep.collect(worker)

    assert young == known | {orphan.key}
    assert objects(settings) == known


def test_nothing_goes_of_jobs_that_go_on_or_that_the_database_does_not_know(
    worker: Worker, resources: Resources, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = playing.upload(resources).job_id
    monkeypatch.setattr(upkeep, "ORPHAN_SECONDS", -1)
    for name in (f"ingest/{going_on}/1/half", f"train/{uuid4()}/1/of another database", "train/no-job/1/x"):
        playing.publish(resources, settings.data_dir, name, b"left")
    before = objects(settings)

    upkeep.collect(worker)

    assert objects(settings) == before


def test_only_folders_of_trainings_that_have_ended_are_removed(
    worker: Worker, resources: Resources, settings: Settings
) -> None:
    folder = settings.resolved_workspace_dir / "trainings"
    running, ended, unknown = train_job(resources), playing.upload(resources).job_id, uuid4()
    playing.steer(resources.sessions, steering.cancel, ended)
    for job_id in (running, ended, unknown):
        (folder / str(job_id) / "1" / "fold_0").mkdir(parents=True)
    (folder / "notes").mkdir()
    let_age(*folder.iterdir())

    upkeep.clean(worker)

    assert {entry.name for entry in folder.iterdir()} == {str(running), "notes"}


def test_the_folder_of_a_paused_training_stays(
    worker: Worker, resources: Resources, settings: Settings
) -> None:
    job_id = train_job(resources)
    folder = settings.resolved_workspace_dir / "trainings" / str(job_id) / "1"
    folder.mkdir(parents=True)
    let_age(folder.parent)
    playing.steer(resources.sessions, steering.pause, job_id)
    playing.let_leases_run_out(resources.sessions)
    playing.sweep(resources.sessions)

    upkeep.clean(worker)

    assert job(resources, job_id).state is JobState.PAUSED
    assert folder.is_dir()


def test_files_that_ended_jobs_were_to_hand_over_go(
    worker: Worker, resources: Resources, settings: Settings
) -> None:
    folder = settings.resolved_workspace_dir / "outbox"
    running, ended = train_job(resources), playing.upload(resources).job_id
    playing.steer(resources.sessions, steering.cancel, ended)
    for name in (f"{running}-1", f"{ended}-1", f"{ended}-2", "notes"):
        (folder / name / "files").mkdir(parents=True)
    let_age(*folder.iterdir())
    (folder / f"{ended}-2").touch()

    upkeep.clean(worker)

    assert {entry.name for entry in folder.iterdir()} == {f"{running}-1", f"{ended}-2", "notes"}


def test_a_worker_makes_room_within_its_settings(worker: Worker, settings: Settings) -> None:
    model = settings.resolved_workspace_dir / "models" / "m"
    model.mkdir(parents=True)
    (model / "weights").write_bytes(bytes(2000))
    let_age(model)

    upkeep.make_room(worker)
    large_enough = model.is_dir()
    worker.settings = settings.model_copy(update={"workspace_gib": 1000 / GIB})
    upkeep.make_room(worker)

    assert large_enough
    assert not model.exists()


def test_a_machine_without_trainings_has_nothing_to_clean(worker: Worker, settings: Settings) -> None:
    upkeep.clean(worker)

    assert not (settings.resolved_workspace_dir / "trainings").exists()


def test_a_worker_takes_back_what_another_left_and_shows_that_it_lives(
    resources: Resources, settings: Settings
) -> None:
    submission = playing.upload(resources)
    playing.claim(resources.sessions)
    playing.let_leases_run_out(resources.sessions)
    file = alive.beat_file(settings.resolved_workspace_dir / alive.FOLDER_NAME, [Lane.CPU])

    with started(settings, ["worker.main", "--lanes", "cpu"]) as process:
        wait_until(lambda: job(resources, submission.job_id).state is JobState.SUCCEEDED)
        age = alive.age_seconds(file, time.time())
        process.terminate()
        status = process.wait(PATIENCE_SECONDS)

    assert (job(resources, submission.job_id).attempt, status) == (2, 0)
    assert alive.served(file.parent, time.time()) == {Lane.CPU}
    assert age < 10
