"""Settings of a training, cross-validation splits, and what one epoch leaves behind."""

from typing import Any, Literal

from pydantic import Field, model_validator

from core.domain.dataset import CaseId
from core.domain.record import Record, SharedRecord

Fold = int | Literal["all"]
"""Which split of the cross-validation; `all` trains on every case."""


VALIDATION_SHARE = 5
"""One iteration of validation for so many of training: 50 for the default 250 (Engine specification B 1.1)."""


class TrainingSettings(Record):
    """Everything that shapes a training and is not in the plan.

    Source:
        Engine specification B 1.1.
    """

    epochs: int = Field(default=1000, ge=1)
    iterations_per_epoch: int = Field(default=250, ge=1)
    validation_iterations_per_epoch: int = Field(default=50, ge=1)
    """A fifth of `iterations_per_epoch` where it is not given."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    initial_learning_rate: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(default=3e-5, ge=0)
    gradient_norm_limit: float = Field(default=12.0, gt=0)
    foreground_share: float = Field(default=0.33, ge=0, le=1)
    """Share of each batch whose patch is centred on a foreground voxel."""

    @model_validator(mode="before")
    @classmethod
    def _validate_in_proportion(cls, values: Any) -> Any:
        """Let validation shrink with the epoch, so that a short training is not mostly validation."""
        if isinstance(values, dict) and "validation_iterations_per_epoch" not in values:
            iterations = values.get("iterations_per_epoch")
            if isinstance(iterations, int):
                return {
                    **values,
                    "validation_iterations_per_epoch": max(1, iterations // VALIDATION_SHARE),
                }
        return values


class Split(SharedRecord):
    """One fold: which cases train and which validate."""

    train: tuple[CaseId, ...] = Field(min_length=1)
    val: tuple[CaseId, ...]


class EpochRecord(Record):
    """What one epoch measured; `epoch` counts from 0."""

    epoch: int = Field(ge=0)
    train_loss: float
    validation_loss: float | None
    """None where the epoch validated nothing that can be measured."""
    pseudo_dice: dict[str, float | None]
    """Per foreground label or region name; None where the class occurred nowhere."""
    mean_pseudo_dice: float | None
    smoothed_pseudo_dice: float | None
    """Moving average, 0.9 of the previous value and 0.1 of this epoch's."""
    learning_rate: float
    seconds: float
