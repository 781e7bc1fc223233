"""A job's files on their way to the object store: under keys that carry the fence, seen once a row names them."""

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYetError
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError

from app.db.base import is_outage
from app.errors import LeaseLostError
from app.jobs import RESULTS, Checkpoint, JobKind, ObjectRef, problem_of
from app.services import jobs
from app.services.jobs import Claim
from core.domain.record import Record
from core.errors import DomainError
from worker.child import internal_problem
from worker.machine import Worker, insist
from worker.observer import Message

log = logging.getLogger(__name__)

T = TypeVar("T")


class CheckpointUpload:
    """Checkpoints of one claim on their way to the store, one at a time, the newest first.

    Args:
        worker: This worker.
        claim: Whose checkpoints.
    """

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self._worker, self._claim = worker, claim
        self._next: Message | None = None
        self._transfer: Future[Checkpoint] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether there is something to be stored, or to be written down."""
        return self._next is not None or self._transfer is not None

    def take(self, message: Message) -> None:
        """Take a checkpoint that the child handed over; one that still waits is out of date."""
        self._next = message
        self._go_on()

    def arrived(self) -> Checkpoint | None:
        """Return a checkpoint that is in the store, for the job's row to name; None if there is none yet."""
        self._go_on()
        if self._transfer is None or not self._transfer.done():
            return None
        error = self._transfer.exception()
        if error is not None:  # The training goes on: there is one after each epoch on local disk.
            log.error("a checkpoint could not be stored", exc_info=error)
            self._transfer = None
            return None
        return self._transfer.result()

    def is_written(self, replaced: str | None) -> None:
        """Take note that the row names the one that arrived; delete the object that it replaces."""
        if replaced is not None:
            self._worker.workspace().store.delete(replaced)
        self._transfer = None
        self._go_on()

    def wait(self) -> None:
        """Wait for the transfer that is under way, and renew the lease meanwhile.

        Raises:
            LeaseLostError: The job is not ours any more.
        """
        if self._transfer is not None:
            _renewing(self._worker, self._claim, self._transfer)

    def _go_on(self) -> None:
        if self._transfer is None and self._next is not None:
            message, self._next = self._next, None
            self._transfer = self._worker.transfers.submit(self._store, message)

    def _store(self, message: Message) -> Checkpoint:
        """Bring one checkpoint to the store."""
        file = Path(message["path"])
        ref = self._worker.workspace().store.put(_key(self._claim, file.name), file)
        file.unlink(missing_ok=True)
        return Checkpoint(file=ref, epochs=message["epochs"])


def publish(worker: Worker, claim: Claim, ending: Message) -> None:
    """Store the child's files under the fence, then write the result that points at them.

    Raises:
        LeaseLostError: The job is not ours any more; nothing of what was stored stays.
    """
    refs: dict[str, ObjectRef] = {}
    stands = False
    try:
        for name, path in ending["files"].items():
            refs[name] = _stored(worker, claim, name, Path(path))
        result = _result(claim.kind, ending["result"], refs)
        stands = insist(worker, lambda session: jobs.succeed(session, claim, result))
    except LeaseLostError:
        # A commit that went unanswered may have been made.
        stands = insist(worker, lambda session: jobs.has_succeeded(session, claim))
        if not stands:
            _discard(worker, refs)
            raise
    except Exception as error:
        if isinstance(error, DBAPIError) and is_outage(error):
            raise  # The work is not lost: the lease ends, and whoever is next goes on.
        _fail(worker, claim, error)
    if stands:
        _tidy(worker, claim, refs)
    else:  # It was canceled in the meantime, or has failed.
        _discard(worker, refs)


def _key(claim: Claim, name: str) -> str:
    """Return where a claim stores a file; names are made of numbers and our own words, never a user's."""
    return f"{claim.kind}/{claim.job_id}/{claim.fence}/{name}"


def _stored(worker: Worker, claim: Claim, name: str, path: Path) -> ObjectRef:
    """Bring a file to the store while the lease is renewed.

    Raises:
        LeaseLostError: The job is not ours any more.
        OSError, StorageFullError: The file cannot be stored.
    """
    transfer = worker.transfers.submit(worker.workspace().store.put, _key(claim, name), path)
    _renewing(worker, claim, transfer)
    return transfer.result()


def _renewing(worker: Worker, claim: Claim, transfer: Future[T]) -> None:
    """Wait until a transfer has ended, well or badly, and renew the lease meanwhile.

    Raises:
        LeaseLostError: The job is not ours any more.
    """
    while not transfer.done():
        try:
            transfer.exception(timeout=worker.settings.heartbeat_seconds)
        except NotYetError:
            insist(worker, lambda session: jobs.renew(session, claim, worker.settings.lease_seconds))


def _fail(worker: Worker, claim: Claim, error: Exception) -> None:
    """End a job whose result could not be stored."""
    log.error("a result could not be stored", exc_info=error)
    problem = problem_of(error) if isinstance(error, DomainError) else internal_problem()
    insist(worker, lambda session: jobs.fail(session, claim, problem))


def _tidy(worker: Worker, claim: Claim, refs: Mapping[str, ObjectRef]) -> None:
    """Delete what earlier claims of a finished job stored, and its checkpoints."""
    store, kept = worker.workspace().store, {ref.key for ref in refs.values()}
    for key in store.keys(f"{claim.kind}/{claim.job_id}/"):
        if key not in kept:
            store.delete(key)


def _discard(worker: Worker, refs: Mapping[str, ObjectRef]) -> None:
    """Delete files that nothing points at."""
    store = worker.workspace().store
    for ref in refs.values():
        store.delete(ref.key)


def _result(kind: JobKind, values: Mapping[str, Any], refs: Mapping[str, ObjectRef]) -> Record:
    """Return the record of a kind's result, with the files that were stored."""
    if not refs:
        return RESULTS[kind].model_validate(values)
    stored = {name: ref.to_json() for name, ref in refs.items()}
    return RESULTS[kind].model_validate({**values, "files": {**values["files"], **stored}})
