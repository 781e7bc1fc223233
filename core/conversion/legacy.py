"""dataset.json of nnU-Net v1 and of the Medical Segmentation Decathlon, turned into that of nnU-Net v2."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from core.domain.conversion import Layout
from core.domain.dataset import DatasetDescription, DatasetProblem
from core.domain.labels import BACKGROUND
from core.domain.problems import problem
from core.domain.record import describe, parse_json
from core.errors import DatasetError
from core.io.cases import DESCRIPTION_FILE, description_text

DROPPED_KEYS: Final = {
    Layout.DECATHLON: frozenset({"training", "test", "dataset"}),
    Layout.V1: frozenset({"training", "test", "dataset", "tensorImageSize", "numTest"}),
}
"""What has no meaning any more once the files have their new names; Engine specification A 1.3, B 11."""

LONGEST_NUMBER: Final = 6
"""Digits of a label; label files hold at most 65535."""

SHOWN: Final = 60
"""Letters that a sentence quotes of what a stranger wrote."""

NOTE_KINDS: Final[Mapping[str, str]] = {
    "background-label": "Label 0 was not declared, or not named background.",
    "unlisted-case": "A complete case is not listed under training.",
}
"""What conversion points at, by kind; the dataset is converted nevertheless."""


def read_values(folder: Path) -> dict[str, Any]:
    """Read dataset.json of whatever layout.

    Raises:
        DatasetError: There is no such folder or file, or it is no JSON object that can be written again.
    """
    text = description_text(folder)
    values = parse_json(text, DESCRIPTION_FILE, DatasetError)
    twice: dict[str, None] = {}

    def collect(pairs: list[tuple[str, Any]]) -> None:
        names = Counter(name for name, _ in pairs)
        twice.update({name: None for name, count in names.items() if count > 1})

    json.loads(text, object_pairs_hook=collect)
    if twice:
        raise DatasetError(
            f"dataset.json has {', '.join(map(_shown, twice))} twice in one place, and only the last would count; "
            "remove one, or give each label its own number"
        )
    try:
        json.dumps(values, indent=4, allow_nan=False)
    except (ValueError, RecursionError) as reason:
        raise DatasetError(
            "dataset.json holds NaN, Infinity or too many brackets within brackets; take them out"
        ) from reason
    return values


def is_v2(values: Mapping[str, Any]) -> bool:
    """Return whether dataset.json is written as nnU-Net v2 has it, be it complete or not."""
    labels = values.get("labels")
    return "file_ending" in values and isinstance(labels, dict) and not _is_numbered(labels)


def is_older(values: Mapping[str, Any]) -> bool:
    """Return whether dataset.json is written as nnU-Net v1 or the Decathlon have it.

    Inverted labels are enough: many datasets were brought to nnU-Net v2 but for them.
    """
    labels = values.get("labels")
    if isinstance(labels, dict) and _is_numbered(labels):
        return True
    return "file_ending" not in values and ("modality" in values or isinstance(values.get("training"), list))


def convert_values(
    values: Mapping[str, Any], layout: Layout, ending: str
) -> tuple[dict[str, Any], tuple[DatasetProblem, ...]]:
    """Turn dataset.json into that of nnU-Net v2.

    Name, description, reference, licence, release and whatever else there is stay as they are.

    Args:
        values: As the older layout has them.
        layout: Which one.
        ending: Of the files.

    Returns:
        The values of nnU-Net v2, `numTraining` still to be counted, and notes.

    Raises:
        DatasetError: Labels or channels cannot be understood; the sentence says which and what to write.

    Source:
        Engine specification A 1.3, B 11.1 and 11.2.
    """
    labels, notes = convert_labels(values.get("labels"))
    converted: dict[str, Any] = {}
    for key, value in values.items():
        if key == "labels":
            converted[key] = labels
        elif key == "modality":
            converted.setdefault("channel_names", values.get("channel_names", value))
        elif key not in DROPPED_KEYS[layout]:
            converted[key] = value
    converted |= {"numTraining": 0, "file_ending": ending}
    try:
        DatasetDescription.model_validate(converted)
    except ValidationError as error:
        raise DatasetError(f"dataset.json cannot be converted: {describe(error)}") from error
    return converted, notes


def convert_labels(labels: object) -> tuple[dict[str, int], tuple[DatasetProblem, ...]]:
    """Turn labels, listed as number and name, into name and number; those already so listed stay.

    Label 0 is background in nnU-Net v2: it gets that name if it has another one, and is added if it is not
    declared. Numbers stay what they are, because label files are full of them. Regions, several numbers
    under one name, are unknown to the older layouts.

    Returns:
        Name to number, in the order of the file, and notes.

    Raises:
        DatasetError: A number is none, or a number or name comes twice.
    """
    if not isinstance(labels, dict) or not labels:
        raise DatasetError(
            'dataset.json has no labels; list number and name, as "labels": {"0": "background", "1": "liver"}'
        )
    if all(type(value) is int for value in labels.values()):
        return _with_background(dict(labels))
    found: dict[str, int] = {}
    numbers: set[int] = set()
    for key, name in labels.items():
        number = _number(key)
        if not isinstance(name, str) or not name.strip():
            raise DatasetError(
                f"dataset.json: label {number} has no single name, but {_shown(name)}; give it one (regions can "
                "be declared in the converted dataset.json)"
            )
        if name in found or number in numbers:
            what = f"the name {_shown(name)}" if name in found else f"the number {number}"
            raise DatasetError(
                f"dataset.json: two labels have {what}; give each its own, or merge them in the label files "
                "and in dataset.json"
            )
        found[name] = number
        numbers.add(number)
    return _with_background(found)


def _is_numbered(labels: Mapping[str, object]) -> bool:
    """Return whether labels are listed as number and name."""
    return bool(labels) and all(key.isdecimal() for key in labels) and _are_names(labels)


def _are_names(labels: Mapping[str, object]) -> bool:
    return any(isinstance(name, str) for name in labels.values())


def _number(key: str) -> int:
    """Read the number of a label."""
    if not (key.isascii() and key.isdecimal() and len(key) <= LONGEST_NUMBER):
        raise DatasetError(
            f'dataset.json: label {_shown(key)} is no number; list labels as number and name, as "1": "liver"'
        )
    return int(key)


def _with_background(found: dict[str, int]) -> tuple[dict[str, int], tuple[DatasetProblem, ...]]:
    """Name label 0 background, and say so where it had another name or none."""
    if found.get("background", BACKGROUND) != BACKGROUND:
        raise DatasetError(
            f"dataset.json: label {found['background']} is named background, but background is 0; rename it, or "
            "exchange the two in the label files"
        )
    name = next((name for name, number in found.items() if number == BACKGROUND), None)
    if name == "background":
        return found, ()
    if name is None:
        note = "label 0 was not declared; it is background"
        return {"background": BACKGROUND, **found}, (problem(None, "background-label", note),)
    note = f"label 0 was named {_shown(name)}; it is background, and named so"
    renamed = {("background" if number == BACKGROUND else key): number for key, number in found.items()}
    return renamed, (problem(None, "background-label", note),)


def _shown(value: object) -> str:
    """Quote what a stranger wrote, and no more of it than fits into a sentence."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
