"""What clients ask of jobs and trainings, and in which order the answers come: pause, resume, retry, cancel."""

from uuid import UUID

import pytest
from sqlalchemy import func, select

from app.db.base import transaction
from app.db.models import Epoch, Job, JobEvent
from app.errors import ConflictError, LeaseLostError
from app.jobs import JobKind, JobState, Lane
from app.payloads import Checkpoint
from app.services import jobs, steering, trainings
from app.services.claims import Claim
from app.services.resources import Resources, Submission
from tests.app import playing


def training_before(resources: Resources, kind: JobKind, folds: tuple[int | str, ...] = (0,)) -> Submission:
    """Ask for a training and play it until jobs of some kind are next."""
    submission = playing.training(resources, playing.ready_dataset(resources), folds=folds)
    earlier = {JobKind.PLAN: 0, JobKind.PREPROCESS: 1, JobKind.TRAIN: 2, JobKind.SELECT: 2 + len(folds)}
    for _ in range(earlier[kind]):
        playing.finish(resources.sessions, playing.claim(resources.sessions))
    return submission


def child_id(resources: Resources, parent_id: UUID, kind: JobKind, number: int = 0) -> UUID:
    rows = select(Job.id).where(Job.parent_id == parent_id, Job.kind == kind).order_by(Job.created_at)
    with transaction(resources.readers) as session:
        return session.scalars(rows).all()[number]


def state(resources: Resources, job_id: UUID) -> JobState:
    return playing.job_row(resources.sessions, job_id).state


def pause(resources: Resources, job_id: UUID) -> JobState:
    return playing.steer(resources.sessions, steering.pause, job_id)


def resume(resources: Resources, job_id: UUID) -> JobState:
    return playing.steer(resources.sessions, steering.resume, job_id)


def retry(resources: Resources, job_id: UUID) -> JobState:
    return playing.steer(resources.sessions, steering.retry, job_id)


def cancel(resources: Resources, job_id: UUID) -> JobState:
    return playing.steer(resources.sessions, steering.cancel, job_id)


def stop(resources: Resources, taken: Claim) -> None:
    """Do what a worker does whose child has stopped because somebody asked for it."""
    with transaction(resources.sessions) as session:
        jobs.give_back(session, taken, "asked to stop")


def beat(resources: Resources, taken: Claim) -> JobState:
    with transaction(resources.sessions) as session:
        return jobs.renew(session, taken, playing.LEASE_SECONDS)


def record_epochs(resources: Resources, taken: Claim, count: int) -> None:
    with transaction(resources.sessions) as session:
        for number in range(count):
            jobs.record_epoch(session, taken, playing.epoch(number))


def checkpoint(resources: Resources, taken: Claim, epochs: int) -> Checkpoint:
    """Note a checkpoint as a worker does that has stored it."""
    made = Checkpoint(file=playing.stored(taken, f"checkpoint-{epochs}"), epochs=epochs)
    with transaction(resources.sessions) as session:
        jobs.record_checkpoint(session, taken, made)
    return made


def test_a_queued_job_is_paused_at_once_and_nobody_takes_it(resources: Resources) -> None:
    submission = playing.upload(resources)

    answers = [pause(resources, submission.job_id) for _ in range(2)]

    assert answers == [JobState.PAUSED, JobState.PAUSED]
    assert playing.try_claim(resources.sessions) is None


def test_a_paused_job_is_queued_again_when_it_is_resumed(resources: Resources) -> None:
    submission = playing.upload(resources)
    pause(resources, submission.job_id)

    answer = resume(resources, submission.job_id)

    assert answer is JobState.QUEUED
    assert playing.claim(resources.sessions).job_id == submission.job_id


def test_a_running_job_is_paused_once_its_child_has_stopped(resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)

    answers = [pause(resources, submission.job_id) for _ in range(2)]
    heard = beat(resources, taken)
    stop(resources, taken)

    row = playing.job_row(resources.sessions, submission.job_id)
    assert (answers, heard) == ([JobState.PAUSING, JobState.PAUSING], JobState.PAUSING)
    assert (row.state, row.lease_owner, row.lease_expires_at) == (JobState.PAUSED, None, None)


def test_a_job_that_finishes_while_it_is_paused_has_succeeded(resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)

    playing.finish(resources.sessions, taken)

    assert state(resources, submission.job_id) is JobState.SUCCEEDED
    assert playing.dataset_row(resources.sessions, submission.id).state == "ready"


def test_a_job_that_fails_while_it_is_paused_has_failed(resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)

    playing.fail(resources.sessions, taken)

    assert state(resources, submission.job_id) is JobState.FAILED


def test_a_job_that_is_resumed_before_its_child_has_stopped_is_given_back(resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)

    answer = resume(resources, submission.job_id)
    stop(resources, taken)

    row = playing.job_row(resources.sessions, submission.job_id)
    assert answer is JobState.RUNNING
    assert (row.state, row.crashes) == (JobState.QUEUED, 0)


def test_a_worker_that_leaves_while_its_job_is_being_paused_leaves_it_paused(resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)

    with transaction(resources.sessions) as session:
        jobs.give_back(session, taken, "the worker was asked to end")

    assert state(resources, submission.job_id) is JobState.PAUSED


def test_the_sweep_pauses_what_was_being_paused_while_its_worker_died(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN)
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)
    playing.let_leases_run_out(resources.sessions)

    assert playing.sweep(resources.sessions) == 1

    row = playing.job_row(resources.sessions, taken.job_id)
    assert (row.state, row.crashes) == (JobState.PAUSED, 1)
    assert state(resources, submission.job_id) is JobState.PAUSED


def test_a_job_that_died_too_often_has_failed_though_it_was_to_be_paused(resources: Resources) -> None:
    submission = playing.upload(resources)
    for _ in range(playing.MAX_CRASHES - 1):
        playing.give_back(resources.sessions, playing.claim(resources.sessions))
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)

    playing.give_back(resources.sessions, taken)

    assert state(resources, submission.job_id) is JobState.FAILED


def test_a_job_that_waits_cannot_be_paused_by_itself(resources: Resources) -> None:
    submission = training_before(resources, JobKind.PREPROCESS)
    select_id = child_id(resources, submission.job_id, JobKind.SELECT)

    with pytest.raises(ConflictError, match="pause its training instead"):
        pause(resources, select_id)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (playing.finish, "the job has already succeeded, so it cannot be paused"),
        (playing.fail, "the job has already failed, so it cannot be paused"),
    ],
)
def test_a_job_that_has_ended_cannot_be_paused(resources: Resources, end: playing.End, words: str) -> None:
    submission = playing.upload(resources)
    end(resources.sessions, playing.claim(resources.sessions))

    with pytest.raises(ConflictError, match=words):
        pause(resources, submission.job_id)


def test_a_job_that_is_being_canceled_cannot_be_paused(resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.claim(resources.sessions)
    cancel(resources, submission.job_id)

    with pytest.raises(ConflictError, match="being canceled, so it cannot be paused"):
        pause(resources, submission.job_id)


def test_a_job_that_runs_cannot_be_resumed(resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.claim(resources.sessions)

    with pytest.raises(ConflictError, match="the job is running, not paused"):
        resume(resources, submission.job_id)


def test_a_training_that_has_not_begun_is_paused_at_once(resources: Resources) -> None:
    submission = training_before(resources, JobKind.PLAN)

    answer = pause(resources, submission.job_id)

    assert answer is JobState.PAUSED
    assert playing.try_claim(resources.sessions) is None


def test_a_training_is_paused_once_the_last_of_its_children_has_stopped(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1, 2))
    first, second = playing.claim(resources.sessions), playing.claim(resources.sessions)

    answer = pause(resources, submission.job_id)
    at_once = playing.states(resources.sessions)[JobKind.TRAIN]
    stop(resources, first)
    between = state(resources, submission.job_id)
    stop(resources, second)

    assert answer is JobState.PAUSING
    assert at_once == [JobState.PAUSING, JobState.PAUSING, JobState.PAUSED]
    assert between is JobState.PAUSING
    assert state(resources, submission.job_id) is JobState.PAUSED
    assert playing.states(resources.sessions)[JobKind.SELECT] == [JobState.WAITING]


def test_a_plan_that_finishes_while_its_training_is_being_paused_brings_paused_jobs(
    resources: Resources,
) -> None:
    submission = training_before(resources, JobKind.PLAN)
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)

    playing.finish(resources.sessions, taken)

    found = playing.states(resources.sessions)
    assert found[JobKind.PREPROCESS] == [JobState.PAUSED]
    assert found[JobKind.TRAIN] == [JobState.WAITING]
    assert found[JobKind.TRAINING] == [JobState.PAUSED]


def test_what_becomes_ready_while_its_training_is_being_paused_is_held_back(resources: Resources) -> None:
    submission = training_before(resources, JobKind.PREPROCESS, folds=(0, 1))
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)

    playing.finish(resources.sessions, taken)

    found = playing.states(resources.sessions)
    assert found[JobKind.TRAIN] == [JobState.PAUSED, JobState.PAUSED]
    assert found[JobKind.TRAINING] == [JobState.PAUSED]
    assert playing.try_claim(resources.sessions) is None


def test_a_training_whose_last_job_finishes_while_it_is_being_paused_has_succeeded(
    resources: Resources,
) -> None:
    submission = training_before(resources, JobKind.SELECT)
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)

    playing.finish(resources.sessions, taken)

    assert state(resources, submission.job_id) is JobState.SUCCEEDED


def test_a_training_that_is_resumed_goes_through_to_its_model(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)
    stop(resources, taken)

    answer = resume(resources, submission.job_id)
    again = playing.claim(resources.sessions)
    running = state(resources, submission.job_id)
    playing.finish(resources.sessions, again)
    playing.play_all(resources.sessions)

    assert (answer, running) == (JobState.QUEUED, JobState.RUNNING)
    assert (again.job_id, again.attempt) == (taken.job_id, 2)
    assert state(resources, submission.job_id) is JobState.SUCCEEDED


def test_a_training_that_is_resumed_before_its_children_have_stopped_runs_on(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)

    answer = resume(resources, submission.job_id)
    heard = beat(resources, taken)
    playing.finish(resources.sessions, taken)
    playing.play_all(resources.sessions)

    assert (answer, heard) == (JobState.RUNNING, JobState.RUNNING)
    assert state(resources, submission.job_id) is JobState.SUCCEEDED


def test_a_job_of_a_paused_training_cannot_be_resumed_by_itself(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN)
    pause(resources, submission.job_id)

    with pytest.raises(ConflictError, match="the job's training is paused; resume that instead"):
        resume(resources, child_id(resources, submission.job_id, JobKind.TRAIN))


def test_other_folds_go_on_while_one_is_paused(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    paused_id = child_id(resources, submission.job_id, JobKind.TRAIN)
    pause(resources, paused_id)

    played = playing.play_all(resources.sessions)
    between = state(resources, submission.job_id)
    resume(resources, paused_id)
    playing.play_all(resources.sessions)

    assert [one.kind for one in played] == [JobKind.TRAIN]
    assert between is JobState.RUNNING
    assert state(resources, submission.job_id) is JobState.SUCCEEDED


def test_a_failed_check_that_is_tried_again_makes_its_dataset_ready(resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.fail(resources.sessions, playing.claim(resources.sessions))

    answer = retry(resources, submission.job_id)
    between = playing.dataset_row(resources.sessions, submission.id)
    playing.play_all(resources.sessions)

    after = playing.dataset_row(resources.sessions, submission.id)
    assert answer is JobState.QUEUED
    assert (between.state, between.problems) == ("ingesting", [])
    assert (after.state, after.problems) == ("ready", [])


def test_a_job_that_is_tried_again_looks_as_if_it_had_not_begun(resources: Resources) -> None:
    submission = playing.upload(resources)
    for _ in range(playing.MAX_CRASHES):
        playing.give_back(resources.sessions, playing.claim(resources.sessions))

    retry(resources, submission.job_id)

    row = playing.job_row(resources.sessions, submission.job_id)
    assert (row.state, row.error, row.started_at, row.finished_at) == (JobState.QUEUED, None, None, None)
    assert (row.crashes, row.attempt) == (0, playing.MAX_CRASHES)


def test_a_canceled_prediction_can_be_tried_again(resources: Resources) -> None:
    submission = playing.prediction(resources, playing.model(resources))
    cancel(resources, submission.job_id)

    retry(resources, submission.job_id)

    assert playing.claim(resources.sessions, [Lane.PREDICT]).job_id == submission.job_id


def test_a_failed_fold_that_is_tried_again_goes_on_and_its_training_succeeds(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    taken = playing.claim(resources.sessions)
    record_epochs(resources, taken, 3)
    stored = checkpoint(resources, taken, 3)
    playing.fail(resources.sessions, taken)
    playing.play_all(resources.sessions)
    failed = playing.states(resources.sessions)

    answer = retry(resources, taken.job_id)
    between = playing.states(resources.sessions)
    again = playing.claim(resources.sessions)
    with transaction(resources.readers) as session:
        epochs = session.scalar(select(func.count()).select_from(Epoch))
    running = state(resources, submission.job_id)
    playing.finish(resources.sessions, again)
    playing.play_all(resources.sessions)

    assert (failed[JobKind.SELECT], failed[JobKind.TRAINING]) == ([JobState.CANCELED], [JobState.FAILED])
    assert answer is JobState.QUEUED
    assert between[JobKind.TRAIN] == [JobState.QUEUED, JobState.SUCCEEDED]
    assert (between[JobKind.SELECT], between[JobKind.TRAINING]) == ([JobState.WAITING], [JobState.QUEUED])
    assert (again.order.checkpoint, epochs, running) == (stored, 3, JobState.RUNNING)
    parent = playing.job_row(resources.sessions, submission.job_id)
    assert (parent.state, parent.error) == (JobState.SUCCEEDED, None)
    with transaction(resources.readers) as session:
        assert trainings.find(session, submission.id).model is not None


def test_a_fold_can_be_tried_again_while_others_run(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    failed, running = playing.claim(resources.sessions), playing.claim(resources.sessions)
    playing.fail(resources.sessions, failed)

    retry(resources, failed.job_id)
    between = playing.states(resources.sessions)
    playing.finish(resources.sessions, running)
    playing.play_all(resources.sessions)

    assert between[JobKind.TRAINING] == [JobState.RUNNING]
    assert between[JobKind.SELECT] == [JobState.WAITING]
    assert state(resources, submission.job_id) is JobState.SUCCEEDED


def test_a_training_that_is_tried_again_repeats_only_what_did_not_succeed(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1, 2))
    playing.fail(resources.sessions, playing.claim(resources.sessions))
    playing.finish(resources.sessions, playing.claim(resources.sessions))
    cancel(resources, child_id(resources, submission.job_id, JobKind.TRAIN, 2))
    ended = state(resources, submission.job_id)

    answer = retry(resources, submission.job_id)
    played = playing.play_all(resources.sessions)

    assert (ended, answer) == (JobState.FAILED, JobState.QUEUED)
    assert [one.kind for one in played] == [JobKind.TRAIN, JobKind.TRAIN, JobKind.SELECT]
    assert state(resources, submission.job_id) is JobState.SUCCEEDED


def test_a_training_whose_preprocessing_failed_can_be_tried_again(resources: Resources) -> None:
    submission = training_before(resources, JobKind.PREPROCESS, folds=(0, 1))
    playing.fail(resources.sessions, playing.claim(resources.sessions))

    retry(resources, submission.job_id)
    between = playing.states(resources.sessions)
    playing.play_all(resources.sessions)

    assert between[JobKind.PREPROCESS] == [JobState.QUEUED]
    assert between[JobKind.TRAIN] == [JobState.WAITING, JobState.WAITING]
    assert state(resources, submission.job_id) is JobState.SUCCEEDED


def test_a_training_whose_plan_failed_can_be_tried_again(resources: Resources) -> None:
    submission = training_before(resources, JobKind.PLAN)
    playing.fail(resources.sessions, playing.claim(resources.sessions))

    retry(resources, submission.job_id)
    playing.play_all(resources.sessions)

    assert state(resources, submission.job_id) is JobState.SUCCEEDED


def test_a_canceled_training_can_be_tried_again(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    cancel(resources, submission.job_id)

    retry(resources, submission.job_id)
    playing.play_all(resources.sessions)

    assert state(resources, submission.job_id) is JobState.SUCCEEDED


def test_a_training_with_two_failed_folds_ends_again_when_only_one_is_tried_again(
    resources: Resources,
) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    first, second = playing.claim(resources.sessions), playing.claim(resources.sessions)
    playing.fail(resources.sessions, first)
    playing.fail(resources.sessions, second)

    retry(resources, first.job_id)
    playing.play_all(resources.sessions)
    between = state(resources, submission.job_id)
    retry(resources, second.job_id)
    playing.play_all(resources.sessions)

    assert between is JobState.FAILED
    assert state(resources, submission.job_id) is JobState.SUCCEEDED


def test_a_job_cannot_be_tried_again_before_what_it_needs(resources: Resources) -> None:
    submission = training_before(resources, JobKind.PREPROCESS)
    playing.fail(resources.sessions, playing.claim(resources.sessions))

    with pytest.raises(ConflictError, match="needs preprocess 3d_fullres, which failed; try that again"):
        retry(resources, child_id(resources, submission.job_id, JobKind.TRAIN))

    assert state(resources, submission.job_id) is JobState.FAILED


def test_a_job_of_a_paused_training_that_is_tried_again_is_held_back(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    failed = playing.claim(resources.sessions)
    playing.fail(resources.sessions, failed)
    pause(resources, submission.job_id)

    answer = retry(resources, failed.job_id)
    held_back = playing.try_claim(resources.sessions)
    resume(resources, submission.job_id)
    playing.play_all(resources.sessions)

    assert (answer, held_back) == (JobState.PAUSED, None)
    assert state(resources, submission.job_id) is JobState.SUCCEEDED


def test_a_job_that_has_succeeded_cannot_be_tried_again(resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    with pytest.raises(ConflictError, match="the job is succeeded; only one that failed or was canceled"):
        retry(resources, submission.job_id)


def test_a_job_that_runs_cannot_be_tried_again(resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.claim(resources.sessions)

    with pytest.raises(ConflictError, match="the job is running; only one that failed or was canceled"):
        retry(resources, submission.job_id)


def test_a_job_cannot_be_tried_again_while_its_training_is_being_canceled(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    playing.claim(resources.sessions)
    cancel(resources, submission.job_id)

    with pytest.raises(ConflictError, match="the job's training is being canceled"):
        retry(resources, child_id(resources, submission.job_id, JobKind.TRAIN, 1))


def test_a_worker_of_the_first_try_cannot_write_into_the_second(resources: Resources) -> None:
    submission = playing.upload(resources)
    first = playing.claim(resources.sessions)
    playing.fail(resources.sessions, first)
    retry(resources, submission.job_id)
    playing.claim(resources.sessions)

    with pytest.raises(LeaseLostError):
        playing.finish(resources.sessions, first)


def test_a_paused_job_is_canceled_at_once(resources: Resources) -> None:
    submission = playing.upload(resources)
    pause(resources, submission.job_id)

    assert cancel(resources, submission.job_id) is JobState.CANCELED


def test_a_job_that_is_being_paused_is_canceled_once_its_child_has_stopped(resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)

    answer = cancel(resources, submission.job_id)
    stop(resources, taken)

    assert answer is JobState.CANCELING
    assert state(resources, submission.job_id) is JobState.CANCELED


def test_a_paused_training_is_canceled_with_all_its_jobs(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    pause(resources, submission.job_id)

    answer = cancel(resources, submission.job_id)

    found = playing.states(resources.sessions)
    assert answer is JobState.CANCELED
    assert found[JobKind.TRAIN] == [JobState.CANCELED, JobState.CANCELED]
    assert found[JobKind.SELECT] == [JobState.CANCELED]


def test_a_paused_training_with_a_failed_job_is_canceled(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    playing.fail(resources.sessions, playing.claim(resources.sessions))
    pause(resources, submission.job_id)

    cancel(resources, submission.job_id)

    row = playing.job_row(resources.sessions, submission.job_id)
    assert (row.state, (row.error or {})["detail"]) == (JobState.CANCELED, "canceled by request")


def test_a_training_that_is_being_paused_is_canceled_once_its_children_have_stopped(
    resources: Resources,
) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    taken = playing.claim(resources.sessions)
    pause(resources, submission.job_id)

    answer = cancel(resources, submission.job_id)
    stop(resources, taken)

    assert answer is JobState.CANCELING
    assert state(resources, submission.job_id) is JobState.CANCELED


def test_a_paused_training_whose_jobs_are_canceled_one_by_one_ends(resources: Resources) -> None:
    submission = training_before(resources, JobKind.TRAIN, folds=(0, 1))
    pause(resources, submission.job_id)

    for number in range(2):
        cancel(resources, child_id(resources, submission.job_id, JobKind.TRAIN, number))

    assert state(resources, submission.job_id) is JobState.CANCELED


def test_every_step_of_steering_is_written_down_with_its_reason(resources: Resources) -> None:
    submission = playing.upload(resources)

    pause(resources, submission.job_id)
    resume(resources, submission.job_id)
    cancel(resources, submission.job_id)
    retry(resources, submission.job_id)

    with transaction(resources.readers) as session:
        events = session.execute(select(JobEvent.after, JobEvent.note).order_by(JobEvent.id)).all()
    assert [tuple(event) for event in events] == [
        (JobState.QUEUED, ""),
        (JobState.PAUSED, "asked to pause"),
        (JobState.QUEUED, "asked to resume"),
        (JobState.CANCELED, "canceled by request"),
        (JobState.QUEUED, "asked to try again"),
    ]
