"""What can be wrong with the files of a case: each problem with its numbers and its cure."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from core.domain.dataset import CaseId, DatasetProblem
from core.errors import ImageError
from core.io.image import FloatArray, Header, LabelArray, corner_distance, disagreement
from core.io.readers import read_header, read_image, read_labels, reader_for_file

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

BINARY_MASK: Final = frozenset({0, 255})
"""What image editors write for black and white."""

DENSE_VALUES: Final = 32768
"""Range of label values that is counted in a table instead of by sorting."""

FEWEST_VOXELS: Final = 4
"""Along an axis with fewer, hardly any anatomy can be seen."""

NOTED_SHIFT: Final = 0.01
"""In voxels. Rounding of 32-bit headers stays below it; from 0.1 on it is a problem (`core.io.image`)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rules:
    """What every case of a dataset must fulfil."""

    reader: str | None
    """None where no reader fits all files, so that one is chosen for each."""
    channels: tuple[str, ...] | None
    """None where dataset.json does not say, so that nothing is compared; likewise below."""
    label_values: frozenset[int] | None


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in the files of one case."""

    case_id: CaseId
    problems: tuple[DatasetProblem, ...]
    notes: tuple[DatasetProblem, ...]
    header: Header | None
    """Of the first channel; None if it cannot be read."""
    label_voxels: Mapping[int, int] = field(default_factory=dict)
    """How often each label value occurs."""
    digest: str = ""
    """Equal for equal voxels; empty unless all channels were read."""
    lowest: tuple[float, ...] = ()
    """Of each channel; empty unless all channels were read."""


class Memory:
    """Bytes that the cases being read may take together; who needs more than is left waits.

    A case that is larger than all of it is read alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Take bytes, and give them back at the end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._limit)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


def check_case(
    case_id: CaseId, images: Sequence[Path], label: Path | None, rules: Rules, memory: Memory
) -> Findings:
    """Read every file of a case, and collect all that is wrong.

    Headers come first. Voxels are decoded only of files whose header is plausible, one file at a time.

    Args:
        case_id: Named in the problems.
        images: One file per channel, or one file that holds all; may be empty.
        label: The label file, if there is one; whether there must be one is not judged here.
        rules: What to compare with.
        memory: Shared by the cases that are read at the same time.

    Source:
        Engine specification A 2 (10) to (17).
    """
    found = _Notebook(case_id)
    headers = found.read("unreadable-image", images, partial(read_header, reader=rules.reader))
    labels = found.read(
        "unreadable-label", [] if label is None else [label], partial(read_header, reader=rules.reader)
    )
    with memory.of(max(map(_bytes_in_memory, [*headers.values(), *labels.values()]), default=0)):
        measured = found.read("unreadable-image", list(headers), partial(_measure, reader=rules.reader))
        counts = found.read("unreadable-label", list(labels), partial(_count, reader=rules.reader))
    channels = [channel for file in measured.values() for channel in file]
    _compare_channels(found, images, headers, rules)
    _look_at_channels(found, list(headers.values()), channels)
    for path, header in labels.items():
        _compare_grids(found, "label-geometry", next(iter(headers.items()), None), (path, header))
        undeclared = set(counts.get(path, ())) - (rules.label_values or set(counts.get(path, ())))
        if undeclared and rules.label_values is not None:
            found.problem(
                "undeclared-label", _undeclared_sentence(path.name, counts[path], rules.label_values)
            )
    is_whole = bool(images) and len(measured) == len(images)
    return Findings(
        case_id=case_id,
        problems=tuple(found.problems),
        notes=tuple(found.notes),
        header=next(iter(headers.values()), None),
        label_voxels=next(iter(counts.values()), {}),
        digest="".join(channel.digest for channel in channels) if is_whole else "",
        lowest=tuple(channel.low for channel in channels) if is_whole else (),
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


@dataclass(frozen=True, slots=True)
class _Channel:
    """What is kept of the voxels of one channel."""

    digest: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Notebook:
    """What is found in one case, as it is found."""

    case_id: CaseId
    problems: list[DatasetProblem] = field(default_factory=list)
    notes: list[DatasetProblem] = field(default_factory=list)

    def problem(self, kind: str, message: str) -> None:
        """Write a problem down."""
        self.problems.append(problem(self.case_id, kind, message))

    def note(self, kind: str, message: str) -> None:
        """Write a note down."""
        self.notes.append(problem(self.case_id, kind, message))

    def read(self, kind: str, paths: Sequence[Path], work: Callable[[Path], T]) -> dict[Path, T]:
        """Read files; what cannot be read is a problem, and left out of the result."""
        results: dict[Path, T] = {}
        for path in paths:
            try:
                if not path.is_file():
                    self.problem("missing-file", _missing_sentence(path))
                    continue
                results[path] = work(path)
            except ImageError as error:
                named = path.name in error.message
                self.problem(kind, error.message if named else f"{path.name}: {error.message}")
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                self.problem(
                    kind, f"{path.name} cannot be opened ({reason}); check its permissions, or copy it again"
                )
            except MemoryError:
                self.problem(kind, f"{path.name} is too large for the memory of this machine; crop it")
        return results


def _missing_sentence(path: Path) -> str:
    """Say that a file that dataset.json lists is not there, and guess why."""
    if "$" in str(path):
        return (
            f"{path} does not exist; set the environment variable, or write the path itself into dataset.json"
        )
    return (
        f"{path.name} is listed in dataset.json, but there is no such file; correct the path, or add the file"
    )


def _bytes_in_memory(header: Header) -> int:
    """Estimate what reading a file takes: stored values, a copy while they are checked, 32-bit floats."""
    return header.values * (2 * header.stored_type.itemsize + np.dtype(np.float32).itemsize)


def _measure(path: Path, reader: str | None) -> tuple[_Channel, ...]:
    """Decode an image, and keep what distinguishes its channels."""
    return tuple(
        _Channel(_digest(channel_zyx), float(channel_zyx.min()), float(channel_zyx.max()))
        for channel_zyx in read_image([path], reader or reader_for_file(path)).voxels_czyx
    )


def _digest(voxels_zyx: FloatArray) -> str:
    """Return a text that is equal for equal voxels of equal shape."""
    hashed = hashlib.blake2b(np.ascontiguousarray(voxels_zyx).data, digest_size=16)
    return f"{voxels_zyx.shape}{hashed.hexdigest()}"


def _count(path: Path, reader: str | None) -> dict[int, int]:
    """Decode a label file, and count its values."""
    return label_voxels(read_labels(path, reader or reader_for_file(path)).labels_zyx)


def _compare_channels(
    found: _Notebook, images: Sequence[Path], headers: Mapping[Path, Header], rules: Rules
) -> None:
    """Look for channels that are too few, too many, or do not lie on one grid."""
    damaged = len(images) - len(headers)
    if rules.channels is not None and (not damaged or len(images) > 1):
        count, wanted = sum(header.channels for header in headers.values()) + damaged, len(rules.channels)
        if count != wanted:
            found.problem(
                "missing-channel" if count < wanted else "channel-count",
                f"{count} channels were found ({some([path.name for path in images]) or 'no file'}), but "
                f"dataset.json names {wanted} ({some(rules.channels)}); there must be one file per channel, "
                "numbered _0000, _0001, …, or one file with all of them: add or take out files, or correct "
                "channel_names",
            )
    files = list(headers.items())
    for other in files[1:]:
        _compare_grids(found, "channel-geometry", files[0], other)


def _compare_grids(
    found: _Notebook, kind: str, first: tuple[Path, Header] | None, second: tuple[Path, Header]
) -> None:
    """Look for two files of a case that do not lie on one grid."""
    if first is None:
        return
    names = f"{first[0].name} and {second[0].name}"
    difference = disagreement(first[1], second[1])
    if difference is not None:
        found.problem(
            kind, f"{names} do not fit together: {difference}; resample one to the grid of the other"
        )
        return
    shift_mm = corner_distance(first[1], second[1])
    shift = shift_mm / min(first[1].geometry.file_spacing_xyz)
    if shift >= NOTED_SHIFT:
        found.note(
            "small-shift",
            f"{names} are up to {shift_mm:.3g} mm ({shift:.2g} voxels) apart by origin or direction; they are "
            "taken as lying on one grid: correct the header if that is wrong",
        )


def _look_at_channels(found: _Notebook, headers: Sequence[Header], channels: Sequence[_Channel]) -> None:
    """Point at images in which there is little to see."""
    case_id = found.case_id
    twins: dict[str, int] = {}
    for number, channel in enumerate(channels):
        twin = twins.setdefault(channel.digest, number)
        if channel.low == channel.high:
            found.note(
                "constant-image",
                f"channel {number} of {case_id} is {channel.low:g} everywhere; export it again, or take the case "
                "out",
            )
        elif twin != number:
            found.note(
                "duplicate-channel",
                f"channels {twin} and {number} of {case_id} have the same voxels; is one file a copy of the "
                "other by mistake?",
            )
    for header in headers[:1]:
        z, y, x = header.shape
        if z > 1 and 1 in {y, x}:
            found.note(
                "flat-axis",
                f"{case_id} has shape {header.shape} (z, y, x); turn it so that the flat axis is the first, or "
                "its 2D slices cannot be told",
            )
        elif min(header.shape if z > 1 else (y, x)) < FEWEST_VOXELS:
            found.note(
                "small-image",
                f"{case_id} has shape {header.shape} (z, y, x), fewer than {FEWEST_VOXELS} voxels along an "
                "axis; take the case out if that is not all there is",
            )
        if not header.has_spacing:
            found.note(
                "default-spacing",
                f"{case_id} has no side-car with its spacing; 1 mm is assumed: put {case_id}.json beside the "
                'image, with {"spacing": [z, y, x]} in millimetres',
            )


def _undeclared_sentence(name: str, counts: Mapping[int, int], declared: frozenset[int]) -> str:
    """Say which label values are not declared, and guess why."""
    undeclared = sorted(set(counts) - declared)
    voxels = sum(counts[value] for value in undeclared)
    if set(counts) <= BINARY_MASK:
        cure = "this is a black-and-white mask: write 1 instead of 255"
    elif undeclared == [max(BINARY_MASK)]:
        cure = (
            f'if it marks what nobody annotated, declare "ignore": {max(declared) + 1} and write that instead'
        )
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
