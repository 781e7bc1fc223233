"""The kinds of what can be wrong or odd with a dataset, and how sentences about it are put together."""

from collections.abc import Mapping, Sequence
from typing import Final

from core.domain.dataset import CaseId, DatasetProblem

PROBLEM_KINDS: Final[Mapping[str, str]] = {
    "invalid-dataset": "dataset.json or a folder is missing, or dataset.json cannot be read or lacks entries.",
    "invalid-labels": "The labels that dataset.json declares contradict each other.",
    "invalid-splits": "splits_final.json cannot be read, or names cases that do not exist.",
    "unknown-name": "dataset.json names a reader that does not exist, or that cannot read the images.",
    "no-cases": "imagesTr holds no image whose name follows CASE_0000 and the file ending.",
    "case-count": "numTraining in dataset.json is not the number of cases found.",
    "file-name": "A file's name does not follow CASE_0000.ending for images, CASE.ending for labels.",
    "file-ending": "A file has another ending than dataset.json says, or one that nothing can read.",
    "file-outside": "dataset.json lists a file that lies outside the dataset, where that is not allowed.",
    "not-a-file": "A folder, a broken link or something else stands where a file should be.",
    "missing-file": "dataset.json lists a file that does not exist.",
    "ambiguous-case": "Two case identifiers differ only in upper and lower case, or in how letters are coded.",
    "missing-channel": "A case lacks the file of a channel.",
    "channel-count": "A case has more or fewer channels than dataset.json names.",
    "missing-label": "A case has no label file.",
    "missing-image": "A label file has no image.",
    "unreadable-image": "An image file is damaged, not supported, or has voxels that are not finite.",
    "unreadable-label": "A label file is damaged, not supported, or has values that are no integers.",
    "channel-geometry": "Channels of a case lie on different grids.",
    "label-geometry": "A label file lies on another grid than its image.",
    "undeclared-label": "A label file has values that dataset.json does not declare.",
    "no-foreground": "No label file of the dataset marks anything.",
}
"""Why a dataset cannot be used, by kind."""

NOTE_KINDS: Final[Mapping[str, str]] = {
    "channel-names": "channel_names is not numbered 0, 1, 2, …, so its order decides which name is which channel.",
    "label-names": "A label is called Ignore or so; only the exact name ignore has a meaning.",
    "region-order": "Painting regions in the declared order does not give back the labels.",
    "few-cases": "There are fewer cases than parts of the cross-validation.",
    "stray-file": "A folder holds files that are no images; they are left out.",
    "listed-twice": "dataset.json lists a file more than once.",
    "test-image": "A test image has a problem of the kinds above; training does not read it.",
    "empty-reference": "A label file marks nothing.",
    "unused-label": "A declared label occurs in no case.",
    "constant-image": "A channel has the same value everywhere.",
    "duplicate-channel": "Two channels of a case have the same voxels.",
    "duplicate-image": "Two cases have the same voxels; validation would see what training saw.",
    "small-image": "An image has very few voxels along an axis.",
    "small-shift": "Two files of a case are a little apart; they are taken as they are.",
    "odd-header": "A NIfTI header says something that programs understand differently, or not at all.",
    "sheared-axes": "Axes meet at other than right angles, or are of another length than the spacing.",
    "flat-axis": "An image has a single voxel along an axis that is not the slice axis.",
    "split-overlap": "A split of splits_final.json validates cases that it also trains on.",
    "mixed-orientation": "Images are stored in different orientations, which the network does not know.",
    "mixed-dimensions": "Some images are flat, others are volumes.",
    "spacing-outlier": "The spacing of a case is far from that of the others.",
    "default-spacing": "A TIFF has no side-car with its spacing; 1 mm is assumed.",
    "unlikely-ct": "A channel is called CT, but no value is below 0, as air must be.",
}
"""What to look at, by kind; training is possible nevertheless."""

LISTED: Final = 10
"""How many values a sentence lists before it says how many more there are."""


def some(values: Sequence[object]) -> str:
    """List values in a sentence, and say how many more there are."""
    shown = ", ".join(str(value) for value in values[:LISTED])
    return shown if len(values) <= LISTED else f"{shown} and {len(values) - LISTED} more"


def counted(number: int, what: str) -> str:
    """Write a number and what is counted: 1 case, 2 cases."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def problem(case: CaseId | None, kind: str, message: str) -> DatasetProblem:
    """Describe a problem of a case, or of the dataset as a whole."""
    return DatasetProblem(case=case, kind=kind, message=message)
