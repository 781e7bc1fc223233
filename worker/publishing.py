"""A job's files on their way to the object store: under keys that carry the fence, seen once a row names them."""

import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYetError
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from app.db.base import is_outage
from app.errors import LeaseLostError
from app.jobs import JobKind, JobState, problem_of
from app.payloads import RESULTS, VALIDATED_FILE, Checkpoint, ObjectRef
from app.services import jobs, sweeping
from app.services.claims import Claim
from core.domain.record import Record
from core.errors import DomainError
from worker.child import internal_problem
from worker.machine import Worker, insist
from worker.observer import Message

log = logging.getLogger(__name__)

T = TypeVar("T")


class Lease:
    """Renews a claim's lease in time while its files are on their way, however many there are.

    Args:
        worker: This worker.
        claim: Whose lease.
    """

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self._worker, self._claim = worker, claim
        self._renewed_at = float("-inf")
        self.state = JobState.RUNNING
        """How the job stood at the last beat."""

    def keep(self) -> None:
        """Renew the lease if a beat is due.

        Raises:
            LeaseLostError: The job is not ours any more.
        """
        settings = self._worker.settings
        if time.monotonic() - self._renewed_at >= settings.heartbeat_seconds:
            self.state = insist(
                self._worker, lambda session: jobs.renew(session, self._claim, settings.lease_seconds)
            )
            self._renewed_at = time.monotonic()

    def keep_during(self, transfer: Future[T]) -> None:
        """Wait until a transfer has ended, well or badly.

        Raises:
            LeaseLostError: The job is not ours any more.
        """
        while not transfer.done():
            self.keep()
            with suppress(NotYetError):
                transfer.exception(timeout=self._worker.settings.heartbeat_seconds)


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
        self._named: tuple[Checkpoint, str | None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether there is something to be stored, or to be written down."""
        return self._next is not None or self._transfer is not None

    def take(self, message: Message) -> None:
        """Take a checkpoint that the child handed over; one that still waits is out of date."""
        self._next = message
        self._go_on()

    def name_in(self, session: Session) -> None:
        """Make a checkpoint that has arrived in the store the one that the job goes on from.

        Raises:
            LeaseLostError: The job is not ours any more.
        """
        self._go_on()
        self._named = None
        if self._transfer is None or not self._transfer.done():
            return
        error = self._transfer.exception()
        if error is not None:  # The training goes on: there is one after each epoch on local disk.
            log.error("a checkpoint could not be stored", exc_info=error)
            self._transfer = None
            return
        checkpoint = self._transfer.result()
        self._named = (checkpoint, jobs.record_checkpoint(session, self._claim, checkpoint))

    def is_written(self) -> None:
        """Take note that the row names it; delete the object that it replaces."""
        if self._named is not None:
            checkpoint, replaced = self._named
            log.info("checkpoint stored", extra={"epochs": checkpoint.epochs})
            if replaced is not None:
                discard(self._worker, [replaced])
            self._named = self._transfer = None
        self._go_on()

    def wait(self, lease: "Lease") -> None:
        """Wait for the transfer that is under way, and renew the lease meanwhile.

        Raises:
            LeaseLostError: The job is not ours any more.
        """
        if self._transfer is not None:
            lease.keep_during(self._transfer)

    def abandon(self) -> None:
        """Let nothing arrive any more: the job is not ours, and no row will name it."""
        self._next = None
        if self._transfer is not None:
            self._transfer.add_done_callback(self._delete)

    def _delete(self, transfer: Future[Checkpoint]) -> None:
        if transfer.exception() is None:
            self._worker.workspace().store.delete(transfer.result().file.key)

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
    lease = Lease(worker, claim)
    refs: dict[str, ObjectRef] = {}
    try:
        for name, path in ending["files"].items():
            refs[name] = _stored(worker, claim, lease, name, Path(path))
            if lease.state is JobState.CANCELING:
                insist(worker, lambda session: jobs.give_back(session, claim, "asked to stop"))
                return
        result = _result(claim.kind, ending["result"], refs)
        lease.keep()
        insist(worker, lambda session: jobs.succeed(session, claim, result))
    except LeaseLostError:
        # A commit that went unanswered may have been made.
        if not insist(worker, lambda session: jobs.has_succeeded(session, claim)):
            discard(worker, [ref.key for ref in refs.values()])
            raise
    except (DBAPIError, PoolTimeoutError) as error:
        if is_outage(error):
            raise  # The work is not lost: the lease ends, and whoever is next goes on.
        _fail(worker, claim, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the job must not hang
        _fail(worker, claim, error)


def tidy(worker: Worker, claim: Claim) -> None:
    """Delete what the claims of a job that has ended stored, but for what its row points at.

    A selection that has made its model lets go of what the folds segmented.
    """
    stored = worker.workspace().store.keys(f"{claim.kind}/{claim.job_id}/")
    if stored:
        named = insist(worker, lambda session: sweeping.objects_of(session, claim.job_id))
        discard(worker, sorted(set(stored) - named))
    segmented = [
        result.files[VALIDATED_FILE].key for result in claim.order.trained if VALIDATED_FILE in result.files
    ]
    if claim.kind is JobKind.SELECT and segmented:
        discard(worker, insist(worker, lambda session: sweeping.orphans(session, segmented)))


def discard(worker: Worker, keys: Iterable[str]) -> None:
    """Delete objects that nothing points at."""
    store = worker.workspace().store
    for key in keys:
        store.delete(key)


def _key(claim: Claim, name: str) -> str:
    """Return where a claim stores a file; names are made of numbers and our own words, never a user's."""
    return f"{claim.kind}/{claim.job_id}/{claim.fence}/{name}"


def _stored(worker: Worker, claim: Claim, lease: Lease, name: str, path: Path) -> ObjectRef:
    """Bring a file to the store while the lease is renewed.

    Raises:
        LeaseLostError: The job is not ours any more; the file does not stay.
        OSError, StorageFullError: The file cannot be stored.
    """
    lease.keep()
    key = _key(claim, name)
    transfer = worker.transfers.submit(worker.workspace().store.put, key, path)
    try:
        lease.keep_during(transfer)
    except LeaseLostError:
        transfer.add_done_callback(lambda _: worker.workspace().store.delete(key))
        raise
    return transfer.result()


def _fail(worker: Worker, claim: Claim, error: Exception) -> None:
    """End a job whose result could not be stored."""
    log.error("a result could not be stored", exc_info=error)
    problem = problem_of(error) if isinstance(error, DomainError) else internal_problem()
    insist(worker, lambda session: jobs.fail(session, claim, problem))


def _result(kind: JobKind, values: Mapping[str, Any], refs: Mapping[str, ObjectRef]) -> Record:
    """Return the record of a kind's result, with the files that were stored."""
    if not refs:
        return RESULTS[kind].model_validate(values)
    stored = {name: ref.to_json() for name, ref in refs.items()}
    return RESULTS[kind].model_validate({**values, "files": {**values["files"], **stored}})
