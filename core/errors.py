"""Every error that the engine raises on purpose; it knows no status codes."""

from typing import ClassVar

from pydantic import JsonValue


class DomainError(Exception):
    """Something that the user can understand and mend.

    Args:
        message: One sentence: what is wrong, with which case, and what to do.
        context: JSON values that a program can use (case, path inside an archive, numbers).
    """

    kind: ClassVar[str] = "error"
    """Stable slug, listed in docs/problems.md."""

    def __init__(self, message: str, **context: JsonValue) -> None:
        super().__init__(message)
        self.message = message
        self.context = context


class ArchiveError(DomainError):
    """An archive is damaged, hostile or too large."""

    kind = "invalid-archive"


class DatasetError(DomainError):
    """A dataset folder or its dataset.json cannot be used as it is."""

    kind = "invalid-dataset"


class ImageError(DomainError):
    """An image file cannot be read, or does not fit what is asked of it."""

    kind = "unreadable-image"


class LabelsError(DomainError):
    """The labels that a dataset declares contradict each other."""

    kind = "invalid-labels"


class PlanningError(DomainError):
    """No plan can be made from this fingerprint."""

    kind = "planning-failed"


class PlanError(DomainError):
    """A plans.json asks for something that does not exist or contradicts itself."""

    kind = "invalid-plan"


class UnknownNameError(DomainError):
    """A plan or a setting names something that no registry holds."""

    kind = "unknown-name"


class ExtensionError(DomainError):
    """A package that adds something cannot be loaded, adds something else, or takes a name that is taken."""

    kind = "invalid-extension"


class DeviceError(DomainError):
    """This machine has no such device, or the device no such number format."""

    kind = "no-such-device"


class TrainingError(DomainError):
    """A training cannot start or go on."""

    kind = "training-failed"


class ModelError(DomainError):
    """A trained model is incomplete or does not fit the request."""

    kind = "invalid-model"


class CancelledError(DomainError):
    """The caller asked to stop; everything finished so far is on disk."""

    kind = "canceled"
