"""How the learning rate falls over a training."""

EXPONENT = 0.9
"""Of the polynomial. Source: engine specification B 1.1."""


def learning_rate(epoch: int, epochs: int, initial: float) -> float:
    """Return the learning rate of one epoch.

    It depends on the epoch alone, so that a resumed training needs no memory of it.

    Args:
        epoch: Counted from 0.
        epochs: Of the whole training.
        initial: Learning rate of epoch 0.

    Source:
        Engine specification B 1.2.
    """
    rate: float = initial * (1 - epoch / epochs) ** EXPONENT
    return rate
