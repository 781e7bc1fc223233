"""What only all cases of a dataset together show: classes by frequency, twins, outliers, mixtures."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from core.domain.dataset import CaseId, DatasetProblem
from core.domain.geometry import Spacing
from core.domain.labels import BACKGROUND, IGNORE, LabelSet
from core.domain.problems import counted, problem, some
from core.domain.record import Record
from core.io.image import orientation
from core.verification.case_checks import Findings

SPACING_FACTOR = 5.0
"""A spacing this many times coarser or finer than the median of the dataset is rarely meant; scanners that are
used side by side differ less."""

FOLDS = 5
"""Parts of the cross-validation; Engine specification A 1.9."""

CT = "ct"
"""What channels in Hounsfield units are called; Engine specification A 5.9."""


class ClassFrequency(Record):
    """How often a label value occurs."""

    label: int
    names: tuple[str, ...]
    """Of the label, or of the regions that it belongs to; empty for a value that is not declared."""
    cases: int
    """In how many cases."""
    voxels: int


def class_frequencies(
    findings: Sequence[Findings], declared: Mapping[str, int | tuple[int, ...]]
) -> tuple[ClassFrequency, ...]:
    """Count every label that is declared or occurs, by value.

    Source:
        Engine specification A 2.
    """
    names: dict[int, list[str]] = defaultdict(list)
    for name, value in declared.items():
        for member in (value,) if isinstance(value, int) else value:
            names[member].append(name)
    cases: Counter[int] = Counter()
    voxels: Counter[int] = Counter()
    for found in findings:
        cases.update(found.label_voxels.keys())
        voxels.update(found.label_voxels)
    return tuple(
        ClassFrequency(
            label=value, names=tuple(names.get(value, ())), cases=cases[value], voxels=voxels[value]
        )
        for value in sorted({*names, *voxels})
    )


def dataset_problems(findings: Sequence[Findings], labels: LabelSet | None) -> Iterator[DatasetProblem]:
    """Report what only all cases together show."""
    counted = [found for found in findings if found.label_voxels]
    if counted and not any(_foreground(found, labels) for found in counted):
        yield problem(
            None,
            "no-foreground",
            f"none of the {len(counted)} label files marks anything, so there is nothing to learn; export the "
            "labels again",
        )


def dataset_notes(
    findings: Sequence[Findings], channels: Sequence[str], labels: LabelSet | None
) -> Iterator[DatasetProblem]:
    """Point at what deserves a look.

    Args:
        findings: Of all training cases.
        channels: Names, by number.
        labels: None where they contradict each other.
    """
    if 0 < len(findings) < FOLDS:
        yield problem(
            None,
            "few-cases",
            f"{counted(len(findings), 'case')} cannot be dealt into {FOLDS} parts for cross-validation; add cases, train fold "
            "all, or write splits_final.json",
        )
    for found in findings:
        yield from found.notes
        if found.label_voxels and not _foreground(found, labels):
            values = some(sorted(found.label_voxels))
            message = f"the label file of {found.case_id} marks nothing, its values are {values}; correct it, unless nothing is there"
            yield problem(found.case_id, "empty-reference", message)
    yield from twins(findings)
    yield from _spacing_outliers(findings)
    yield from _mixtures(findings)
    yield from _ct_without_air(findings, channels)
    if labels is not None:
        yield from _unused_labels(findings, labels)


def twins(findings: Sequence[Findings]) -> Iterator[DatasetProblem]:
    """Point at cases whose images are the same."""
    first_with: dict[str, CaseId] = {}
    for found in findings:
        twin = first_with.setdefault(found.digest, found.case_id) if found.digest else found.case_id
        if twin != found.case_id:
            message = f"{found.case_id} and {twin} have the same voxels; keep one, or put both into one fold"
            yield problem(found.case_id, "duplicate-image", message)


def declaration_notes(
    channel_keys: Sequence[str],
    labels: Mapping[str, int | tuple[int, ...]],
    class_order: Sequence[int] | None,
    checked: LabelSet | None,
) -> Iterator[DatasetProblem]:
    """Point at what dataset.json says and hardly means.

    Args:
        channel_keys: Of channel_names.
        labels: As declared.
        class_order: `regions_class_order`.
        checked: The same labels; None where they contradict each other.
    """
    if list(channel_keys) != [str(number) for number in range(len(channel_keys))]:
        yield problem(
            None,
            "channel-names",
            f"channel_names in dataset.json has the keys {some(channel_keys)}; in this order they name the files "
            "_0000, _0001, …: number them from 0",
        )
    for name in labels:
        if name != IGNORE and name.strip().casefold() == IGNORE:
            yield problem(
                None,
                "label-names",
                f"label {name!r} in dataset.json is learnt like any other; write {IGNORE!r} if it marks what nobody "
                "annotated",
            )
    if checked is None:
        return
    if class_order is not None and not checked.has_regions:
        yield problem(
            None,
            "region-order",
            "dataset.json has regions_class_order, but no label is a list of values; it is left out of account: "
            "remove it, or declare regions",
        )
    yield from _painted_over(checked)


def _painted_over(labels: LabelSet) -> Iterator[DatasetProblem]:
    """Point at labels that painting the regions one after the other does not give back."""
    if labels.region_labels is None:
        return
    for value in labels.foreground:
        painted = BACKGROUND
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


def _foreground(found: Findings, labels: LabelSet | None) -> bool:
    """Return whether a label file marks anything but background and what nobody annotated."""
    ignore = None if labels is None else labels.ignore
    return any(value > BACKGROUND and value != ignore for value in found.label_voxels)


def _spacing_outliers(findings: Sequence[Findings]) -> Iterator[DatasetProblem]:
    """Point at cases that are far coarser or finer than the others along an axis."""
    spacings = {
        found.case_id: found.header.geometry.spacing
        for found in findings
        if found.header is not None and not found.header.geometry.is_2d
    }
    if len(spacings) < 3:  # noqa: PLR2004 - of two, nobody can tell which is odd
        return
    z, y, x = (median(spacing[axis] for spacing in spacings.values()) for axis in range(3))
    for case_id, spacing in spacings.items():
        if any(_is_far(edge, usual) for edge, usual in zip(spacing, (z, y, x), strict=True)):
            yield problem(
                case_id,
                "spacing-outlier",
                f"{case_id} has spacing {_millimetres(spacing)} (z, y, x), while the median of the dataset is "
                f"{_millimetres((z, y, x))}; correct its header if that is wrong",
            )


def _is_far(edge: float, usual: float) -> bool:
    """Return whether two lengths differ by more than the factor."""
    return max(edge, usual) > SPACING_FACTOR * min(edge, usual)


def _millimetres(spacing: Spacing) -> str:
    """Write a spacing for a person."""
    return f"{' x '.join(f'{edge:.4g}' for edge in spacing)} mm"


def _mixtures(findings: Sequence[Findings]) -> Iterator[DatasetProblem]:
    """Point at images that are stored differently from each other."""
    groups: dict[str, list[CaseId]] = defaultdict(list)
    flat: dict[bool, list[CaseId]] = defaultdict(list)
    for found in findings:
        if found.header is not None:
            flat[found.header.shape[0] == 1].append(found.case_id)
            if not found.header.geometry.is_2d:
                groups[orientation(found.header.geometry)].append(found.case_id)
    if len(flat) > 1:
        rare, what = min((flat[True], "flat"), (flat[False], "volumes"), key=lambda pair: len(pair[0]))
        message = (
            f"{len(flat[True])} of {len(flat[True]) + len(flat[False])} images are flat, the others are volumes; {what}: {some(rare)}; split "
            "the dataset, or take those out"
        )
        yield problem(None, "mixed-dimensions", message)
    if len(groups) > 1:
        by_size = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
        parts = "; ".join(f"{code}: {counted(len(group), 'case')} ({some(group)})" for code, group in by_size)
        message = (
            f"images are stored in different orientations, which training does not undo ({parts}); reorient them, "
            'or set "overwrite_image_reader_writer" to SimpleITKIOWithReorient'
        )
        yield problem(None, "mixed-orientation", message)


def _ct_without_air(findings: Sequence[Findings], channels: Sequence[str]) -> Iterator[DatasetProblem]:
    """Point at channels that cannot be in Hounsfield units, in which air is -1000."""
    for number, name in enumerate(channels):
        lowest = [found.lowest[number] for found in findings if len(found.lowest) == len(channels)]
        if name.casefold() == CT and lowest and min(lowest) >= 0:
            yield problem(
                None,
                "unlikely-ct",
                f"channel {number} is called {name}, but its lowest value in {counted(len(lowest), 'case')} is {min(lowest):g}; "
                "export Hounsfield units, or name the channel otherwise, so that it is normalized case by case",
            )


def _unused_labels(findings: Sequence[Findings], labels: LabelSet) -> Iterator[DatasetProblem]:
    """Point at labels that never occur."""
    present = {value for found in findings for value in found.label_voxels}
    unused = sorted(set(labels.foreground) - present)
    if present and unused:
        message = f"labels {some(unused)} occur in no case; take them out of dataset.json, or add cases"
        yield problem(None, "unused-label", message)
