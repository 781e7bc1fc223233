"""What the folder of an ensemble says of itself (ensemble.json): which models are averaged."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator

from core.domain.record import Record, describe, parse_json
from core.errors import ModelError

ENSEMBLE_FILE: Final = "ensemble.json"
"""The record's name in the folder of an ensemble."""

MEMBERS_FOLDER: Final = "members"
"""Beside it: a whole model folder per member."""

ENSEMBLE_VERSION: Final = 1
"""Version of ensemble.json that this code writes, and the newest that it reads."""

MemberName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
"""Of the folder of a member."""


class EnsembleRecord(Record):
    """ensemble.json: the members whose probabilities are averaged, in this order."""

    version: Literal[1] = 1
    members: tuple[MemberName, ...] = Field(min_length=1, max_length=100)

    @field_validator("members")
    @classmethod
    def _each_once(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(members)) != len(members):
            raise ValueError("each must be named once")
        return members

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read the text of an ensemble.json.

        Raises:
            ModelError: It cannot be used, or a newer version of this software wrote it.
        """
        values = parse_json(text, ENSEMBLE_FILE, ModelError)
        version = values.get("version")
        if isinstance(version, int) and version > ENSEMBLE_VERSION:
            raise ModelError(
                f"{ENSEMBLE_FILE} has version {version}, this software reads up to {ENSEMBLE_VERSION}; update it"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ModelError(f"{ENSEMBLE_FILE} cannot be used: {describe(error)}") from error
