"""Which file of the nnU-Net family a JSON value seems to be, by entries that only that file has."""

from collections.abc import Mapping
from typing import Final

MARKS: Final[Mapping[str, frozenset[str]]] = {
    "dataset.json": frozenset({"labels", "numTraining"}),
    "dataset_fingerprint.json": frozenset({"spacings", "shapes_after_crop"}),
    "plans.json": frozenset({"configurations", "transpose_forward"}),
    "model.json": frozenset({"configuration", "mirror_axes"}),
    "summary.json": frozenset({"metric_per_case", "mean"}),
}
"""Entries by which a file is told."""

SPLITS_MARKS: Final = frozenset({"train", "val"})
"""Entries of each item of splits_final.json, which is a list."""


def kind_of(value: object) -> str | None:
    """Return the usual name of the file that holds such a value; None where it is told by nothing."""
    if isinstance(value, list):
        are_splits = bool(value) and all(
            isinstance(one, dict) and one.keys() >= SPLITS_MARKS for one in value
        )
        return "splits_final.json" if are_splits else None
    if not isinstance(value, dict):
        return None
    return next((name for name, marks in MARKS.items() if value.keys() >= marks), None)


def mistaken_for(value: object, wanted: str) -> str | None:
    """Return the name of the file that a value seems to be, if it has nothing of the one that is wanted."""
    found = kind_of(value)
    marks = MARKS.get(wanted, frozenset())
    if found is None or found == wanted or (isinstance(value, dict) and value.keys() & marks):
        return None
    return found
