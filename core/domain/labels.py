"""Labels, regions and the ignore label of a dataset, and how they are coded in arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from core.errors import LabelsError

BACKGROUND = 0
"""The value of background; every dataset declares it."""

BACKGROUND_NAME = "background"
"""What background is called."""

IGNORE = "ignore"
"""What the label of voxels that nobody annotated is called; other names are never taken for it."""

OUTSIDE = -1
"""Marks background outside the nonzero mask in cropped label maps."""

REGION_THRESHOLD = 0.5
"""A voxel belongs to a region whose probability is higher. Source: engine specification A 8.3, B 1.10."""

FEWEST_FOR_16_BITS = 255
"""Foreground labels from which a label map needs 16 bits. Source: engine specification A 4.8."""

Region = int | tuple[int, ...]
"""A label, or the union of several."""


@dataclass(frozen=True, slots=True)
class LabelSet:
    """What the network is to tell apart.

    Source:
        Engine specification A 8.1 and 8.2.
    """

    names: tuple[str, ...]
    """One name per head, in the order of the heads."""

    heads: tuple[Region, ...]
    """One label per head; with regions, the foreground regions in order of declaration."""

    labels: tuple[int, ...]
    """All label values but the ignore label, ascending, background first."""

    ignore: int | None
    """The value of voxels that nobody annotated."""

    region_labels: tuple[int, ...] | None
    """The value that each region is painted with, in painting order; None without regions."""

    declared: int
    """Entries of `labels` in dataset.json, the ignore label and background among them."""

    @property
    def has_regions(self) -> bool:
        """Whether heads are overlapping regions (sigmoid) instead of exclusive labels (softmax)."""
        return self.region_labels is not None

    @property
    def foreground(self) -> tuple[int, ...]:
        """Label values but background, ascending."""
        return tuple(label for label in self.labels if label != BACKGROUND)

    @property
    def foreground_heads(self) -> tuple[Region, ...]:
        """What is scored: the regions, or the labels without background."""
        return self.heads if self.has_regions else self.heads[1:]

    @property
    def foreground_names(self) -> tuple[str, ...]:
        """The names that belong to `foreground_heads`."""
        return self.names if self.has_regions else self.names[1:]

    @property
    def annotated(self) -> tuple[int, ...]:
        """Every value that an annotated voxel may carry; the pseudo class used with an ignore label."""
        return (OUTSIDE, *self.labels)


def label_set(labels: Mapping[str, int | Sequence[int]], class_order: Sequence[int] | None) -> LabelSet:
    """Read the `labels` of a dataset.json.

    Args:
        labels: Name to value, or to the values of a region, in order of declaration.
        class_order: `regions_class_order`, required when there are regions.

    Raises:
        LabelsError: The declaration contradicts itself; the sentence says everywhere it does, and what to write.

    Source:
        Engine specification A 8.1 (rules), A 8.2 (derived quantities).
    """
    mistakes = label_mistakes(labels, class_order)
    if mistakes:
        raise LabelsError(f"dataset.json: {'; '.join(mistakes)}")
    values = _values(labels)
    ignore = values.pop(IGNORE, None)
    if _has_regions(values):
        heads = _foreground_regions(values)
        painted: tuple[int, ...] | None = tuple(class_order or ())
    else:
        heads = dict(sorted(values.items(), key=lambda item: item[1]))
        painted = None
    return LabelSet(
        names=tuple(heads),
        heads=tuple(heads.values()),
        labels=tuple(_members(values)),
        ignore=ignore if isinstance(ignore, int) else None,
        region_labels=painted,
        declared=len(labels),
    )


def label_mistakes(
    labels: Mapping[str, int | Sequence[int]], class_order: Sequence[int] | None
) -> tuple[str, ...]:
    """Say where the `labels` of a dataset.json contradict themselves, each with its cure; empty if nowhere.

    Source:
        Engine specification A 8.1.
    """
    values = _values(labels)
    values.pop(IGNORE, None)
    return (
        *_background_mistakes(labels),
        *_number_mistakes(values, labels.get(IGNORE)),
        *_region_mistakes(values, class_order),
    )


def _background_mistakes(labels: Mapping[str, int | Sequence[int]]) -> Iterator[str]:
    """Background must be there, under its name, with its value."""
    value = labels.get(BACKGROUND_NAME)
    if value is None:
        others = [name for name in labels if name.casefold() == BACKGROUND_NAME]
        taken = [name for name, found in labels.items() if found == BACKGROUND and name not in others]
        instead = f", not {others[0]!r}" if others else ""
        reserved = (
            f"; that value is reserved for it, give {taken[0]} another in dataset.json and in the label files"
            if taken
            else ""
        )
        yield f'labels must contain "{BACKGROUND_NAME}": {BACKGROUND}{instead}{reserved}'
    elif value != BACKGROUND:
        found = value if isinstance(value, int) else list(value)
        yield f'labels must contain "{BACKGROUND_NAME}": {BACKGROUND}, not {found}'


def _number_mistakes(values: Mapping[str, Region], ignore: int | Sequence[int] | None) -> Iterator[str]:
    """Values count from 0 without gaps, because the index of a head is its label; ignore comes last.

    Where background is missing, which is a mistake of its own, the others count as if it were there.
    """
    empty = [name for name, value in values.items() if value == ()]
    if empty:
        yield f"labels {', '.join(empty)} list no value; give each at least one"
    found = _members(values)
    counted = found if BACKGROUND_NAME in values else sorted({BACKGROUND, *found})
    last = len(counted) - 1
    is_misplaced = isinstance(ignore, int) and bool(found) and ignore != last + 1
    if found and counted != list(range(len(counted))):
        first = 0 if len(counted) == len(found) else 1
        last_too = (
            f", and the ignore label {last + 1}, the highest value, not {ignore}" if is_misplaced else ""
        )
        yield (
            f"label values must be consecutive from 0, found {', '.join(map(str, found))}; renumber them {first} to "
            f"{last}{last_too}, in dataset.json and in the label files"
        )
    elif is_misplaced:
        yield f"the ignore label must be the highest value, {last + 1}, not {ignore}"
    if ignore is not None and not isinstance(ignore, int):
        yield "the ignore label must be one number, not a list; give it the highest value"


def _region_mistakes(values: Mapping[str, Region], class_order: Sequence[int] | None) -> Iterator[str]:
    """Regions say how they are painted; labels without regions differ from each other."""
    if not _has_regions(values):
        first: dict[Region, str] = {}
        for name, value in values.items():
            if first.setdefault(value, name) != name:
                yield f"two labels have the same value, {first[value]} and {name}; give each its own"
        return
    regions = _foreground_regions(values)
    entries = 0 if class_order is None else len(class_order)
    if entries != len(regions):
        yield (
            f"regions need regions_class_order with {len(regions)} entries, one for each of "
            f"{', '.join(regions)}, but it has {entries or 'none'}; write the value that each is painted with"
        )


def _values(labels: Mapping[str, int | Sequence[int]]) -> dict[str, Region]:
    """Return labels as numbers and regions as tuples; where no list unites labels, a list of one is a label."""
    is_united = any(not isinstance(value, int) and len(value) > 1 for value in labels.values())
    return {
        name: value if isinstance(value, int) else tuple(value) if is_united or len(value) != 1 else value[0]
        for name, value in labels.items()
    }


def _members(values: Mapping[str, Region]) -> list[int]:
    """Return all label values, ascending, with those of regions."""
    return sorted({v for value in values.values() for v in (value if isinstance(value, tuple) else (value,))})


def _has_regions(values: Mapping[str, Region]) -> bool:
    """Return whether an entry is a union of labels."""
    return any(isinstance(value, tuple) for value in values.values())


def _foreground_regions(values: Mapping[str, Region]) -> dict[str, Region]:
    """Return all entries but background, in order of declaration."""
    return {name: value for name, value in values.items() if value not in (BACKGROUND, (BACKGROUND,))}


def label_key(region: Region) -> str:
    """Name a label or region in files: `1`, or `(1, 2, 3)`; a region of one label is `(2,)`.

    Source:
        Engine specification A 1.13.
    """
    return str(region)


def location_key(region: Region) -> str:
    """Name a label or region among the locations of a case, where a region of one label is that label."""
    return label_key(region[0] if isinstance(region, tuple) and len(region) == 1 else region)
