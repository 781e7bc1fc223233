"""What a trained-model folder says of itself (model.json), and how it is to be applied to an image."""

from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from core.domain.dataset import CaseId
from core.domain.plan import ConfigurationName
from core.domain.pretraining import WeightsSource
from core.domain.record import Record, describe, parse_json
from core.domain.training import Fold, TrainingSettings
from core.errors import ModelError

MODEL_FILE = "model.json"
"""The record's name in the folder of a trained model."""

WEIGHTS_FILE = "weights.safetensors"
"""The weights' name in the folder of a fold."""

BEST_WEIGHTS_FILE = "weights_best.safetensors"
"""The weights of the epoch with the highest smoothed pseudo Dice, beside those of the last one."""

FOLD_FILE = "fold.json"
"""What is known of a fold's training, beside its weights."""

PREVIOUS_FOLDER = "previous"
"""In the folder of a cascade's later stage, a whole model folder: that of the stage before."""

CHECKPOINT_FILE = "checkpoint.safetensors"
"""State of a training after its last finished epoch, in the folder of its fold; never changed, only replaced."""

EPOCHS_FILE = "epochs.jsonl"
"""One epoch record per line, beside a fold's weights."""

MODEL_VERSION = 1
"""Version of model.json that this code writes, and the newest that it reads."""


PrecisionName = Literal["fp32", "bf16", "fp16"]
"""Number format in which the network computes."""


class ModelRecord(Record):
    """model.json: what of a trained model is neither in the plan nor in the weights."""

    version: Literal[1] = 1
    configuration: ConfigurationName
    """The one configuration that this folder holds."""
    mirror_axes: tuple[int, ...] = ()
    """Axes of the patch along which training mirrored, so that prediction may too."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """How it was trained; empty for a model from elsewhere."""

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read the text of a model.json.

        Raises:
            ModelError: It cannot be used, or a newer version of this software wrote it.
        """
        values = parse_json(text, MODEL_FILE, ModelError)
        version = values.get("version")
        if isinstance(version, int) and version > MODEL_VERSION:
            raise ModelError(
                f"{MODEL_FILE} has version {version}, this software reads up to {MODEL_VERSION}; update it"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ModelError(f"{MODEL_FILE} cannot be used: {describe(error)}") from error


class FoldRecord(Record):
    """fold.json: how the weights beside it came about."""

    version: Literal[1] = 1
    training_cases: tuple[CaseId, ...]
    validation_cases: tuple[CaseId, ...]
    settings: TrainingSettings
    precision: PrecisionName
    """Number format in which the network was trained; the weights are float32."""
    device: str
    """Kind of device: cpu, cuda."""
    torch_version: str
    smoothed_pseudo_dice: float | None
    """Of the last epoch."""
    epochs: int | None = None
    """How many were trained: fewer than the settings say if the training stopped early."""
    best_epoch: int | None = None
    """The one whose weights are kept beside the last ones."""
    pretrained: WeightsSource | None = None
    """Which weights it began with, if not with drawn ones; pretrained.json beside it names the tensors."""


def fold_name(fold: Fold) -> str:
    """Name the folder of a fold: `fold_0`, `fold_all`."""
    return f"fold_{fold}"


class PredictionOptions(Record):
    """Everything that shapes a prediction and is not in the model.

    Source:
        Engine specification B 6.2.
    """

    folds: tuple[Fold, ...] | None = Field(default=None, min_length=1)
    """Whose logits are averaged; None: every fold of the model."""
    step_size: float = Field(default=0.5, gt=0, le=1)
    """Distance of neighbouring tiles, as a share of the patch."""
    mirroring: bool = True
    """Whether to average over mirrored images, along the axes that the model allows."""
    gaussian: bool = True
    """Whether a tile counts most at its centre."""
    postprocessing: bool = True
    """Whether to remove what the model's postprocessing.json says."""
    precision: PrecisionName | Literal["auto"] = "auto"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")
