"""What a dataset says of itself (dataset.json), and what can be wrong with it."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, StrictInt, StrictStr, ValidationError, model_validator

from core.domain.labels import LabelSet, label_set
from core.domain.record import Record, SharedRecord, describe, parse_json
from core.errors import DatasetError

CaseId = str
"""Identifies one patient image set within its dataset; file names derive from it."""


class DatasetProblem(Record):
    """One thing that is wrong with one case, or with the dataset as a whole."""

    case: CaseId | None
    kind: str
    """Stable slug, listed in docs/problems.md."""
    message: str
    """What is wrong and how to mend it, with numbers."""


class ListedCase(SharedRecord):
    """Paths of one case, where dataset.json lists files instead of following the folder layout."""

    images: tuple[str, ...]
    label: str


def _channel_keys_as_numbers(names: object) -> object:
    """Order channels by their number; the file's order of keys is an accident of who wrote it."""
    if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
        return {str(key): names[key] for key in sorted(names, key=int)}
    return names


class DatasetDescription(SharedRecord):
    """dataset.json of nnU-Net v2.

    Source:
        Engine specification A 1.3. The older key `modality` stands for `channel_names`.
    """

    channel_names: Annotated[dict[str, StrictStr], BeforeValidator(_channel_keys_as_numbers)] = Field(
        min_length=1
    )
    labels: dict[str, StrictInt | tuple[StrictInt, ...]] = Field(min_length=2)
    training_cases: StrictInt = Field(alias="numTraining", ge=0)
    file_ending: StrictStr = Field(pattern=r"^\.[A-Za-z0-9.]{1,15}$")
    regions_class_order: tuple[StrictInt, ...] | None = None
    overwrite_image_reader_writer: str | None = None
    dataset: dict[str, ListedCase] | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_modality(cls, values: Any) -> Any:
        if isinstance(values, dict) and "channel_names" not in values and "modality" in values:
            return {("channel_names" if key == "modality" else key): value for key, value in values.items()}
        return values

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read the text of a dataset.json.

        Raises:
            DatasetError: It is no JSON object, or keys are missing or of the wrong type; all are named.
        """
        values = parse_json(text, "dataset.json", DatasetError)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DatasetError(f"dataset.json cannot be used: {describe(error)}") from error

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names, by channel number."""
        return tuple(self.channel_names.values())

    @property
    def reader(self) -> str | None:
        """The reader that the dataset insists on, if it does."""
        name = self.overwrite_image_reader_writer
        return None if name in (None, "None") else name

    def label_set(self) -> LabelSet:
        """Return the labels, checked.

        Raises:
            LabelsError: The declaration contradicts itself.
        """
        return label_set(self.labels, self.regions_class_order)
