"""The vocabulary that service and worker share: kinds, states, lanes and transitions of jobs, and how they fail."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from pydantic import JsonValue

from core.errors import DomainError


class JobKind(StrEnum):
    """What a job does."""

    INGEST = "ingest"
    PLAN = "plan"
    PREPROCESS = "preprocess"
    TRAIN = "train"
    SELECT = "select"
    TRAINING = "training"
    """The parent of the five above; never claimed, its state follows from its children's."""
    PREDICT = "predict"
    IMPORT_MODEL = "import_model"
    EXPORT_MODEL = "export_model"


class JobState(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    """A job that it depends on is not done."""
    QUEUED = "queued"
    RUNNING = "running"
    CANCELING = "canceling"
    """Asked to end; its child still runs."""
    PAUSING = "pausing"
    """Asked to make room; its child still runs."""
    PAUSED = "paused"
    """Nobody runs it until it is resumed; a training goes on from its checkpoint then."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class Lane(StrEnum):
    """Which kind of worker takes a job."""

    CPU = "cpu"
    TRAIN = "train"
    PREDICT = "predict"


class EventKind(StrEnum):
    """What an entry of a job's history tells."""

    STATE = "state"
    """The job moved from one state to another."""
    EPOCH = "epoch"
    """An epoch is finished; its record is in the entry."""
    RESUMED = "resumed"
    """The job goes on from a checkpoint; epochs from the entry's number on are to be forgotten."""


LANES: Mapping[JobKind, Lane] = {
    JobKind.INGEST: Lane.CPU,
    JobKind.PLAN: Lane.CPU,
    JobKind.PREPROCESS: Lane.CPU,
    JobKind.TRAIN: Lane.TRAIN,
    JobKind.SELECT: Lane.CPU,
    JobKind.TRAINING: Lane.CPU,
    JobKind.PREDICT: Lane.PREDICT,
    JobKind.IMPORT_MODEL: Lane.CPU,
    JobKind.EXPORT_MODEL: Lane.CPU,
}

FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED})
"""The job has ended. Only a user's `retry` leads out of the last two, nothing out of the first."""

LEASED_STATES = frozenset({JobState.RUNNING, JobState.CANCELING, JobState.PAUSING})
"""A worker owns the job until its lease ends."""

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.QUEUED, JobState.PAUSED, JobState.CANCELED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.CANCELED, JobState.FAILED}),
    JobState.RUNNING: frozenset(
        {
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELED,
            JobState.CANCELING,
            JobState.PAUSING,
            JobState.QUEUED,
        }
    ),
    JobState.CANCELING: frozenset({JobState.CANCELED}),
    JobState.PAUSING: frozenset(
        {
            JobState.PAUSED,
            JobState.RUNNING,
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELING,
            JobState.CANCELED,
        }
    ),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELED, JobState.FAILED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED, JobState.WAITING, JobState.PAUSED}),
    JobState.CANCELED: frozenset({JobState.QUEUED, JobState.WAITING, JobState.PAUSED}),
}
"""The life cycle as data. `running → queued` gives a job back whose worker or child died.

A training ends with its last job, so it may fail or be canceled from wherever it stands.
"""

Urgency = Literal["interactive", "batch"]
"""Whether a person waits for a prediction."""

INTERACTIVE, BATCH = 0, 3
"""Priorities of predictions; the lower number goes first. The steps are those of Celery on Redis."""

PRIORITIES: Mapping[Lane, int] = {Lane.PREDICT: INTERACTIVE, Lane.CPU: 6, Lane.TRAIN: 9}
"""A worker of several lanes takes first what somebody waits for."""

PROBLEM_TYPE = "urn:nnunet-service:problem:"
"""Prefix of the `type` of a problem document; the kind of the error follows."""

INTERNAL_ERROR = "internal-error"
"""Kind of a problem that is a bug of ours; its text is in the log, not in the document."""


def problem_document(
    kind: str, detail: str, context: Mapping[str, JsonValue] | None = None
) -> dict[str, JsonValue]:
    """Describe what went wrong as RFC 9457 has it, without a status: a job has none.

    Args:
        kind: Stable slug, see `core.errors.DomainError`.
        detail: One sentence for a person.
        context: What a program may want to know.
    """
    return {
        **(context or {}),
        "type": PROBLEM_TYPE + kind,
        "title": kind.replace("-", " ").capitalize(),
        "detail": detail,
        "code": kind,
    }


def problem_of(error: DomainError) -> dict[str, JsonValue]:
    """Describe an error that was raised on purpose."""
    return problem_document(error.kind, error.message, error.context)
