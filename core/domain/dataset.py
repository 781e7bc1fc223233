"""What a dataset says of itself (dataset.json), and what can be wrong with it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Final, Self, TypeGuard

from pydantic import BeforeValidator, Field, StrictInt, StrictStr, ValidationError, model_validator
from pydantic_core import ErrorDetails

from core.domain.labels import LabelSet, label_set
from core.domain.record import Record, SharedRecord, parse_json
from core.errors import DatasetError

CaseId = str
"""Identifies one patient image set within its dataset; file names derive from it."""

ENTRIES: Final[Mapping[str, str]] = {
    "channel_names": 'one name per channel, such as {"0": "CT"}',
    "labels": 'name and number of background and of each label, such as {"background": 0, "tumor": 1}',
    "numTraining": "the number of training cases, a whole number without quotes",
    "file_ending": 'the ending of all files with its dot, such as ".nii.gz"',
    "regions_class_order": "one whole number per region, such as [1, 2]",
    "overwrite_image_reader_writer": 'the name of a reader, such as "SimpleITKIO"',
    "dataset": 'for each case {"images": [one path per channel], "label": path}',
}
"""What belongs under each key that is read; Engine specification A 1.3."""

STAND_INS: Final[Mapping[str, Any]] = {
    "channel_names": {"0": ""},
    "labels": {"background": 0, "foreground": 1},
    "numTraining": 0,
    "file_ending": ".nii.gz",
}
"""In place of required entries that cannot be used, while the others are checked; also all that are required."""

MOST_CASES: Final = 1_000_000_000
"""Of a dataset."""

SHOWN_CHARACTERS: Final = 60
"""Of a value that is quoted in a sentence."""


class DatasetProblem(Record):
    """One thing that is wrong with one case, or with the dataset as a whole."""

    case: CaseId | None
    kind: str
    """Stable slug, listed in docs/problems.md."""
    message: str
    """What is wrong and how to mend it, with numbers."""


class ListedCase(SharedRecord):
    """Paths of one case, where dataset.json lists files instead of following the folder layout."""

    images: tuple[StrictStr, ...] = Field(min_length=1)
    label: StrictStr


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
    training_cases: StrictInt = Field(alias="numTraining", ge=0, le=MOST_CASES)
    file_ending: StrictStr = Field(pattern=r"^\.[A-Za-z0-9.]{1,15}$")
    regions_class_order: tuple[StrictInt, ...] | None = None
    overwrite_image_reader_writer: StrictStr | None = None
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
            DatasetError: It is no JSON object, or keys are missing or of the wrong type; all are named, and
                labels of nnU-Net v1 and the Decathlon are told how to be written.
        """
        values, mistakes = _corrected(text)
        try:
            description = cls.model_validate(values)
        except ValidationError as error:
            mistakes += _mistakes(error)
        if mistakes:
            raise DatasetError("; ".join(mistake.message for mistake in mistakes))
        return description

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


@dataclass(frozen=True, slots=True)
class Draft:
    """A dataset.json as far as it can be used, so that its mistakes do not hide those of the files."""

    description: DatasetDescription | None
    """None unless all of it can be used."""
    mistakes: tuple[DatasetProblem, ...]
    channel_names: Mapping[str, str] | None = None
    """None where the entry is missing or unusable; likewise below."""
    labels: Mapping[str, int | tuple[int, ...]] | None = None
    class_order: tuple[int, ...] | None = None
    training_cases: int | None = None
    file_ending: str | None = None
    reader: str | None = None
    listed: Mapping[CaseId, ListedCase] | None = None
    """The cases whose entries can be used, where dataset.json lists them."""


def read_draft(text: str | bytes) -> Draft:
    """Read as much of a dataset.json as can be used.

    Raises:
        DatasetError: It is no JSON object.
    """
    values, mistakes = _corrected(text)
    try:
        whole = DatasetDescription.model_validate(values)
    except ValidationError as error:
        mistakes += _mistakes(error)
        usable, unusable = _salvaged(values, error)
    else:
        usable, unusable = whole, frozenset[str]()

    def unless_unusable(key: str, value: Any) -> Any:
        return None if key in unusable else value

    return Draft(
        description=None if mistakes else usable,
        mistakes=tuple(mistakes),
        channel_names=unless_unusable("channel_names", usable.channel_names),
        labels=unless_unusable("labels", usable.labels),
        class_order=usable.regions_class_order,
        training_cases=unless_unusable("numTraining", usable.training_cases),
        file_ending=unless_unusable("file_ending", usable.file_ending),
        reader=usable.reader,
        listed=usable.dataset,
    )


def invalid_dataset(message: str, case: CaseId | None = None) -> DatasetProblem:
    """Describe a mistake in dataset.json or in the layout of the folder."""
    return DatasetProblem(case=case, kind=DatasetError.kind, message=message)


def _corrected(text: str | bytes) -> tuple[dict[str, Any], list[DatasetProblem]]:
    """Parse the JSON; what can be understood in spite of a mistake is put right, and the mistake noted.

    Raises:
        DatasetError: It is no JSON object.
    """
    values = parse_json(text, "dataset.json", DatasetError)
    mistakes = [invalid_dataset(message) for message in _json_mistakes(text)]
    labels = values.get("labels")
    if _is_inverted(labels):
        swapped = {name: int(value) for value, name in labels.items()}
        mistakes.append(
            invalid_dataset(
                "dataset.json lists labels as number and name, as nnU-Net v1 and the Decathlon do; write "
                f'"labels": {json.dumps(swapped, ensure_ascii=False)}, or let `python -m core convert` write the dataset anew'
            )
        )
        values = {**values, "labels": swapped}
    return values, mistakes


def _is_inverted(labels: object) -> TypeGuard[dict[str, str]]:
    """Return whether labels go from number to name instead of from name to number."""
    return (
        isinstance(labels, dict)
        and bool(labels)
        and all(key.isdecimal() and isinstance(name, str) for key, name in labels.items())
    )


def _json_mistakes(text: str | bytes) -> Iterator[str]:
    """Point at what Python's parser lets pass: names given twice, of which one is lost, and NaN."""
    twice: dict[str, None] = {}
    constants: dict[str, None] = {}

    def collect(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        twice.update({name: None for name, count in Counter(name for name, _ in pairs).items() if count > 1})
        return dict(pairs)

    if isinstance(text, str):
        text = text.removeprefix("\ufeff")  # As `parse_json` does.
    json.loads(text, object_pairs_hook=collect, parse_constant=lambda name: constants.update({name: None}))
    for name in twice:
        yield f"dataset.json has {_quoted(name)} twice in one place, and only the last counts; remove one"
    for name in constants:
        yield f"dataset.json holds {name}, which is no JSON and which other programs refuse; write null or a number"


def _salvaged(values: dict[str, Any], error: ValidationError) -> tuple[DatasetDescription, frozenset[str]]:
    """Return what can be used, with stand-ins for the rest, and the keys of the rest."""
    places = [item["loc"] for item in error.errors()]
    listed = values.get("dataset")
    usable = dict(values)
    if isinstance(listed, dict) and all(len(place) > 1 for place in places if place[0] == "dataset"):
        bad_cases = {place[1] for place in places if place[0] == "dataset"}
        usable["dataset"] = {case: entry for case, entry in listed.items() if case not in bad_cases}
        places = [place for place in places if place[0] != "dataset"]
    unusable = frozenset(str(place[0]) for place in places)
    for key in unusable:
        usable.pop(key, None)
        if key in STAND_INS:
            usable[key] = STAND_INS[key]
    names, ending = values.get("channel_names", values.get("modality")), values.get("file_ending")
    if isinstance(names, dict) and names:  # Names may be wrong, but channels can be counted.
        usable["channel_names"] = {key: str(name) for key, name in names.items()}
        unusable -= {"channel_names"}
    if isinstance(ending, str) and ending.replace(".", "").isalnum() and not ending.startswith("."):
        usable["file_ending"] = f".{ending}"
        unusable -= {"file_ending"}
    return DatasetDescription.model_validate(usable), unusable


def _mistakes(error: ValidationError) -> list[DatasetProblem]:
    """Put what pydantic found into sentences with cures, one per entry; all missing keys share one."""
    items = error.errors(include_url=False)
    missing = [str(item["loc"][0]) for item in items if item["type"] == "missing" and len(item["loc"]) == 1]
    problems = [_missing_keys(missing, items)] if missing else []
    seen: set[tuple[str, ...]] = set()
    for item in items:
        place = tuple(str(part) for part in item["loc"])
        place = place if place[0] == "dataset" else place[:2]  # What follows names the type that was tried.
        if place not in seen and place[0] not in missing:
            seen.add(place)
            problems.append(_wrong_entry(place, item))
    return problems


def _missing_keys(missing: Sequence[str], items: Sequence[ErrorDetails]) -> DatasetProblem:
    """Name all required keys that are not there, and misspelled ones that may be meant."""
    there = next((list(item["input"]) for item in items if isinstance(item["input"], dict)), [])
    alike = {key: get_close_matches(key, set(there) - set(ENTRIES), 1) for key in missing}
    wanted = "; ".join(
        f'"{key}": {ENTRIES[key]}' + (f" (is {_quoted(alike[key][0])} meant?)" if alike[key] else "")
        for key in missing
    )
    return invalid_dataset(f"dataset.json lacks {', '.join(missing)}; add {wanted}")


def _wrong_entry(place: tuple[str, ...], item: ErrorDetails) -> DatasetProblem:
    """Say what an entry is and what it should be."""
    key, name = place[0], ".".join(place)
    case = place[1] if key == "dataset" and len(place) > 1 else None
    if item["type"] == "missing":
        found = f"{'.'.join(place[:-1])} lacks {place[-1]}"
    elif item["type"] == "too_short":
        found = f"{name} has too few entries: {_quoted(item['input'])}"
    else:
        found = f"{name} is {_quoted(item['input'])}"
    return invalid_dataset(f"dataset.json: {found}; write {ENTRIES.get(key, 'something else')}", case)


def _quoted(value: object) -> str:
    """Write a value as JSON does, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
