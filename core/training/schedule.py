"""How the learning rate rises and falls over a training."""

from math import cos, pi

from core.domain.training import ScheduleName, TrainingSettings

EXPONENT = 0.9
"""Of the polynomial. Source: engine specification B 1.1."""


def learning_rate(epoch: int, settings: TrainingSettings) -> float:
    """Return the learning rate of one epoch.

    It depends on the epoch alone, so that a resumed training needs no memory of it.

    Args:
        epoch: Counted from 0.
        settings: Length of training and warm-up, schedule, initial rate.

    Source:
        Engine specification B 1.2, B 5 (warm-up, cosine).
    """
    initial, warmup = settings.initial_learning_rate, settings.warmup_epochs
    if epoch < warmup:
        return initial * (epoch + 1) / warmup
    remaining = max(settings.epochs - warmup, 1)
    return initial * share_of_rate((epoch - warmup) / remaining, settings.schedule)


def share_of_rate(progress: float, schedule: ScheduleName) -> float:
    """Return which share of the initial rate is left after a share of the training, warm-up not counted."""
    if schedule == "polynomial":
        return float((1 - progress) ** EXPONENT)
    return (1 + cos(pi * progress)) / 2 if schedule == "cosine" else 1.0
