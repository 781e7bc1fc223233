"""Labels, regions and the ignore label of a dataset, and how they are coded in arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.errors import LabelsError

BACKGROUND = 0
"""The value of background; every dataset declares it."""

OUTSIDE = -1
"""Marks background outside the nonzero mask in cropped label maps."""

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
        LabelsError: The declaration contradicts itself; the sentence says where and what to write.

    Source:
        Engine specification A 8.1 (rules), A 8.2 (derived quantities).
    """
    values = {name: _value(name, value) for name, value in labels.items()}
    if values.get("background") != BACKGROUND:
        raise LabelsError('dataset.json: labels must contain "background": 0')
    ignore = values.pop("ignore", None)
    if isinstance(ignore, tuple):
        raise LabelsError("dataset.json: the ignore label must be one number, not a list")
    found = sorted(
        {v for value in values.values() for v in (value if isinstance(value, tuple) else (value,))}
    )
    _require_consecutive(found, ignore)
    has_regions = any(isinstance(value, tuple) for value in values.values())
    if not has_regions and len(set(values.values())) != len(values):
        raise LabelsError("dataset.json: two labels have the same value; give each its own")
    if has_regions:
        heads = {name: value for name, value in values.items() if value not in (BACKGROUND, (BACKGROUND,))}
        if class_order is None or len(class_order) != len(heads):
            raise LabelsError(
                f"dataset.json: regions need regions_class_order with {len(heads)} entries, "
                f"one for each of {', '.join(heads)}"
            )
        painted: tuple[int, ...] | None = tuple(class_order)
    else:
        heads = dict(sorted(values.items(), key=lambda item: item[1]))
        painted = None
    return LabelSet(
        names=tuple(heads),
        heads=tuple(heads.values()),
        labels=tuple(found),
        ignore=ignore,
        region_labels=painted,
        declared=len(labels),
    )


def _value(name: str, value: int | Sequence[int]) -> Region:
    """Return a label as a number and a region as a tuple; a list of one is a plain label."""
    if isinstance(value, int):
        return value
    if not value:
        raise LabelsError(f"dataset.json: label {name!r} lists no value")
    return value[0] if len(value) == 1 else tuple(value)


def _require_consecutive(found: list[int], ignore: int | None) -> None:
    """Refuse gaps: the index of a head is its label value."""
    if found != list(range(len(found))):
        raise LabelsError(
            f"dataset.json: label values must be consecutive from 0, found {found}; "
            "renumber them in dataset.json and in the label files"
        )
    if ignore is not None and ignore != len(found):
        raise LabelsError(
            f"dataset.json: the ignore label must be the highest value, {len(found)}, not {ignore}"
        )


def label_key(region: Region) -> str:
    """Name a label or region in files: `1`, or `(1, 2, 3)`.

    Source:
        Engine specification A 1.13.
    """
    return str(region)
