"""How a training comes along, from what its epochs measured: the moving average, the best epoch, when to stop."""

from collections.abc import Sequence

from core.domain.training import EpochRecord, TrainingSettings

SMOOTHING = 0.9
"""Share of the previous value in the moving average of pseudo Dice. Source: engine specification B 1.1."""


def smoothed(previous: float | None, new: float | None) -> float | None:
    """Return the moving average of pseudo Dice; an epoch without a value leaves it as it was.

    Source:
        Engine specification B 1.10, Q3.
    """
    if previous is None or new is None:
        return previous if new is None else new
    return SMOOTHING * previous + (1 - SMOOTHING) * new


def best_epoch(epochs: Sequence[EpochRecord]) -> int | None:
    """Return the number of the first epoch with the highest smoothed pseudo Dice; None where none has one.

    Source:
        Engine specification B 1.10: strictly greater than the best so far.
    """
    measured = [record for record in epochs if record.smoothed_pseudo_dice is not None]
    return max(measured, key=lambda record: record.smoothed_pseudo_dice or 0).epoch if measured else None


def has_ended(epochs: Sequence[EpochRecord], settings: TrainingSettings) -> bool:
    """Return whether a training has all its epochs, or so many without a better one that it is to stop."""
    if len(epochs) >= settings.epochs:
        return True
    best = best_epoch(epochs)
    patience = settings.early_stop_epochs
    return patience is not None and best is not None and len(epochs) - 1 - best >= patience
