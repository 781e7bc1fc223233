"""The life of a job on a worker: real tables, real children, real signals."""

import signal
import time
from pathlib import Path

import pytest
from servers import PostgresServer
from sqlalchemy import select
from sqlalchemy.orm import undefer

from app.db.base import transaction
from app.db.models import Job
from app.jobs import JobState
from app.payloads import PlanResult
from app.services import datasets, steering
from app.services.resources import Resources
from app.settings import Settings
from tests.app import playing
from tests.factories import make_dataset, zip_folder
from tests.worker import plays
from tests.worker.conftest import Order
from tests.worker.plays import PlayingWorker
from tests.worker.running import (
    PATIENCE_SECONDS,
    epochs,
    job,
    meanwhile,
    objects,
    rows,
    run_next,
    started,
    wait_until,
)
from worker.machine import Worker

MAX_CRASHES = 3
"""As the settings have it by default."""
POSTGRES = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


def detail(row: Job) -> str:
    assert row.error is not None
    return str(row.error["detail"])


def test_a_dataset_is_ingested_and_planned_by_real_children(
    worker: Worker, resources: Resources, settings: Settings, tmp_path: Path
) -> None:
    archive = zip_folder(make_dataset(tmp_path / "made"), tmp_path / "made.zip").read_bytes()
    dataset = datasets.upload(resources, "Made", playing.incoming(resources, archive), None)
    run_next(worker, resources)
    assert playing.dataset_row(resources.sessions, dataset.id).state == "ready"
    playing.training(resources, dataset.id, folds=[0])

    run_next(worker, resources)

    with transaction(resources.readers) as session:
        done = session.scalars(select(Job).where(Job.kind == "plan").options(undefer(Job.result))).one()
    result = PlanResult.model_validate(done.result)
    prefix = f"plan/{done.id}/{done.fence}"
    assert {ref.key for ref in result.files.values()} == {
        f"{prefix}/plans.json",
        f"{prefix}/dataset_fingerprint.json",
    }
    assert rows(resources) == objects(settings)
    assert all(resources.store.path(ref).is_file() for ref in result.files.values())
    assert list((settings.resolved_workspace_dir / "outbox").iterdir()) == []


def test_an_archive_that_cannot_be_used_makes_an_invalid_dataset_that_says_why(
    worker: Worker, resources: Resources
) -> None:
    dataset = playing.upload(resources)

    run_next(worker, resources)

    row = playing.dataset_row(resources.sessions, dataset.id)
    assert row.state == "invalid"
    assert "dataset.json" in row.problems[0]["message"]
    assert job(resources, dataset.job_id).state is JobState.SUCCEEDED


def test_progress_and_epochs_reach_the_tables_once(
    player: PlayingWorker, resources: Resources, order: Order, settings: Settings
) -> None:
    submission = order("waits")

    def see_then_go() -> None:
        wait_until(lambda: job(resources, submission.job_id).stage == "train")
        (settings.data_dir / "go").touch()

    with meanwhile(see_then_go):
        run_next(player, resources)

    row = job(resources, submission.job_id)
    assert (row.state, row.done, row.total, row.note) == (JobState.SUCCEEDED, 2, 4, "epoch 2")
    assert epochs(resources) == [0, 1, 2]


def test_beats_keep_a_long_job_from_the_sweep(
    player: PlayingWorker, resources: Resources, order: Order, settings: Settings
) -> None:
    submission = order("waits")

    def sweep_then_go() -> None:
        wait_until(lambda: job(resources, submission.job_id).stage == "train")
        deadline = time.monotonic() + 1.5 * settings.lease_seconds
        while time.monotonic() < deadline:
            assert playing.sweep(resources.sessions) == 0
            time.sleep(0.05)
        (settings.data_dir / "go").touch()

    with meanwhile(sweep_then_go):
        run_next(player, resources)

    assert job(resources, submission.job_id).state is JobState.SUCCEEDED


def test_an_error_on_purpose_fails_the_job_with_its_words(
    player: PlayingWorker, resources: Resources, order: Order
) -> None:
    submission = order("refuses")

    run_next(player, resources)

    row = job(resources, submission.job_id)
    assert (row.state, row.attempt) == (JobState.FAILED, 1)
    assert detail(row) == "case 7 has no label; add it"


def test_a_file_that_cannot_be_stored_fails_the_job_without_the_text_of_the_error(
    player: PlayingWorker, resources: Resources, order: Order
) -> None:
    submission = order("forgets")

    run_next(player, resources)

    row = job(resources, submission.job_id)
    assert row.state is JobState.FAILED
    assert detail(row) == "the service made a mistake; its log has the details"


def test_a_job_whose_child_is_killed_is_given_back_and_fails_in_the_end(
    player: PlayingWorker, resources: Resources, order: Order
) -> None:
    submission = order("killed")

    for attempt in range(1, MAX_CRASHES):
        run_next(player, resources)
        row = job(resources, submission.job_id)
        assert (row.state, row.attempt, row.crashes) == (JobState.QUEUED, attempt, attempt)
    run_next(player, resources)

    row = job(resources, submission.job_id)
    assert row.state is JobState.FAILED
    assert "signal 9" in detail(row)
    assert "memory" in detail(row)
    assert f"{MAX_CRASHES} attempts" in detail(row)


def test_a_running_job_can_be_canceled(player: PlayingWorker, resources: Resources, order: Order) -> None:
    submission = order("patient")

    def cancel() -> None:
        wait_until(lambda: job(resources, submission.job_id).stage == "train")
        with transaction(resources.sessions) as session:
            assert steering.cancel(session, submission.job_id).state is JobState.CANCELING

    with meanwhile(cancel):
        run_next(player, resources)

    row = job(resources, submission.job_id)
    assert (row.state, detail(row)) == (JobState.CANCELED, "canceled by request")


def test_a_child_that_does_not_stop_is_killed_after_the_grace(
    player: PlayingWorker, resources: Resources, order: Order, settings: Settings
) -> None:
    submission = order("stubborn")

    def cancel() -> None:
        wait_until(lambda: job(resources, submission.job_id).stage == "train")
        with transaction(resources.sessions) as session:
            steering.cancel(session, submission.job_id)

    with meanwhile(cancel):
        began = time.monotonic()
        run_next(player, resources)

    assert time.monotonic() - began > settings.stop_grace_seconds
    assert job(resources, submission.job_id).state is JobState.CANCELED


def test_a_worker_that_is_asked_to_end_gives_its_job_back_without_a_mark(
    player: PlayingWorker, resources: Resources, order: Order
) -> None:
    submission = order("patient")

    def leave() -> None:
        wait_until(lambda: job(resources, submission.job_id).stage == "train")
        player.is_leaving = lambda: True

    with meanwhile(leave):
        run_next(player, resources)

    row = job(resources, submission.job_id)
    assert (row.state, row.crashes, row.attempt) == (JobState.QUEUED, 0, 1)


def test_a_worker_that_slept_past_its_lease_writes_nothing(
    resources: Resources, order: Order, settings: Settings
) -> None:
    submission = order("waits")
    calm = settings.model_copy(update={"heartbeat_seconds": 1.5})
    with started(calm, [plays.MODULE, "worker"]) as process:
        wait_until(lambda: epochs(resources) == [0, 1, 2])
        time.sleep(0.2)  # In a transaction it would hold up everybody while it sleeps.
        before = objects(settings)
        process.send_signal(signal.SIGSTOP)
        time.sleep(settings.lease_seconds + 0.1)
        assert playing.sweep(resources.sessions) == 1
        mine = playing.claim(resources.sessions)
        (settings.data_dir / "go").touch()  # Its child finishes in the meantime.
        time.sleep(0.5)
        process.send_signal(signal.SIGCONT)
        time.sleep(1)

        row = job(resources, submission.job_id)
        assert (row.state, row.fence, row.result) == (JobState.RUNNING, mine.fence, None)
        assert objects(settings) == before
        assert process.poll() is None

    playing.finish(resources.sessions, mine)
    assert job(resources, submission.job_id).state is JobState.SUCCEEDED


def test_a_dispatcher_works_until_it_is_asked_to_end(
    resources: Resources, settings: Settings, tmp_path: Path
) -> None:
    archive = zip_folder(make_dataset(tmp_path / "made"), tmp_path / "made.zip").read_bytes()
    dataset = datasets.upload(resources, "Made", playing.incoming(resources, archive), None)

    with started(settings, ["worker.main", "--lanes", "cpu,train"]) as process:
        wait_until(lambda: job(resources, dataset.job_id).state is JobState.SUCCEEDED)
        process.terminate()

        assert process.wait(PATIENCE_SECONDS) == 0


def test_a_lane_that_does_not_exist_is_refused(settings: Settings) -> None:
    with started(settings, ["worker.main", "--lanes", "cpu,gpu"]) as process:
        assert process.wait(PATIENCE_SECONDS) == 2


@POSTGRES
def test_a_job_outlives_a_restart_of_its_database(
    resources: Resources, order: Order, postgres: PostgresServer, settings: Settings
) -> None:
    submission = order("waits")
    player = insistent(settings, resources)

    def restart() -> None:
        wait_until(lambda: job(resources, submission.job_id).stage == "train")
        postgres.restart(crash=True)
        (settings.data_dir / "go").touch()

    with meanwhile(restart):
        run_next(player, resources)

    row = job(resources, submission.job_id)
    assert (row.state, row.attempt, row.crashes) == (JobState.SUCCEEDED, 1, 0)
    assert epochs(resources) == [0, 1, 2]


@POSTGRES
def test_a_job_that_ends_while_its_database_is_away_has_succeeded(
    resources: Resources, order: Order, postgres: PostgresServer, settings: Settings
) -> None:
    submission = order("waits")
    player = insistent(settings, resources)

    def take_away() -> None:
        wait_until(lambda: job(resources, submission.job_id).stage == "train")
        postgres.stop(crash=True)
        (settings.data_dir / "go").touch()
        time.sleep(1.5)  # The child ends, and its worker cannot say so yet.
        postgres.start()

    with meanwhile(take_away):
        run_next(player, resources)

    row = job(resources, submission.job_id)
    assert (row.state, row.attempt) == (JobState.SUCCEEDED, 1)
    assert epochs(resources) == [0, 1, 2]


def insistent(settings: Settings, resources: Resources) -> PlayingWorker:
    """Return a worker whose lease outlives the start of a database on a busy machine."""
    longer = settings.model_copy(update={"lease_seconds": 60})
    return PlayingWorker(longer, resources.sessions, resources.readers, resources.queue, "a test")
