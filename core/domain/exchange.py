"""Models from elsewhere: what to take of them, where they came from, and what the official tools say of the best one."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError

from core.domain.plan import ConfigurationName
from core.domain.record import Record, SharedRecord, describe, parse_json
from core.domain.training import Fold
from core.errors import ModelError

ORIGIN_FILE: Final = "origin.json"
"""The record's name in the folder of a model that came from elsewhere."""

INFORMATION_FILE: Final = "inference_information.json"
"""What the official tools found to be the best, in a dataset's folder of results."""

CheckpointChoice = Literal["final", "best"]
"""Weights after the last epoch, or of the epoch with the best smoothed pseudo Dice."""

ExportFormat = Literal["official", "ours"]
"""For whom: the official tools, or an import by this software."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ImportOptions(Record):
    """What to take of what an archive holds."""

    configuration: ConfigurationName | None = None
    """Or the name of a model's folder. None: the only one, or what the official tools found to be the best."""
    folds: tuple[Fold, ...] | None = Field(default=None, min_length=1)
    """None: all."""
    checkpoint: CheckpointChoice = "final"


class ModelOrigin(Record):
    """origin.json: where an imported model came from."""

    version: Literal[1] = 1
    name: str
    """Of its folder there: trainer, plans and configuration."""
    trainer: str
    checkpoint: CheckpointChoice
    epochs: dict[str, int | None]
    """Trained, by fold."""
    sha256: dict[str, Sha256]
    """Of each fold's checkpoint."""


class ImportSummary(Record):
    """What was imported."""

    models: tuple[str, ...]
    """Configurations; several where it is an ensemble."""
    folds: tuple[Fold, ...]
    """Of the first of them."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


class SelectedModel(SharedRecord):
    """A model that the official tools chose."""

    configuration: str
    trainer: str
    plans_identifier: str

    @property
    def folder(self) -> str:
        """Return the name of its folder; Engine specification A 1.11."""
        return f"{self.trainer}__{self.plans_identifier}__{self.configuration}"


class Selection(SharedRecord):
    """What the official tools found to be the best."""

    selected_model_or_models: tuple[SelectedModel, ...] = Field(min_length=1, max_length=100)
    result_on_crossval_pre_pp: Any = None
    result_on_crossval_post_pp: Any = None


class InferenceInformation(SharedRecord):
    """inference_information.json of nnU-Net v2, as far as it is read.

    Source:
        Engine specification A 1.13.
    """

    best_model_or_ensemble: Selection
    folds: tuple[Fold, ...] = ()

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read the text of an inference_information.json.

        Raises:
            ModelError: It cannot be used.
        """
        try:
            return cls.model_validate(parse_json(text, INFORMATION_FILE, ModelError))
        except ValidationError as error:
            raise ModelError(f"{INFORMATION_FILE} cannot be used: {describe(error)}") from error
