"""Settings of a training, cross-validation splits, and what one epoch leaves behind."""

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, model_validator

from core.domain.dataset import CaseId
from core.domain.record import Record, SharedRecord

Fold = int | Literal["all"]
"""Which split of the cross-validation; `all` trains on every case."""


VALIDATION_SHARE = 5
"""One iteration of validation for so many of training: 50 for the default 250 (Engine specification B 1.1)."""


LossName = Literal["dice_ce", "ce", "dice", "topk", "dice_topk"]
"""Dice and cross-entropy together, either alone, or cross-entropy of the hardest tenth of the voxels."""

ScheduleName = Literal["polynomial", "cosine", "constant"]
"""How the learning rate falls, after a warm-up if there is one."""

OptimizerName = Literal["sgd", "adamw", "adam"]

AugmentationName = Literal["default", "strong", "none"]
"""What happens to patches; `strong` is the heavier pipeline that nnU-Net calls DA5."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class TrainingChoices(Record):
    """What may be chosen of a training beside its length.

    Losses and augmentations that packages add are named here too; whether a name exists is found out where
    they are loaded.

    Source:
        Engine specification B 1.1, B 5.
    """

    deterministic: StrictBool = False
    """Whether two runs on the same machine are equal to the last bit; on a GPU that costs time."""

    initial_learning_rate: Number = Field(default=0.01, gt=0)
    schedule: ScheduleName = "polynomial"
    warmup_epochs: StrictInt = Field(default=0, ge=0)
    """Epochs in which the learning rate rises to the initial one, before the schedule begins."""
    optimizer: OptimizerName = "sgd"
    """SGD has Nesterov momentum; AdamW has AMSGrad, as the published variants."""
    momentum: Number = Field(default=0.99, ge=0, lt=1)
    """Of SGD."""
    weight_decay: Number = Field(default=3e-5, ge=0)
    gradient_norm_limit: Number = Field(default=12.0, gt=0)
    early_stop_epochs: StrictInt | None = Field(default=None, ge=1)
    """Stop after so many epochs without a better smoothed pseudo Dice; None: never."""

    loss: str = "dice_ce"
    """A `LossName`, or the name of a loss that a package adds."""
    label_smoothing: Number = Field(default=0.0, ge=0, lt=1)
    """Share of a voxel's label that is spread over all labels, in the cross-entropy."""
    dice_smoothing: Number = Field(default=1e-5, ge=0)
    """Added above and below the fraction line of Dice."""
    deep_supervision: StrictBool = True
    """Whether the coarser outputs of the network are supervised too."""

    foreground_share: Number = Field(default=0.33, ge=0, le=1)
    """Share of each batch whose patch is centred on a foreground voxel."""
    foreground_is_drawn: StrictBool = False
    """Whether chance decides for each patch if it is one of them, instead of its place in the batch."""

    augmentation: str = "default"
    """An `AugmentationName`, or the name of an augmentation that a package adds."""
    mirror_axes: tuple[Annotated[StrictInt, Field(ge=0, le=2)], ...] | None = None
    """Axes of the network's patch along which training and prediction mirror; None: all, (): none."""
    swapped_labels: tuple[tuple[str, str], ...] = ()
    """Pairs of labels, left and right, that change places where a patch is mirrored along `swap_axis`."""
    swap_axis: StrictInt | None = Field(default=None, ge=0, le=2)
    """Axis of the network's patch that runs from left to right."""
    label_interpolation: Literal["linear", "nearest"] = "linear"
    """How labels are sampled where a patch is rotated or scaled: by vote of all neighbours, or the nearest."""
    dummy_2d: StrictBool | None = None
    """Whether patches are rotated slice by slice; None: as the patch size says."""


class TrainingSettings(TrainingChoices):
    """Everything that shapes a training and is not in the plan.

    Source:
        Engine specification B 1.1.
    """

    epochs: StrictInt = Field(default=1000, ge=1)
    iterations_per_epoch: StrictInt = Field(default=250, ge=1)
    validation_iterations_per_epoch: StrictInt = Field(default=50, ge=1)
    """A fifth of `iterations_per_epoch` where it is not given."""
    seed: StrictInt = Field(default=0, ge=0, lt=2**63)

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
