"""What a service function works with: sessions, object store, queue, and requests that may come twice."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from app.db.base import Sessions, is_outage, now
from app.db.models import IdempotencyKey
from app.errors import RequestError
from app.payloads import ObjectRef
from app.queue import Queue
from app.services.transitions import announced
from app.storage import ObjectStore

T = TypeVar("T")

KEY_LIFETIME = timedelta(hours=24)
"""A key that is older is forgotten, and its request done anew."""

ATTEMPTS = 12
"""How often a transaction is tried when another one took the same unique value in the meantime."""

DEADLOCK = "40P01"
"""SQLSTATE of a transaction that PostgreSQL ended because two waited for each other."""


@dataclass(frozen=True, slots=True)
class Resources:
    """The service's connections to the world."""

    sessions: Sessions
    """Sessions that may write."""
    readers: Sessions
    """Sessions that only read and never wait for a writer."""
    store: ObjectStore
    queue: Queue


@dataclass(frozen=True, slots=True)
class Submission:
    """What a creating request made: the thing and the job that will fill it."""

    id: UUID
    job_id: UUID
    """The id of the thing itself where it needs no job."""
    replayed: bool = False
    """Whether an earlier request with the same key made it."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """An Idempotency-Key and a digest of the request that it came with."""

    key: str
    digest: str


def submit_once(
    resources: Resources, key: RequestKey | None, create: Callable[[Session], Submission]
) -> Submission:
    """Create something in one transaction, unless the same request did so before; announce its jobs.

    Args:
        resources: Where to.
        key: None if the client sent none: every request is then a new one.
        create: Writes the rows.

    Raises:
        RequestError: The key came with another request before.
    """
    return insistently(lambda: _submit(resources, key, create))


def insistently(write: Callable[[], T]) -> T:
    """Run a transaction, and again if another one came in between.

    That is: it took the same unique value, or what this one points at, or the two waited for each other.
    """
    for remaining in reversed(range(ATTEMPTS)):
        try:
            return write()
        except DBAPIError as error:
            if remaining == 0 or not _is_rivalry(error):
                raise
    raise AssertionError("the last attempt returns or raises")


def _is_rivalry(error: DBAPIError) -> bool:
    """Whether an error comes from another transaction, so that the next attempt may succeed."""
    return isinstance(error, IntegrityError) or getattr(error.orig, "sqlstate", None) == DEADLOCK


def submit_files(
    resources: Resources,
    key: RequestKey | None,
    refs: Sequence[ObjectRef],
    create: Callable[[Session], Submission],
) -> Submission:
    """Do as `submit_once` for a request that brought files; they are deleted unless something points at them.

    Args:
        resources: Where to.
        key: None if the client sent none.
        refs: The request's files, in the store already.
        create: Writes the rows that point at them.

    Raises:
        RequestError: The key came with another request before.
    """
    with kept(resources, refs):
        submission = submit_once(resources, key, create)
    if submission.replayed:
        _delete(resources, refs)
    return submission


@contextmanager
def kept(resources: Resources, refs: Sequence[ObjectRef]) -> Iterator[None]:
    """Run the transaction that writes the rows of files; without it, the files are deleted again."""
    try:
        yield
    except Exception as error:
        if not is_outage(error):  # After an outage the commit may have been made: better a file too many.
            _delete(resources, refs)
        raise


def _delete(resources: Resources, refs: Sequence[ObjectRef]) -> None:
    for ref in refs:
        resources.store.delete(ref.key)


def forget(session: Session, resource_id: UUID) -> None:
    """Drop the keys of a thing that is deleted."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.resource_id == resource_id))


def replayed(session: Session, key: RequestKey | None) -> Submission | None:
    """Return what the same request made before; None if it made nothing, or that was too long ago.

    Raises:
        RequestError: The key came with another request before.
    """
    known = None if key is None else session.get(IdempotencyKey, key.key)
    if key is None or known is None or known.created_at < now() - KEY_LIFETIME:
        return None
    if known.digest != key.digest:
        raise RequestError(
            "this Idempotency-Key came with another request before; use a new key for a new request"
        )
    return Submission(known.resource_id, known.job_id, replayed=True)


def _submit(
    resources: Resources, key: RequestKey | None, create: Callable[[Session], Submission]
) -> Submission:
    with announced(resources.sessions, resources.queue) as session:
        if key is None:
            return create(session)
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now() - KEY_LIFETIME))
        done = replayed(session, key)
        if done is not None:
            return done
        made = create(session)
        session.add(IdempotencyKey(key=key.key, digest=key.digest, resource_id=made.id, job_id=made.job_id))
        return made


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file that a job left, ready to be sent."""

    path: Path
    sha256: str
    media_type: str
    ending: str
