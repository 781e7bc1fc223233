"""The life of single jobs: claims, fences, leases, crashes, cancellation."""

from uuid import uuid4

import pytest
from sqlalchemy import func, select, text, update

from app.db.base import transaction
from app.db.models import Epoch, Job, JobEvent, StoredObject
from app.errors import ConflictError, LeaseLostError, NotFoundError
from app.jobs import JobKind, JobState, Lane
from app.payloads import Checkpoint
from app.services import jobs, steering, sweeping
from app.services.claims import Claim
from app.services.resources import Resources
from app.services.transitions import QUEUED_HERE
from core.domain.dataset import DatasetProblem
from core.domain.progress import Progress
from tests.app import playing


def test_a_claim_takes_the_oldest_job_once(resources: Resources) -> None:
    first, second = playing.upload(resources), playing.upload(resources)

    taken = [playing.try_claim(resources.sessions) for _ in range(3)]

    assert [one and one.job_id for one in taken] == [first.job_id, second.job_id, None]
    assert playing.job_row(resources.sessions, first.job_id).state is JobState.RUNNING


def test_a_worker_of_all_lanes_takes_predictions_first(resources: Resources) -> None:
    model_id = playing.model(resources)
    playing.upload(resources)
    playing.prediction(resources, model_id)

    assert playing.claim(resources.sessions).kind is JobKind.PREDICT


def test_a_worker_takes_only_jobs_of_its_lanes(resources: Resources) -> None:
    playing.upload(resources)

    assert playing.try_claim(resources.sessions, [Lane.TRAIN, Lane.PREDICT]) is None


def test_a_finished_check_makes_the_dataset_ready(resources: Resources) -> None:
    dataset_id = playing.ready_dataset(resources, cases=6)

    dataset = playing.dataset_row(resources.sessions, dataset_id)
    assert (dataset.state, dataset.description) == ("ready", playing.DESCRIPTION)


def test_a_dataset_with_problems_is_invalid_though_its_check_succeeded(resources: Resources) -> None:
    submission = playing.upload(resources)
    problem = DatasetProblem(case="case_1", kind="geometry", message="the label has another spacing")

    playing.finish(resources.sessions, playing.claim(resources.sessions), playing.ingest_result(6, [problem]))

    dataset = playing.dataset_row(resources.sessions, submission.id)
    assert (dataset.state, dataset.problems) == ("invalid", [problem.to_json()])
    assert playing.job_row(resources.sessions, submission.job_id).state is JobState.SUCCEEDED


def test_a_failed_check_leaves_an_invalid_dataset_that_says_why(resources: Resources) -> None:
    submission = playing.upload(resources)

    playing.fail(resources.sessions, playing.claim(resources.sessions), "the archive holds a link")

    dataset = playing.dataset_row(resources.sessions, submission.id)
    assert dataset.state == "invalid"
    assert dataset.problems[0]["message"] == "the archive holds a link"


def test_every_write_needs_the_newest_fence(resources: Resources) -> None:
    playing.upload(resources)
    stale = playing.claim(resources.sessions)
    playing.let_leases_run_out(resources.sessions)
    assert playing.sweep(resources.sessions) == 1
    fresh = playing.claim(resources.sessions)

    progress = Progress(stage="verify", done=1, total=2)
    with pytest.raises(LeaseLostError), transaction(resources.sessions) as session:
        jobs.record_progress(session, stale, progress, None)
    with pytest.raises(LeaseLostError):
        playing.finish(resources.sessions, stale)
    with pytest.raises(LeaseLostError):
        playing.fail(resources.sessions, stale)
    with pytest.raises(LeaseLostError), transaction(resources.sessions) as session:
        jobs.give_back(session, stale, "it crashed")
    with pytest.raises(LeaseLostError), transaction(resources.sessions) as session:
        jobs.record_epoch(session, stale, playing.epoch(0))

    row = playing.job_row(resources.sessions, fresh.job_id)
    assert (row.state, row.fence, row.stage, row.attempt) == (JobState.RUNNING, fresh.fence, None, 2)


def test_a_worker_that_slept_past_its_lease_cannot_write(resources: Resources) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)

    playing.let_leases_run_out(resources.sessions)

    with pytest.raises(LeaseLostError):
        playing.finish(resources.sessions, taken)
    playing.sweep(resources.sessions)
    with pytest.raises(LeaseLostError), transaction(resources.sessions) as session:
        jobs.renew(session, taken, 30)


def test_a_lease_that_ran_out_is_renewed_while_nobody_has_taken_the_job(resources: Resources) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)
    playing.let_leases_run_out(resources.sessions)  # As for everybody whose database was away.

    with transaction(resources.sessions) as session:
        state = jobs.renew(session, taken, 30)
    playing.finish(resources.sessions, taken)

    assert state is JobState.RUNNING
    assert playing.job_row(resources.sessions, taken.job_id).attempt == 1


def test_a_beat_lengthens_the_lease_and_hears_of_the_stop_request(resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    before = playing.job_row(resources.sessions, submission.job_id).lease_expires_at

    with transaction(resources.sessions) as session:
        assert jobs.renew(session, taken, 60) is JobState.RUNNING
    with transaction(resources.sessions) as session:
        steering.cancel(session, submission.job_id)
    with transaction(resources.sessions) as session:
        assert jobs.renew(session, taken, 60) is JobState.CANCELING

    after = playing.job_row(resources.sessions, submission.job_id).lease_expires_at
    assert before is not None
    assert after is not None
    assert after > before


def test_a_job_that_keeps_killing_its_child_fails_with_the_reason(resources: Resources) -> None:
    submission = playing.upload(resources)

    for _ in range(playing.MAX_CRASHES):
        taken = playing.claim(resources.sessions)
        playing.give_back(resources.sessions, taken, "killed by signal 9, probably out of memory")

    row = playing.job_row(resources.sessions, submission.job_id)
    assert row.state is JobState.FAILED
    assert row.error is not None
    assert "probably out of memory" in row.error["detail"]
    assert row.error["code"] == "worker-crashed"


def test_a_worker_that_stops_on_purpose_leaves_no_mark(resources: Resources) -> None:
    submission = playing.upload(resources)

    for _ in range(playing.MAX_CRASHES + 1):
        taken = playing.claim(resources.sessions)
        with transaction(resources.sessions) as session:
            jobs.give_back(session, taken, "its worker was stopped")

    row = playing.job_row(resources.sessions, submission.job_id)
    assert (row.state, row.crashes) == (JobState.QUEUED, 0)


def test_an_epoch_wipes_the_marks_of_earlier_crashes(resources: Resources) -> None:
    playing.training(resources, playing.ready_dataset(resources), folds=[0])
    for _ in range(2):
        playing.finish(resources.sessions, playing.claim(resources.sessions))

    for number in range(playing.MAX_CRASHES + 2):
        taken = playing.claim(resources.sessions)
        with transaction(resources.sessions) as session:
            jobs.record_epoch(session, taken, playing.epoch(number))
        playing.give_back(resources.sessions, taken)

    assert playing.job_row(resources.sessions, taken.job_id).state is JobState.QUEUED


def test_a_job_that_dies_in_the_same_epoch_every_time_is_given_up(resources: Resources) -> None:
    playing.training(resources, playing.ready_dataset(resources), folds=[0])
    for _ in range(2):
        playing.finish(resources.sessions, playing.claim(resources.sessions))

    for _ in range(playing.MAX_CRASHES):
        taken = playing.claim(resources.sessions)
        with transaction(resources.sessions) as session:
            jobs.record_epoch(session, taken, playing.epoch(0))
        playing.give_back(resources.sessions, taken)

    assert playing.job_row(resources.sessions, taken.job_id).state is JobState.FAILED


def test_a_resumed_run_records_every_epoch_once(resources: Resources) -> None:
    playing.training(resources, playing.ready_dataset(resources), folds=[0])
    for _ in range(2):
        playing.finish(resources.sessions, playing.claim(resources.sessions))
    taken = playing.claim(resources.sessions)
    with transaction(resources.sessions) as session:
        for number in range(4):
            jobs.record_epoch(session, taken, playing.epoch(number))

    with transaction(resources.sessions) as session:
        jobs.rewind(session, taken, 2)
    with transaction(resources.sessions) as session:
        jobs.record_epoch(session, taken, playing.epoch(2, loss=float("nan")))

    with transaction(resources.readers) as session:
        rows = session.scalars(select(Epoch).order_by(Epoch.epoch)).all()
    assert [row.epoch for row in rows] == [0, 1, 2]
    assert rows[2].record["train_loss"] is None


def test_an_epoch_that_was_done_anew_is_told_as_a_step_back(resources: Resources) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)
    with transaction(resources.sessions) as session:
        for number in range(3):
            jobs.record_epoch(session, taken, playing.epoch(number))

    # The claim before this one did epoch 1 anew, and died before it could say so.
    with transaction(resources.sessions) as session:
        jobs.record_epoch(session, taken, playing.epoch(1, loss=0.25))

    with transaction(resources.readers) as session:
        events = session.scalars(select(JobEvent).order_by(JobEvent.id)).all()
    told = [(event.kind, (event.content or {})["epoch"]) for event in events if event.kind != "state"]
    assert told == [("epoch", 0), ("epoch", 1), ("epoch", 2), ("resumed", 1), ("epoch", 1)]


@pytest.mark.parametrize("times", [1, 2])
def test_a_queued_job_that_is_canceled_never_starts(resources: Resources, times: int) -> None:
    submission = playing.upload(resources)

    for _ in range(times):
        with transaction(resources.sessions) as session:
            assert steering.cancel(session, submission.job_id).state is JobState.CANCELED

    assert playing.try_claim(resources.sessions) is None
    assert playing.dataset_row(resources.sessions, submission.id).state == "invalid"


def test_a_running_job_is_canceled_once_its_child_has_stopped(resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    for _ in range(2):
        with transaction(resources.sessions) as session:
            assert steering.cancel(session, submission.job_id).state is JobState.CANCELING

    with transaction(resources.sessions) as session:
        jobs.give_back(session, taken, "asked to stop")

    row = playing.job_row(resources.sessions, submission.job_id)
    assert row.state is JobState.CANCELED
    assert row.error is not None
    assert row.error["detail"] == "canceled by request"


def test_a_job_that_finishes_while_it_is_canceled_is_canceled(resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    with transaction(resources.sessions) as session:
        steering.cancel(session, submission.job_id)

    playing.finish(resources.sessions, taken)

    assert playing.job_row(resources.sessions, submission.job_id).state is JobState.CANCELED
    assert playing.dataset_row(resources.sessions, submission.id).state == "invalid"


def test_the_sweep_ends_what_was_canceled_while_its_worker_was_dead(resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.claim(resources.sessions)
    with transaction(resources.sessions) as session:
        steering.cancel(session, submission.job_id)
    playing.let_leases_run_out(resources.sessions)

    for expected in (1, 0):
        assert playing.sweep(resources.sessions) == expected

    assert playing.job_row(resources.sessions, submission.job_id).state is JobState.CANCELED


def test_the_sweep_leaves_jobs_whose_worker_beats(resources: Resources) -> None:
    playing.upload(resources)
    playing.claim(resources.sessions)

    assert playing.sweep(resources.sessions) == 0


def test_a_finished_job_cannot_be_canceled(resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    with pytest.raises(ConflictError, match="already succeeded"), transaction(resources.sessions) as session:
        steering.cancel(session, submission.job_id)


def test_canceling_an_unknown_job_says_so(resources: Resources) -> None:
    with pytest.raises(NotFoundError), transaction(resources.sessions) as session:
        steering.cancel(session, uuid4())


def test_every_transition_is_written_down(resources: Resources) -> None:
    playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    with transaction(resources.readers) as session:
        events = session.execute(select(JobEvent.before, JobEvent.after).order_by(JobEvent.id)).all()
    assert [tuple(event) for event in events] == [
        (None, JobState.QUEUED),
        (JobState.QUEUED, JobState.RUNNING),
        (JobState.RUNNING, JobState.SUCCEEDED),
    ]


def test_a_failed_transaction_leaves_nothing(resources: Resources) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)

    def crash() -> None:
        with transaction(resources.sessions) as session:
            jobs.succeed(session, taken, playing.typical_result(taken))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()

    assert playing.job_row(resources.sessions, taken.job_id).state is JobState.RUNNING
    with transaction(resources.readers) as session:
        assert session.scalar(select(func.count()).select_from(JobEvent)) == 2


def checkpoint(taken: Claim, epochs: int) -> Checkpoint:
    return Checkpoint(file=playing.stored(taken, f"checkpoint-{epochs}.safetensors"), epochs=epochs)


def record_checkpoint(resources: Resources, taken: Claim, made: Checkpoint) -> str | None:
    with transaction(resources.sessions) as session:
        return jobs.record_checkpoint(session, taken, made)


def stored_keys(resources: Resources) -> set[str]:
    with transaction(resources.readers) as session:
        return {key for key in session.scalars(select(StoredObject.key)) if key.startswith("ingest/")}


def test_a_newer_checkpoint_replaces_the_older_one(resources: Resources) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)
    older, newer = checkpoint(taken, 1), checkpoint(taken, 2)

    replaced = [record_checkpoint(resources, taken, one) for one in (older, newer)]

    assert replaced == [None, older.file.key]
    assert playing.job_row(resources.sessions, taken.job_id).checkpoint == newer.to_json()
    assert stored_keys(resources) == {newer.file.key}


def test_a_checkpoint_that_is_recorded_again_stays(resources: Resources) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)
    made = checkpoint(taken, 1)

    replaced = [record_checkpoint(resources, taken, made) for _ in range(2)]

    assert replaced == [None, None]
    assert playing.job_row(resources.sessions, taken.job_id).checkpoint == made.to_json()
    assert stored_keys(resources) == {made.file.key}


def test_whoever_claims_next_goes_on_from_the_checkpoint(resources: Resources) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)
    made = checkpoint(taken, 1)
    record_checkpoint(resources, taken, made)
    playing.give_back(resources.sessions, taken)

    assert playing.claim(resources.sessions).order.checkpoint == made


def test_a_claim_that_was_lost_cannot_name_a_checkpoint(resources: Resources) -> None:
    playing.upload(resources)
    stale = playing.claim(resources.sessions)
    playing.let_leases_run_out(resources.sessions)
    playing.sweep(resources.sessions)
    fresh = playing.claim(resources.sessions)

    with pytest.raises(LeaseLostError):
        record_checkpoint(resources, stale, checkpoint(stale, 5))

    assert playing.job_row(resources.sessions, fresh.job_id).checkpoint is None
    assert stored_keys(resources) == set()


def test_a_job_that_has_succeeded_has_no_checkpoint(resources: Resources) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)
    record_checkpoint(resources, taken, checkpoint(taken, 1))

    playing.finish(resources.sessions, taken)

    assert playing.job_row(resources.sessions, taken.job_id).checkpoint is None
    assert stored_keys(resources) == set()


@pytest.mark.parametrize("end", [playing.fail, playing.give_back])
def test_a_job_that_did_not_succeed_keeps_its_checkpoint(resources: Resources, end: playing.End) -> None:
    playing.upload(resources)
    taken = playing.claim(resources.sessions)
    made = checkpoint(taken, 1)
    record_checkpoint(resources, taken, made)

    end(resources.sessions, taken)

    assert playing.job_row(resources.sessions, taken.job_id).checkpoint == made.to_json()


def test_epochs_beyond_the_checkpoint_do_not_count_as_coming_further(resources: Resources) -> None:
    playing.upload(resources)

    for _ in range(playing.MAX_CRASHES):
        taken = playing.claim(resources.sessions)
        with transaction(resources.sessions) as session:
            jobs.rewind(session, taken, 0)
        with transaction(resources.sessions) as session:
            jobs.record_epoch(session, taken, playing.epoch(0, loss=-taken.attempt))
        playing.give_back(resources.sessions, taken)

    assert playing.job_row(resources.sessions, taken.job_id).state is JobState.FAILED


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_announcing_again_does_not_wait_for_rows_that_others_hold(resources: Resources) -> None:
    held, free = playing.upload(resources), playing.upload(resources)

    with transaction(resources.sessions) as other:
        other.get(Job, held.job_id, with_for_update=True)
        with transaction(resources.sessions) as session:
            session.execute(text("SET LOCAL lock_timeout = '2s'"))
            count = sweeping.announce_again(session, {Lane.CPU: 0}, -1)
            announced = [one.job_id for one in session.info[QUEUED_HERE]]

    assert (count, announced) == (1, [free.job_id])


def test_only_old_announcements_of_the_lanes_are_repeated(resources: Resources) -> None:
    submission = playing.upload(resources)

    def repeated(messages: dict[Lane, int], older_than_seconds: float) -> int:
        with transaction(resources.sessions) as session:
            return sweeping.announce_again(session, messages, older_than_seconds)

    assert repeated({Lane.TRAIN: 0, Lane.PREDICT: 0}, -1) == 0
    assert repeated({Lane.CPU: 0}, 60) == 0
    assert repeated({Lane.CPU: 1}, -1) == 0
    assert repeated({Lane.CPU: 0}, -1) == 1
    playing.steer(resources.sessions, steering.pause, submission.job_id)
    assert repeated({Lane.CPU: 0}, -1) == 0


def test_a_lane_that_lost_some_of_its_messages_is_told_of_all_its_jobs(resources: Resources) -> None:
    waiting = [playing.upload(resources).job_id for _ in range(3)]

    with transaction(resources.sessions) as session:
        sweeping.announce_again(session, {Lane.CPU: 2}, -1)
        announced = [one.job_id for one in session.info[QUEUED_HERE]]

    assert sorted(announced) == sorted(waiting)


def test_a_row_that_the_release_before_queued_is_announced(resources: Resources) -> None:
    submission = playing.upload(resources)
    with transaction(resources.sessions) as session:
        session.execute(update(Job).values(announced_at=None))

    with transaction(resources.sessions) as session:
        sweeping.announce_again(session, {Lane.CPU: 0}, 60)
        announced = [one.job_id for one in session.info[QUEUED_HERE]]

    assert announced == [submission.job_id]


def test_a_training_itself_is_never_announced(resources: Resources) -> None:
    playing.training(resources, playing.ready_dataset(resources))

    with transaction(resources.sessions) as session:
        sweeping.announce_again(session, dict.fromkeys(Lane, 0), -1)
        announced = session.info[QUEUED_HERE]

    assert [playing.job_row(resources.sessions, one.job_id).kind for one in announced] == [JobKind.PLAN]
