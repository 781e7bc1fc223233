"""Files on their way to the store, and checkpoints from there to whoever goes on, whatever happens on the way."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.db.base import transaction
from app.db.models import Job
from app.errors import LeaseLostError
from app.jobs import JobKind, JobState
from app.payloads import Checkpoint
from app.services import steering
from app.services.claims import Claim
from app.services.resources import Resources
from app.services.transitions import lock_family
from app.settings import Settings
from tests.app import playing
from tests.worker import plays
from tests.worker.conftest import Order
from tests.worker.plays import PlayingWorker
from tests.worker.running import (
    epochs,
    job,
    losing_the_next_answer,
    meanwhile,
    objects,
    rows,
    run_next,
    wait_until,
)
from worker import lifecycle, publishing
from worker.machine import Worker
from worker.observer import Message
from worker.process import Child
from worker.publishing import Lease

POSTGRES = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


def named(row: Job) -> Checkpoint | None:
    """Return the checkpoint that a job goes on from."""
    return None if row.checkpoint is None else Checkpoint.model_validate(row.checkpoint)


def is_at(resources: Resources, taken_or_row: Job, finished: int) -> bool:
    checkpoint = named(job(resources, taken_or_row.id))
    return checkpoint is not None and checkpoint.epochs == finished


def leave(player: PlayingWorker) -> None:
    player.is_leaving = lambda: True


def elsewhere(player: PlayingWorker, folder: Path) -> PlayingWorker:
    """Return a worker on another machine: it has the same store, and nothing in its workspace."""
    settings = player.settings.model_copy(update={"workspace_dir": folder / "workspace"})
    return PlayingWorker(settings, player.sessions, player.readers, player.queue, "another machine")


def test_the_last_checkpoint_is_in_the_store_and_the_row_names_it(
    player: PlayingWorker, resources: Resources, order: Order, settings: Settings
) -> None:
    row = job(resources, order("goes_on").job_id)
    before = objects(settings)

    def watch() -> None:
        wait_until(lambda: is_at(resources, row, 3))
        leave(player)

    with meanwhile(watch):
        run_next(player, resources)

    checkpoint = named(job(resources, row.id))
    assert checkpoint is not None
    assert checkpoint.file.key == f"ingest/{row.id}/1/checkpoint-3"
    assert resources.store.path(checkpoint.file).read_text() == "3 epochs"
    assert objects(settings) - before == {checkpoint.file.key}
    assert rows(resources) == objects(settings)


def test_a_worker_on_another_machine_goes_on_from_the_checkpoint(
    player: PlayingWorker, resources: Resources, order: Order, settings: Settings, tmp_path: Path
) -> None:
    row = job(resources, order("goes_on").job_id)
    before = objects(settings)

    def watch() -> None:
        wait_until(lambda: is_at(resources, row, 3))
        leave(player)

    with meanwhile(watch):
        run_next(player, resources)
    other = elsewhere(player, tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "go").touch()
    run_next(other, resources)

    after = job(resources, row.id)
    assert (after.state, after.attempt, after.checkpoint) == (JobState.SUCCEEDED, 2, None)
    assert epochs(resources) == [0, 1, 2, 3, 4, 5]
    assert objects(settings) == rows(resources) == before


def test_a_paused_job_keeps_its_checkpoint_and_goes_on_when_it_is_resumed(
    player: PlayingWorker, resources: Resources, order: Order, settings: Settings
) -> None:
    row = job(resources, order("goes_on").job_id)

    def pause() -> None:
        wait_until(lambda: is_at(resources, row, 3))
        playing.steer(resources.sessions, steering.pause, row.id)

    with meanwhile(pause):
        run_next(player, resources)
    paused = job(resources, row.id).state
    playing.steer(resources.sessions, steering.resume, row.id)
    (settings.data_dir / "go").touch()
    run_next(player, resources)

    assert paused is JobState.PAUSED
    assert job(resources, row.id).state is JobState.SUCCEEDED
    assert epochs(resources) == [0, 1, 2, 3, 4, 5]


def test_a_job_that_is_resumed_while_its_child_stops_is_queued_again_without_a_mark(
    player: PlayingWorker, resources: Resources, order: Order
) -> None:
    row = job(resources, order("stubborn").job_id)

    def pause_and_resume() -> None:
        wait_until(lambda: job(resources, row.id).stage == "train")
        playing.steer(resources.sessions, steering.pause, row.id)
        time.sleep(0.5)  # A few beats: the child has been asked to stop.
        playing.steer(resources.sessions, steering.resume, row.id)

    with meanwhile(pause_and_resume):
        run_next(player, resources)

    after = job(resources, row.id)
    assert (after.state, after.crashes) == (JobState.QUEUED, 0)


@pytest.fixture
def child(settings: Settings) -> Iterator[Child]:
    """A child that says nothing."""
    with closing(Child(plays.MODULE, plays.environment(settings))) as started:
        yield started


def handed_over(folder: Path, finished: int) -> Message:
    """Return what a child says that hands a checkpoint over."""
    file = folder / f"checkpoint-{finished}"
    file.write_text(f"{finished} epochs")
    return {"event": "checkpoint", "path": str(file), "epochs": finished}


def test_a_checkpoint_whose_commit_went_unanswered_stays(
    worker: Worker, resources: Resources, child: Child, tmp_path: Path, settings: Settings
) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)
    watch = lifecycle._Watch(worker, taken, child)
    watch.take(handed_over(tmp_path, 1))

    with losing_the_next_answer(resources) as lost:
        watch._checkpoints.wait(Lease(watch._worker, watch._claim))
        watch.finish()

    checkpoint = named(job(resources, taken.job_id))
    assert lost == ["an answer"]
    assert checkpoint is not None
    assert resources.store.path(checkpoint.file).read_text() == "1 epochs"
    assert rows(resources) == objects(settings)


def test_of_checkpoints_that_come_fast_the_newest_is_stored(
    worker: Worker, resources: Resources, child: Child, tmp_path: Path, settings: Settings
) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)
    watch = lifecycle._Watch(worker, taken, child)

    for finished in range(1, 6):
        watch.take(handed_over(tmp_path, finished))
    watch.finish()

    checkpoint = named(job(resources, taken.job_id))
    assert checkpoint is not None
    assert checkpoint.epochs == 5
    assert rows(resources) == objects(settings)


def test_a_checkpoint_that_cannot_be_stored_does_not_end_the_job(
    worker: Worker, resources: Resources, child: Child, tmp_path: Path
) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)
    watch = lifecycle._Watch(worker, taken, child)

    watch.take({"event": "checkpoint", "path": str(tmp_path / "nowhere"), "epochs": 1})
    watch.finish()
    watch.take(handed_over(tmp_path, 2))
    watch.finish()

    checkpoint = named(job(resources, taken.job_id))
    assert checkpoint is not None
    assert checkpoint.epochs == 2


def test_what_a_worker_stored_that_lost_its_job_is_tidied_by_who_finishes_it(
    player: PlayingWorker, resources: Resources, order: Order, child: Child, tmp_path: Path
) -> None:
    settings, submission = player.settings, order("noisy")
    before = objects(settings)
    watch = lifecycle._Watch(player, playing.claim(resources.sessions), child)
    watch.take(handed_over(tmp_path, 1))
    watch._checkpoints.wait(Lease(watch._worker, watch._claim))
    playing.let_leases_run_out(resources.sessions)
    playing.sweep(resources.sessions)

    with pytest.raises(LeaseLostError):
        watch.finish()
    left = objects(settings) - before
    run_next(player, resources)

    assert left == {f"ingest/{submission.job_id}/1/checkpoint-1"}
    assert job(resources, submission.job_id).state is JobState.SUCCEEDED
    assert objects(settings) == rows(resources) == before


def train_claim(resources: Resources) -> Claim:
    """Play a training until a fold is claimed."""
    playing.training(resources, playing.ready_dataset(resources), folds=[0])
    while (taken := playing.claim(resources.sessions)).kind is not JobKind.TRAIN:
        playing.finish(resources.sessions, taken)
    return taken


@POSTGRES
@pytest.mark.parametrize("checkpoints", [0, 1])
def test_a_beat_and_a_pause_of_the_training_do_not_wait_in_a_circle(
    worker: Worker, resources: Resources, child: Child, tmp_path: Path, checkpoints: int
) -> None:
    taken = train_claim(resources)
    parent_id = job(resources, taken.job_id).parent_id
    assert parent_id is not None
    watch = lifecycle._Watch(worker, taken, child)
    for finished in range(1, checkpoints + 1):
        watch.take(handed_over(tmp_path, finished))
    watch._checkpoints.wait(Lease(watch._worker, watch._claim))
    watch.take({"event": "progress", "stage": "train", "done": 1, "total": 9, "note": ""})
    beat = threading.Thread(target=watch._beat)

    with transaction(resources.sessions) as session:
        lock_family(session, taken.job_id)
        beat.start()
        time.sleep(0.5)  # The beat waits for the training's row by now.
        steering.pause(session, parent_id)
    beat.join()

    row = job(resources, taken.job_id)
    assert (row.state, row.stage) == (JobState.PAUSING, "train")
    assert (row.checkpoint is not None) == bool(checkpoints)


def result_of(taken: Claim, folder: Path) -> Message:
    """Return the last message of a child that made a plan, with its files."""
    folder.mkdir()
    result = playing.typical_result(taken).to_json()
    files = {name: folder / name for name in result["files"]}
    for file in files.values():
        file.write_text("{}")
    return {
        "event": "result",
        "result": {**result, "files": {}},
        "files": {name: str(file) for name, file in files.items()},
    }


@pytest.fixture
def plan_claim(resources: Resources) -> Claim:
    playing.training(resources, playing.ready_dataset(resources), folds=[0])
    return playing.claim(resources.sessions)


def test_a_result_whose_commit_went_unanswered_stands(
    worker: Worker, resources: Resources, plan_claim: Claim, tmp_path: Path, settings: Settings
) -> None:
    message = result_of(plan_claim, tmp_path / "outbox")
    before = objects(settings)

    with losing_the_next_answer(resources) as lost:
        publishing.publish(worker, plan_claim, message)

    prefix = f"plan/{plan_claim.job_id}/{plan_claim.fence}"
    row = job(resources, plan_claim.job_id)
    assert lost == ["an answer"]
    assert (row.state, row.attempt) == (JobState.SUCCEEDED, 1)
    assert objects(settings) - before == {f"{prefix}/plans.json", f"{prefix}/dataset_fingerprint.json"}
    assert playing.states(resources.sessions)[JobKind.PREPROCESS] == [JobState.QUEUED]


def test_a_worker_that_lost_its_job_while_it_stored_the_result_leaves_nothing(
    worker: Worker, resources: Resources, plan_claim: Claim, tmp_path: Path, settings: Settings
) -> None:
    message = result_of(plan_claim, tmp_path / "outbox")
    before = objects(settings)
    playing.let_leases_run_out(resources.sessions)
    playing.sweep(resources.sessions)

    with pytest.raises(LeaseLostError):
        publishing.publish(worker, plan_claim, message)

    assert objects(settings) == before


def test_a_result_that_is_done_again_by_another_claim_replaces_what_the_first_left(
    worker: Worker, resources: Resources, plan_claim: Claim, tmp_path: Path, settings: Settings
) -> None:
    left = playing.publish(
        resources, tmp_path, playing.stored(plan_claim, "plans.json").key, b"half of the files"
    )
    playing.let_leases_run_out(resources.sessions)
    playing.sweep(resources.sessions)
    second = playing.claim(resources.sessions)

    publishing.publish(worker, second, result_of(second, tmp_path / "outbox"))
    publishing.tidy(worker, second)

    assert left.key not in objects(settings)
    assert rows(resources) == objects(settings)


def test_the_files_of_a_job_that_was_canceled_while_they_were_stored_do_not_stay(
    worker: Worker, resources: Resources, plan_claim: Claim, tmp_path: Path, settings: Settings
) -> None:
    message = result_of(plan_claim, tmp_path / "outbox")
    before = objects(settings)
    playing.steer(resources.sessions, steering.cancel, plan_claim.job_id)

    publishing.publish(worker, plan_claim, message)
    publishing.tidy(worker, plan_claim)

    assert job(resources, plan_claim.job_id).state is JobState.CANCELED
    assert objects(settings) == rows(resources) == before


def test_many_files_keep_the_lease_however_short_each_takes(
    worker: Worker, resources: Resources, plan_claim: Claim, tmp_path: Path
) -> None:
    worker.settings = worker.settings.model_copy(update={"lease_seconds": 0.5, "heartbeat_seconds": 0.1})
    message = result_of(plan_claim, tmp_path / "outbox")
    slow = publishing.Lease(worker, plan_claim)
    deadline = time.monotonic() + 3 * worker.settings.lease_seconds

    while time.monotonic() < deadline:
        publishing._stored(worker, plan_claim, slow, "plans.json", Path(message["files"]["plans.json"]))
        assert playing.sweep(resources.sessions) == 0

    assert job(resources, plan_claim.job_id).state is JobState.RUNNING


def test_a_job_that_is_canceled_as_it_finishes_keeps_the_checkpoint_for_a_retry(
    worker: Worker, resources: Resources, child: Child, tmp_path: Path
) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)
    watch = lifecycle._Watch(worker, taken, child)
    watch.take(handed_over(tmp_path, 1))
    watch.finish()
    playing.steer(resources.sessions, steering.cancel, taken.job_id)

    playing.finish(resources.sessions, taken)
    publishing.tidy(worker, taken)
    playing.steer(resources.sessions, steering.retry, taken.job_id)

    found = playing.claim(resources.sessions).order.checkpoint
    assert found is not None
    assert resources.store.path(found.file).read_text() == "1 epochs"
