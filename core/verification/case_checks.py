"""What can be wrong with the files of a case: each problem with its numbers and its cure."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from core.domain.dataset import CaseId, DatasetProblem
from core.domain.problems import LISTED, counted, problem, some
from core.errors import ImageError
from core.io.image import FloatArray, Header, LabelArray, corner_distance, disagreement
from core.io.readers import read_header, read_image, read_labels, reader_for_file
from core.memory import Memory
from core.verification.remarks import direction_remark, disguise, header_remarks, misplacement

BINARY_MASK: Final = frozenset({0, 255})
"""What image editors write for black and white."""

DENSE_VALUES: Final = 32768
"""Range of label values that is counted in a table instead of by sorting."""

LONGEST_NAME: Final = 100
"""Letters of a file name in a sentence."""

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
    headers = found.read("unreadable-image", images, partial(_header, reader=rules.reader))
    labels = found.read(
        "unreadable-label", [] if label is None else [label], partial(_header, reader=rules.reader)
    )
    with memory.of(max(map(_bytes_in_memory, [*headers.values(), *labels.values()]), default=0)):
        measured = found.read("unreadable-image", list(headers), partial(_measure, reader=rules.reader))
        counts = found.read("unreadable-label", list(labels), partial(_count, reader=rules.reader))
    for path, header in (*headers.items(), *labels.items()):
        _look_at_header(found, path, header)
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
                if not _is_file(path):
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


def _is_file(path: Path) -> bool:
    """Return whether there is such a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _missing_sentence(path: Path) -> str:
    """Say that a file that dataset.json lists is not there, and guess why."""
    variable = str(path).find("$")
    if variable >= 0:
        return (
            f"{str(path)[variable:]} is listed in dataset.json, but there is no such file; set the environment "
            "variable, or write the path itself"
        )
    name = path.name if len(path.name) <= LONGEST_NAME else f"{path.name[:LONGEST_NAME]}…"
    return f"{name} is listed in dataset.json, but there is no such file; correct the path, or add the file"


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
                f"dataset.json names {counted(wanted, 'channel')} ({some(rules.channels)}), but the files hold "
                f"{count} ({some([path.name for path in images]) or 'there is none'}); there must be one file per channel, "
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


def _header(path: Path, reader: str | None) -> Header:
    """Read a header, and refuse one that puts the image nowhere."""
    try:
        header = read_header(path, reader)
    except ImageError as error:
        what = disguise(path)
        if what is None:
            raise
        raise ImageError(f"{path.name} is {what}", file=path.name) from error
    nowhere = misplacement(header.geometry)
    if nowhere is not None:
        raise ImageError(f"{path.name} {nowhere}", file=path.name)
    return header


def _look_at_header(found: _Notebook, path: Path, header: Header) -> None:
    """Point at what programs understand differently."""
    for remark in header_remarks(path):
        found.note("odd-header", f"{path.name} {remark}")
    angles = direction_remark(header.geometry)
    if angles is not None:
        found.note("sheared-axes", f"{path.name} {angles}")


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
