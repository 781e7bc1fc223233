"""Files that came with a request: kept with its rows, gone with them, and kept when nobody knows."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from uuid import UUID

import httpx
import pytest
from sqlalchemy import event, func, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.db.base import transaction
from app.db.models import Dataset, StoredObject
from app.main import create_app
from app.services import datasets
from app.services.resources import RequestKey, Resources, Submission, insistently, submit_files
from app.settings import Settings
from tests.app import playing
from tests.app.serving import served


@contextmanager
def losing(resources: Resources, moment: str) -> Iterator[None]:
    """Have the database go away once, before a commit or between a commit and its answer."""
    lost: list[str] = []

    def lose(_session: Session) -> None:
        if not lost:
            lost.append("an answer")
            raise OperationalError("COMMIT", None, Exception("server closed the connection unexpectedly"))

    event.listen(resources.sessions, moment, lose)
    yield
    event.remove(resources.sessions, moment, lose)
    assert lost


def stored(resources: Resources) -> list[str]:
    return resources.store.keys("datasets/")


def rows(resources: Resources) -> list[str]:
    with transaction(resources.readers) as session:
        return list(session.scalars(select(StoredObject.key)))


def upload(resources: Resources, key: RequestKey | None = None) -> Submission:
    return datasets.upload(resources, "A", playing.incoming(resources, playing.zip_bytes()), key)


def test_a_file_is_kept_with_its_row(resources: Resources) -> None:
    upload(resources)

    assert stored(resources) == rows(resources)
    assert len(stored(resources)) == 1


def test_an_upload_whose_commit_went_unanswered_keeps_its_file(resources: Resources) -> None:
    with losing(resources, "after_commit"), pytest.raises(OperationalError):
        upload(resources)

    assert stored(resources) == rows(resources)
    assert len(stored(resources)) == 1


def test_who_sends_again_after_an_unanswered_commit_finds_what_was_made(resources: Resources) -> None:
    key = RequestKey("once", "a digest")
    with losing(resources, "after_commit"), pytest.raises(OperationalError):
        upload(resources, key)

    again = upload(resources, key)

    with transaction(resources.readers) as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 1
    assert again.replayed
    assert stored(resources) == rows(resources)


def test_a_request_that_comes_twice_leaves_one_file(resources: Resources) -> None:
    key = RequestKey("once", "a digest")

    first, second = upload(resources, key), upload(resources, key)

    assert (second.id, second.replayed) == (first.id, True)
    assert stored(resources) == rows(resources)


def test_a_file_whose_rows_could_not_be_written_is_deleted(resources: Resources) -> None:
    ref = resources.store.adopt("datasets/1/archive.zip", playing.incoming(resources, b"a file"))

    def refuse(_session: Session) -> Submission:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - any error will do
        submit_files(resources, None, [ref], refuse)

    assert stored(resources) == []


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_of_two_that_wait_for_each_other_both_succeed(resources: Resources) -> None:
    ids = [upload(resources).id, upload(resources).id]
    both_hold_one, attempts = Barrier(2), []

    def rename(order: list[UUID]) -> None:
        with transaction(resources.sessions) as session:
            for number, dataset_id in enumerate(order):
                session.execute(update(Dataset).where(Dataset.id == dataset_id).values(reader="A reader"))
                attempts.append(dataset_id)
                if number == 0 and len(attempts) <= len(ids):
                    both_hold_one.wait(20)

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(insistently, lambda order=order: rename(order)) for order in (ids, ids[::-1])]

    assert [one.exception() for one in done] == [None, None]
    assert len(attempts) > len(ids) * 2


def test_a_client_hears_that_the_database_was_away(settings: Settings, resources: Resources) -> None:
    app = create_app(settings)

    with served(app) as address, losing(app.state.resources, "after_commit"):
        response = httpx.post(
            f"{address}/datasets?name=A",
            content=playing.zip_bytes(),
            headers={"Content-Type": "application/zip"},
        )

    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert stored(resources) == rows(resources)
    assert len(rows(resources)) == 1
