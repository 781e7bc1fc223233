"""What happened to a job, entry by entry: in order, none left out, and readable while others write."""

import threading
from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from app.db.base import transaction
from app.db.models import Job
from app.errors import NotFoundError
from app.jobs import EventKind, JobState
from app.services import history, jobs
from app.services.claims import Claim
from app.services.history import LARGEST_PORTION, Entry, News
from app.services.resources import Resources
from app.services.transitions import record_content
from tests.app import playing


def look(resources: Resources, job_id: UUID, after: int = 0) -> News:
    with transaction(resources.readers) as session:
        return history.news(session, job_id, after)


def steps(entries: list[Entry]) -> list[tuple[object, object]]:
    return [(entry.content["before"], entry.content["after"]) for entry in entries]


def record_epoch(resources: Resources, taken: Claim, number: int) -> None:
    with transaction(resources.sessions) as session:
        jobs.record_epoch(session, taken, playing.epoch(number))


def rewind(resources: Resources, taken: Claim, finished: int) -> None:
    with transaction(resources.sessions) as session:
        jobs.rewind(session, taken, finished)


def test_a_history_begins_with_the_birth_and_ends_with_the_end(resources: Resources) -> None:
    submission = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    told = look(resources, submission.job_id)

    assert steps(list(told.entries)) == [
        (None, JobState.QUEUED),
        (JobState.QUEUED, JobState.RUNNING),
        (JobState.RUNNING, JobState.SUCCEEDED),
    ]
    assert told.entries[1].content["note"] == "attempt 1"
    assert told.is_all
    assert told.status.has_ended


def test_only_what_came_after_an_entry_is_told(resources: Resources) -> None:
    submission = playing.upload(resources)
    known = look(resources, submission.job_id).entries[-1].id
    nothing = look(resources, submission.job_id, known).entries
    playing.claim(resources.sessions)

    told = look(resources, submission.job_id, known)

    assert nothing == []
    assert steps(list(told.entries)) == [(JobState.QUEUED, JobState.RUNNING)]


def test_epochs_and_steps_back_stand_among_the_states(resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    for number in range(2):
        record_epoch(resources, taken, number)
    rewind(resources, taken, 1)
    record_epoch(resources, taken, 1)

    told = look(resources, submission.job_id).entries[2:]

    assert [entry.kind for entry in told] == [
        EventKind.EPOCH, EventKind.EPOCH, EventKind.RESUMED, EventKind.EPOCH
    ]  # fmt: skip
    assert [entry.content["epoch"] for entry in told] == [0, 1, 1, 1]


def test_an_epoch_that_is_told_again_is_no_news(resources: Resources) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    record_epoch(resources, taken, 0)
    before = look(resources, submission.job_id).entries

    record_epoch(resources, taken, 0)
    rewind(resources, taken, 1)

    assert look(resources, submission.job_id).entries == before


def test_the_history_of_a_training_holds_that_of_its_jobs(resources: Resources) -> None:
    submission = playing.training(resources, playing.ready_dataset(resources), folds=[0])
    playing.play_all(resources.sessions)

    told = look(resources, submission.job_id).entries

    titles = ["training", "plan", "preprocess 3d_fullres", "train 3d_fullres fold 0", "select"]
    assert list(dict.fromkeys(entry.title for entry in told)) == titles
    assert all(one.id < other.id for one, other in pairwise(told))
    assert (told[-1].job_id, told[-1].content["after"]) == (submission.job_id, JobState.SUCCEEDED)


def test_the_history_of_one_job_of_a_training_is_its_own(resources: Resources) -> None:
    playing.training(resources, playing.ready_dataset(resources), folds=[0])
    taken = playing.claim(resources.sessions)

    assert {entry.job_id for entry in look(resources, taken.job_id).entries} == {taken.job_id}


def test_a_long_history_comes_in_portions(resources: Resources) -> None:
    submission = playing.upload(resources)
    with transaction(resources.sessions) as session:
        job = session.get_one(Job, submission.job_id)
        for number in range(LARGEST_PORTION):
            record_content(session, job, EventKind.EPOCH, {"epoch": number})

    first = look(resources, submission.job_id)
    second = look(resources, submission.job_id, first.entries[-1].id)

    assert (len(first.entries), first.is_all) == (LARGEST_PORTION, False)
    assert ([entry.content["epoch"] for entry in second.entries], second.is_all) == (
        [LARGEST_PORTION - 1],
        True,
    )


def test_a_job_that_there_is_not_has_no_history(resources: Resources) -> None:
    with pytest.raises(NotFoundError):
        look(resources, uuid4())


WRITERS = 4

ENTRIES_EACH = 25


@pytest.fixture
def folds(resources: Resources) -> list[Claim]:
    """A training whose folds all run."""
    playing.training(resources, playing.ready_dataset(resources), folds=list(range(WRITERS)))
    for _ in range(2):
        playing.finish(resources.sessions, playing.claim(resources.sessions))
    return [playing.claim(resources.sessions) for _ in range(WRITERS)]


def test_who_reads_along_while_workers_write_misses_nothing(resources: Resources, folds: list[Claim]) -> None:
    parent_id = playing.job_row(resources.sessions, folds[0].job_id).parent_id
    assert parent_id is not None

    def work(taken: Claim) -> None:
        for number in range(ENTRIES_EACH):
            record_epoch(resources, taken, number)

    writers = [threading.Thread(target=work, args=(taken,)) for taken in folds]
    for writer in writers:
        writer.start()
    seen = tail(resources, parent_id, writers)

    everything = [entry.id for entry in look(resources, parent_id).entries]
    assert seen == everything
    assert len(everything) > WRITERS * ENTRIES_EACH


def tail(resources: Resources, job_id: UUID, writers: list[threading.Thread]) -> list[int]:
    """Read by id, as followers do, until nobody writes any more."""
    seen: list[int] = []
    while True:
        is_over = not any(writer.is_alive() for writer in writers)
        seen += [entry.id for entry in look(resources, job_id, seen[-1] if seen else 0).entries]
        if is_over:
            return seen


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_an_entry_becomes_visible_only_after_all_with_smaller_ids(
    resources: Resources, folds: list[Claim]
) -> None:
    parent_id = playing.job_row(resources.sessions, folds[0].job_id).parent_id
    assert parent_id is not None
    second = threading.Thread(target=record_epoch, args=(resources, folds[1], 0))

    with transaction(resources.sessions) as session:
        jobs.record_epoch(session, folds[0], playing.epoch(0))
        session.flush()  # It has its id, and nobody sees it.
        second.start()
        second.join(0.5)
        meanwhile = look(resources, parent_id).entries[-1]
    second.join()

    after = look(resources, parent_id, meanwhile.id).entries
    assert [entry.job_id for entry in after] == [folds[0].job_id, folds[1].job_id]
