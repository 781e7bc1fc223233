"""What the service refuses, each with its kind and sentence; no status codes."""

from core.errors import DomainError


class NotFoundError(DomainError):
    """There is no such thing."""

    kind = "not-found"


class ConflictError(DomainError):
    """It exists, but its state does not allow what is asked."""

    kind = "conflict"


class PreconditionError(DomainError):
    """It is not, or no longer, what the request says that it must be."""

    kind = "precondition-failed"


class RequestError(DomainError):
    """The request cannot be carried out as it was sent; the sentence says what to send instead."""

    kind = "invalid-request"


class LeaseLostError(DomainError):
    """The job is no longer this worker's: its lease ran out or somebody else claimed the job."""

    kind = "lease-lost"


class CrashedError(DomainError):
    """The job's child process died each time it was tried."""

    kind = "worker-crashed"


class TooLargeError(DomainError):
    """An upload is larger than the settings allow."""

    kind = "too-large"


class StorageFullError(DomainError):
    """The disk has no room for what was sent."""

    kind = "storage-full"


class UnavailableError(DomainError):
    """The service cannot work at the moment; the same request may succeed later."""

    kind = "unavailable"


class UnsupportedMediaError(DomainError):
    """The body is of a type that the route does not take."""

    kind = "unsupported-media"


class NotAcceptableError(DomainError):
    """The answer does not exist in the format that the client asked for."""

    kind = "not-acceptable"


class UnauthorizedError(DomainError):
    """The API key is missing or wrong."""

    kind = "unauthorized"


class ForbiddenError(DomainError):
    """The request comes from where none may come from."""

    kind = "forbidden"
