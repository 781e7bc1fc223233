"""Queue: how a worker hears that a job was queued."""

from collections.abc import Iterable
from typing import Protocol
from uuid import UUID


class Queue(Protocol):
    """Announces jobs whose rows are committed; a lost message is harmless, the row is the truth."""

    def announce(self, job_ids: Iterable[UUID]) -> None:
        """Tell the workers."""


class PolledQueue:
    """Laptop mode: the local dispatchers look into the job table themselves."""

    def announce(self, job_ids: Iterable[UUID]) -> None:
        """Do nothing."""
