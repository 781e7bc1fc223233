"""What can be wrong with the files of a dataset: each problem with its numbers and its cure."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from core.domain.dataset import CaseId, DatasetProblem
from core.domain.labels import LabelSet
from core.errors import ImageError
from core.io.image import Header, LabelArray, disagreement, orientation
from core.io.readers import read_header, read_image, read_labels

PROBLEM_KINDS: Final[Mapping[str, str]] = {
    "no-cases": "imagesTr holds no image whose name follows CASE_0000 and the file ending.",
    "case-count": "numTraining in dataset.json is not the number of cases found.",
    "invalid-labels": "The labels that dataset.json declares contradict each other.",
    "unknown-name": "dataset.json names a reader that does not exist.",
    "file-name": "A file's name does not follow CASE_0000.ending for images, CASE.ending for labels.",
    "file-ending": "A file has another ending than dataset.json says.",
    "ambiguous-case": "Two case identifiers differ only in upper and lower case.",
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
    "empty-reference": "A label file marks nothing.",
    "unused-label": "A declared label occurs in no case.",
    "duplicate-image": "Two cases have the same voxels; validation would see what training saw.",
    "mixed-orientation": "Images are stored in different orientations, which the network does not know.",
    "mixed-dimensions": "Some images are flat, others are volumes.",
    "flat-axis": "An image has a single voxel along an axis that is not the slice axis.",
    "default-spacing": "A TIFF has no side-car with its spacing; 1 mm is assumed.",
    "region-order": "Painting regions in the declared order does not give back the labels.",
}
"""What to look at, by kind; training is possible nevertheless."""

LISTED: Final = 10
"""How many values a sentence lists before it says how many more there are."""

BINARY_MASK: Final = frozenset({0, 255})
"""What image editors write for black and white."""

DENSE_VALUES: Final = 32768
"""Range of label values that is counted in a table instead of by sorting."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What every case of a dataset must fulfil."""

    reader: str
    channels: tuple[str, ...]
    label_values: frozenset[int] | None
    """None where dataset.json contradicts itself, so that nothing can be compared."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in the files of one case."""

    case_id: CaseId
    problems: tuple[DatasetProblem, ...]
    header: Header | None
    """Of the first channel; None if it cannot be read."""
    label_voxels: Mapping[int, int] = field(default_factory=dict)
    """How often each label value occurs."""
    digest: str = ""
    """Equal for equal voxels; empty unless all channels were read."""


def check_case(case_id: CaseId, images: Sequence[Path], label: Path | None, rules: Rules) -> Findings:
    """Read every file of a case, and collect all that is wrong.

    Args:
        case_id: Named in the problems.
        images: One file per channel, or one file that holds all; may be empty.
        label: The label file, if there is one; whether there must be one is not judged here.
        rules: What to compare with.

    Source:
        Engine specification A 2 (10) to (17).
    """
    headers: list[Header] = []
    problems: list[DatasetProblem] = []
    hasher = hashlib.blake2b(digest_size=16)

    def note(kind: str, message: str) -> None:
        problems.append(problem(case_id, kind, message))

    for path in images:
        try:
            headers.append(read_header(path, rules.reader))
            hasher.update(read_image([path], rules.reader).voxels_czyx.data)
        except ImageError as error:
            note("unreadable-image", error.message)
    is_whole = len(headers) == len(images) and not problems
    if is_whole:
        for kind, message in _channel_problems(images, headers, rules):
            note(kind, message)
    counts: Mapping[int, int] = {}
    if label is not None:
        try:
            header = read_header(label, rules.reader)
            difference = disagreement(headers[0], header) if headers else None
            if difference is not None:
                note("label-geometry", _geometry_sentence(images[0].name, label.name, difference))
            counts = label_voxels(read_labels(label, rules.reader).labels_zyx)
        except ImageError as error:
            note("unreadable-label", error.message)
    undeclared = set(counts) - rules.label_values if rules.label_values is not None else set()
    if undeclared and label is not None and rules.label_values is not None:
        note("undeclared-label", _undeclared_sentence(label.name, counts, rules.label_values))
    return Findings(
        case_id=case_id,
        problems=tuple(problems),
        header=headers[0] if headers else None,
        label_voxels=counts,
        digest=f"{headers[0].shape}{hasher.hexdigest()}" if is_whole and headers else "",
    )


def label_voxels(labels_zyx: LabelArray) -> dict[int, int]:
    """Count how often each value occurs."""
    low, high = int(labels_zyx.min()), int(labels_zyx.max())
    if high - low >= DENSE_VALUES:
        values, counts = np.unique(labels_zyx, return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    table = np.zeros(high - low + 1, np.int64)
    for slice_yx in labels_zyx:  # one slice at a time, because bincount wants 64-bit integers
        table += np.bincount(slice_yx.ravel().astype(np.int64) - low, minlength=len(table))
    return {low + index: int(table[index]) for index in np.flatnonzero(table).tolist()}


def some(values: Sequence[object]) -> str:
    """List values in a sentence, and say how many more there are."""
    shown = ", ".join(str(value) for value in values[:LISTED])
    return shown if len(values) <= LISTED else f"{shown} and {len(values) - LISTED} more"


def problem(case: CaseId | None, kind: str, message: str) -> DatasetProblem:
    """Describe a problem of a case, or of the dataset as a whole."""
    return DatasetProblem(case=case, kind=kind, message=message)


def _channel_problems(
    images: Sequence[Path], headers: Sequence[Header], rules: Rules
) -> Iterator[tuple[str, str]]:
    """Yield kind and sentence for channels that are too few, too many, or do not lie on one grid."""
    found, wanted = sum(header.channels for header in headers), len(rules.channels)
    if found != wanted:
        sentence = (
            f"{found} channels were found ({some([path.name for path in images])}), but dataset.json names "
            f"{wanted} ({some(rules.channels)}); there must be one file per channel, numbered _0000, _0001, …, "
            "or one color image with all"
        )
        yield ("missing-channel" if found < wanted else "channel-count"), sentence
    for path, header in zip(images[1:], headers[1:], strict=True):
        difference = disagreement(headers[0], header)
        if difference is not None:
            yield "channel-geometry", _geometry_sentence(images[0].name, path.name, difference)


def _geometry_sentence(first: str, second: str, difference: str) -> str:
    """Say that two files do not lie on one grid."""
    return f"{first} and {second} do not fit together: {difference}; resample one to the grid of the other"


def _undeclared_sentence(name: str, counts: Mapping[int, int], declared: frozenset[int]) -> str:
    """Say which label values are not declared, and guess why."""
    undeclared = sorted(set(counts) - declared)
    voxels = sum(counts[value] for value in undeclared)
    if set(counts) <= BINARY_MASK:
        cure = "this is a black-and-white mask: write 1 instead of 255"
    elif any(value < 0 for value in undeclared):
        cure = "labels count from 0: renumber them"
    elif len(undeclared) > LISTED:
        cure = "are the edges smoothed, or is this an image? Save labels without interpolation"
    else:
        cure = "declare them under labels in dataset.json, or correct the file"
    return (
        f"{name} has values {some(undeclared)} ({voxels} voxels), but dataset.json declares "
        f"{some(sorted(declared))}; {cure}"
    )


def dataset_problems(findings: Sequence[Findings]) -> Iterator[DatasetProblem]:
    """Report what only all cases together show."""
    counted = [found for found in findings if found.label_voxels]
    if counted and not any(value > 0 for found in counted for value in found.label_voxels):
        yield problem(
            None,
            "no-foreground",
            f"none of the {len(counted)} label files marks anything, all voxels are 0; there is nothing to learn",
        )


def dataset_notes(findings: Sequence[Findings], labels: LabelSet | None) -> Iterator[DatasetProblem]:
    """Point at what deserves a look."""
    yield from _case_notes(findings)
    yield from _mixture_notes(findings)
    if labels is not None:
        yield from _label_notes(findings, labels)


def _case_notes(findings: Sequence[Findings]) -> Iterator[DatasetProblem]:
    """Point at single cases."""
    first_with: dict[str, CaseId] = {}
    for found in findings:
        if found.label_voxels and max(found.label_voxels) <= 0:
            yield problem(
                found.case_id, "empty-reference", f"the label file of {found.case_id} marks nothing"
            )
        twin = first_with.setdefault(found.digest, found.case_id) if found.digest else found.case_id
        if twin != found.case_id:
            message = f"{found.case_id} and {twin} have the same voxels; keep one, or put both into one fold"
            yield problem(found.case_id, "duplicate-image", message)
        if found.header is not None and 1 in found.header.shape[1:]:
            message = (
                f"{found.case_id} has shape {found.header.shape} (z, y, x); a flat axis should be the first"
            )
            yield problem(found.case_id, "flat-axis", message)
        if found.header is not None and not found.header.has_spacing:
            message = f"{found.case_id} has no side-car with its spacing; 1 mm is assumed"
            yield problem(found.case_id, "default-spacing", message)


def _mixture_notes(findings: Sequence[Findings]) -> Iterator[DatasetProblem]:
    """Point at images that are stored differently from each other."""
    groups: dict[str, list[CaseId]] = defaultdict(list)
    flat: dict[bool, list[CaseId]] = defaultdict(list)
    for found in findings:
        if found.header is not None:
            groups[orientation(found.header.geometry)].append(found.case_id)
            flat[found.header.shape[0] == 1].append(found.case_id)
    if len(flat) > 1:
        message = f"{len(flat[True])} images are flat and {len(flat[False])} are volumes: {some(flat[True])}"
        yield problem(None, "mixed-dimensions", message)
    elif len(groups) > 1:
        parts = "; ".join(f"{code}: {some(group)}" for code, group in sorted(groups.items()))
        message = f"images are stored in different orientations, which training does not undo ({parts})"
        yield problem(None, "mixed-orientation", message)


def _label_notes(findings: Sequence[Findings], labels: LabelSet) -> Iterator[DatasetProblem]:
    """Point at labels that never occur, and at regions that paint over what they should not."""
    present = {value for found in findings for value in found.label_voxels}
    unused = sorted(set(labels.foreground) - present)
    if present and unused:
        yield problem(None, "unused-label", f"labels {some(unused)} occur in no case")
    if labels.region_labels is None:
        return
    for value in labels.foreground:
        painted = 0
        for region, paint in zip(labels.heads, labels.region_labels, strict=True):
            members = region if isinstance(region, tuple) else (region,)
            painted = paint if value in members else painted
        if painted != value:
            yield problem(
                None,
                "region-order",
                f"painting the regions in their order turns label {value} into {painted}; declare larger regions "
                "first, and give regions_class_order the value of each in the same order",
            )
