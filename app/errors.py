"""What the service refuses, each with its kind and sentence; no status codes."""

from core.errors import DomainError


class NotFoundError(DomainError):
    """There is no such thing."""

    kind = "not-found"


class ConflictError(DomainError):
    """It exists, but its state does not allow what is asked."""

    kind = "conflict"


class RequestError(DomainError):
    """The request cannot be carried out as it was sent; the sentence says what to send instead."""

    kind = "invalid-request"


class LeaseLostError(DomainError):
    """The job is no longer this worker's: its lease ran out or somebody else claimed the job."""

    kind = "lease-lost"


class CrashedError(DomainError):
    """The job's child process died each time it was tried."""

    kind = "worker-crashed"
