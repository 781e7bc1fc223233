"""Which configuration or ensemble segments best, by how much, and why (selection.json)."""

from typing import Final, Literal, Self

from pydantic import Field, ValidationError

from core.domain.postprocessing import LabelGroup
from core.domain.record import Record, describe, parse_json
from core.domain.training import Fold
from core.errors import ModelError

SELECTION_FILE: Final = "selection.json"
"""The record's name in the folder of what was chosen."""

SELECTION_VERSION: Final = 1
"""Version of selection.json that this code writes, and the newest that it reads."""


class Candidate(Record):
    """A model, or several whose probabilities are averaged, and how well that segments the validation cases."""

    members: tuple[str, ...] = Field(min_length=1)
    """Names of models."""
    dice: float | None
    """Mean over cases, then over labels or regions; null where no case has any of them."""

    @property
    def name(self) -> str:
        """What it is called in a sentence."""
        return " + ".join(self.members)


class PostprocessingTrial(Record):
    """What keeping only the largest component of some labels did."""

    keep_largest: LabelGroup
    scored: str
    """What the two figures are of: `foreground_mean`, or the key of a label or region."""
    before: float | None
    after: float | None
    accepted: bool


class Selection(Record):
    """selection.json."""

    version: Literal[1] = 1
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    """In the order in which they were compared: single models first."""
    winner: tuple[str, ...]
    """Members of the best."""
    folds: tuple[Fold, ...]
    """Whose validation cases were compared."""
    cases: int
    dice: float | None
    """Of the winner: the mean over labels or regions."""
    dice_postprocessed: float | None
    trials: tuple[PostprocessingTrial, ...] = ()
    """How its postprocessing was determined."""
    reason: str
    """Why it was chosen, in one sentence."""
    notes: tuple[str, ...] = ()
    """What else the user should know."""

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read the text of a selection.json.

        Raises:
            ModelError: It cannot be used, or a newer version of this software wrote it.
        """
        values = parse_json(text, SELECTION_FILE, ModelError)
        version = values.get("version")
        if isinstance(version, int) and version > SELECTION_VERSION:
            raise ModelError(
                f"{SELECTION_FILE} has version {version}, this software reads up to {SELECTION_VERSION}; update it"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ModelError(f"{SELECTION_FILE} cannot be used: {describe(error)}") from error
