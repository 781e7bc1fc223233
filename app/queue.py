"""Queue: how a worker hears that a job was queued; the only module of app that knows Celery."""

import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from app.jobs import Lane

log = logging.getLogger(__name__)

RUN_JOB = "run_job"
"""Name of the one task; its argument is the id of a job."""

PRIORITY_STEPS = (0, 3, 6, 9)
"""Priorities that a message may have, see `app.jobs.PRIORITIES`; the broker keeps a list for each."""

STEP_SEPARATOR = ":"
"""Between a lane's name and a priority in the name of such a list; the first step's list has none."""

PATIENCE_SECONDS = 2.0
"""How long a broker that does not answer may hold up a request; the row is written by then."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a message says: look at this job."""

    job_id: UUID
    lane: Lane
    priority: int


class Queue(Protocol):
    """Announces jobs whose rows are committed; a lost message is harmless, the row is the truth."""

    def announce(self, announcements: Iterable[Announcement]) -> None:
        """Tell the workers; a broker that is away is logged, and the sweep announces again."""

    def messages(self) -> Mapping[Lane, int]:
        """Return how many messages each lane has: with fewer than queued rows, some were lost."""

    def show(self, lanes: Collection[Lane], seconds: float) -> None:
        """Let it be known for so long that a worker serves some lanes; nobody minds if that fails."""

    def served(self) -> frozenset[Lane] | None:
        """Return the lanes that a worker serves; None where that is not known here."""

    def require_reachable(self) -> None:
        """Raise an error if messages cannot be sent."""


class PolledQueue:
    """Laptop mode: the local dispatchers look into the job table themselves."""

    def announce(self, announcements: Iterable[Announcement]) -> None:
        """Do nothing."""

    def messages(self) -> Mapping[Lane, int]:
        """Return nothing: nobody waits for a message."""
        return {}

    def show(self, lanes: Collection[Lane], seconds: float) -> None:
        """Do nothing: workers of this machine touch a file, see `app.alive`."""

    def served(self) -> frozenset[Lane] | None:
        """Return None."""
        return None

    def require_reachable(self) -> None:
        """Do nothing."""


class CeleryQueue:
    """Scaled mode: messages to Celery workers over Redis, one list per lane and priority.

    Args:
        broker_url: Of Redis.
    """

    def __init__(self, broker_url: str) -> None:
        self._celery = celery_application(broker_url)
        self._celery.conf.broker_transport_options |= {"socket_timeout": PATIENCE_SECONDS}
        self._redis = Redis.from_url(
            broker_url, socket_connect_timeout=PATIENCE_SECONDS, socket_timeout=PATIENCE_SECONDS
        )

    def announce(self, announcements: Iterable[Announcement]) -> None:
        """Send a message for each; a second try covers a connection that died of old age."""
        for one in announcements:
            try:
                self._celery.send_task(
                    RUN_JOB,
                    args=[str(one.job_id)],
                    queue=one.lane.value,
                    priority=one.priority,
                    retry=True,
                    retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0},
                )
            except (OperationalError, RedisError, OSError) as error:
                log.warning(
                    "the broker does not answer; the sweep will announce", extra={"error": repr(error)}
                )
                return

    def messages(self) -> Mapping[Lane, int]:
        """Return how many messages each lane has; nothing while the broker is away."""
        try:
            return {lane: sum(map(self._length, _lists_of(lane))) for lane in Lane}
        except (RedisError, OSError):
            return {}

    def show(self, lanes: Collection[Lane], seconds: float) -> None:
        """Leave a key per lane that vanishes by itself."""
        with suppress(RedisError, OSError):
            for lane in lanes:
                self._redis.set(_shown(lane), 1, px=int(seconds * 1000))

    def served(self) -> frozenset[Lane] | None:
        """Return the lanes whose key is there; None while the broker is away."""
        try:
            return frozenset(lane for lane in Lane if self._redis.exists(_shown(lane)))
        except (RedisError, OSError):
            return None

    def require_reachable(self) -> None:
        """Raise RedisError or OSError if the broker does not answer."""
        self._redis.ping()

    def _length(self, name: str) -> int:
        return int(self._redis.llen(name))


def open_queue(broker_url: str | None) -> Queue:
    """Return the queue that the settings name."""
    return PolledQueue() if broker_url is None else CeleryQueue(broker_url)


def celery_application(broker_url: str) -> Celery:
    """Return the Celery application that both sides use: JSON, no results, messages kept by priority."""
    application = Celery("nnunet-service", broker=broker_url, set_as_current=False)
    application.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_default_queue=Lane.CPU.value,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "priority_steps": list(PRIORITY_STEPS),
            "sep": STEP_SEPARATOR,
            "queue_order_strategy": "priority",
            "socket_connect_timeout": PATIENCE_SECONDS,
            "socket_keepalive": True,  # A worker's connection is idle for as long as its job runs.
        },
    )
    return application


def _lists_of(lane: Lane) -> list[str]:
    """Return the names of the lists that hold a lane's messages."""
    return [lane.value, *(f"{lane.value}{STEP_SEPARATOR}{step}" for step in PRIORITY_STEPS[1:])]


def _shown(lane: Lane) -> str:
    """Return the key that says that a worker serves a lane."""
    return f"served{STEP_SEPARATOR}{lane.value}"
