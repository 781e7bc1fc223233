"""Patches mirrored, turned by quarters, their axes exchanged; and left and right labels, which then change places."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from core.domain.labels import BACKGROUND, OUTSIDE, LabelSet, Region
from core.domain.record import Record
from core.domain.training import TrainingSettings
from core.errors import TrainingError

T = TypeVar("T")

SWAP_EXAMPLE = 'swapped_labels [["left", "right"]] and swap_axis 2'
"""What a user writes where the last axis runs from left to right."""


class QuarterTurn(Record):
    """A turn within the plane of two axes of the patch, from the first towards the second."""

    axes: tuple[int, int]
    quarters: int


def mirror_axes(dimensions: int, settings: TrainingSettings) -> tuple[int, ...]:
    """Return the axes of the network's patch along which training mirrors.

    Args:
        dimensions: Axes of the patch, 2 or 3.
        settings: None of its axes: all are mirrored.

    Raises:
        TrainingError: The settings name an axis that the patch does not have, or one twice.

    Source:
        Engine specification B 2.1, B 2.8.
    """
    if settings.mirror_axes is None:
        return tuple(range(dimensions))
    _require_axes("mirror_axes", settings.mirror_axes, dimensions)
    return tuple(sorted(settings.mirror_axes))


def swap_axis(dimensions: int, settings: TrainingSettings) -> int | None:
    """Return the axis whose mirroring lets labels change places; None where no labels do.

    Raises:
        TrainingError: The settings name an axis that the patch does not have, or labels without an axis, or an
            axis without labels.
    """
    if settings.swap_axis is None and not settings.swapped_labels:
        return None
    if settings.swap_axis is None or not settings.swapped_labels:
        raise TrainingError(
            "swapped_labels and swap_axis belong together: give the pairs of labels and the axis of the patch "
            f"that runs from left to right, for instance {SWAP_EXAMPLE}"
        )
    _require_axes("swap_axis", (settings.swap_axis,), dimensions)
    return settings.swap_axis


def _require_axes(name: str, axes: Sequence[int], dimensions: int) -> None:
    """Refuse axes that a patch does not have, and any that is named twice."""
    known = ", ".join(str(axis) for axis in range(dimensions))
    unknown = sorted({axis for axis in axes if not 0 <= axis < dimensions})
    if unknown:
        raise TrainingError(
            f"{name} names axis {', '.join(map(str, unknown))}, but the patch of this configuration has the axes "
            f"{known}; choose among these"
        )
    if len(set(axes)) < len(axes):
        raise TrainingError(f"{name} {list(axes)} names an axis twice; name each once")


def swapped_values(labels: LabelSet, settings: TrainingSettings) -> tuple[tuple[int, int], ...]:
    """Return the values of the labels that change places.

    Raises:
        TrainingError: A name is not that of one foreground label, or stands in two pairs.
    """
    names = dict(zip(labels.names, labels.heads, strict=True))
    pairs = [(_value(first, names), _value(second, names)) for first, second in settings.swapped_labels]
    values = [value for pair in pairs for value in pair]
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise TrainingError(
            f"swapped_labels name label {', '.join(map(str, repeated))} more than once; a label changes places "
            "with one other"
        )
    return tuple(pairs)


def _value(name: str, names: dict[str, Region]) -> int:
    """Look a label up by its name.

    Raises:
        TrainingError: There is no such label, it is background, or a union of several.
    """
    if name not in names:
        known = ", ".join(sorted(names))
        raise TrainingError(
            f"swapped_labels name {name!r}, but dataset.json has no such label; it has {known}"
        )
    region = names[name]
    members = (region,) if isinstance(region, int) else region
    if len(members) > 1 or BACKGROUND in members:
        raise TrainingError(
            f"swapped_labels name {name!r}, which is not a single foreground label; name labels that have one "
            "value each in dataset.json"
        )
    return members[0]


def exchanged(
    labels_blzyx: Tensor, is_mirrored: Sequence[bool], pairs: Sequence[tuple[int, int]], labels: LabelSet
) -> Tensor:
    """Let pairs of labels change places in the samples that were mirrored.

    Args:
        labels_blzyx: Label maps, -1 outside.
        is_mirrored: Per sample.
        pairs: Values.
        labels: All values that may occur.

    Returns:
        New label maps; the same ones if no sample was mirrored.
    """
    if not any(is_mirrored) or not pairs:
        return labels_blzyx
    highest = max(*labels.labels, labels.ignore or BACKGROUND)
    table = torch.arange(OUTSIDE, highest + 1, dtype=labels_blzyx.dtype)
    for first, second in pairs:
        table[first - OUTSIDE], table[second - OUTSIDE] = second, first
    rows = [sample for sample, was_mirrored in enumerate(is_mirrored) if was_mirrored]
    changed_blzyx = labels_blzyx.clone()
    changed_blzyx[rows] = table.to(labels_blzyx.device)[labels_blzyx[rows].long() - OUTSIDE]
    return changed_blzyx


def mirrored(batch: Tensor, axes_of_samples: Sequence[tuple[int, ...]]) -> Tensor:
    """Flip each sample of a batch (b, c, z, y, x) or (b, c, y, x) along its axes of space."""
    return _each(batch, axes_of_samples, lambda sample, axes: torch.flip(sample, [axis + 1 for axis in axes]))


def turned(batch: Tensor, turns: Sequence[QuarterTurn | None]) -> Tensor:
    """Turn each sample of a batch by its quarters; its shape must stay the same.

    Source:
        Engine specification B 2.7, row 4.
    """

    def turn(sample: Tensor, quarter: QuarterTurn | None) -> Tensor:
        if quarter is None:
            return sample
        return torch.rot90(sample, quarter.quarters, [axis + 1 for axis in quarter.axes])

    return _each(batch, turns, turn)


def transposed(batch: Tensor, orders: Sequence[tuple[int, ...]]) -> Tensor:
    """Put the axes of space of each sample in its order, none: as they are; its shape must stay the same.

    Source:
        Engine specification B 2.7, row 5.
    """

    def permute(sample: Tensor, order: tuple[int, ...]) -> Tensor:
        return sample.permute(0, *(axis + 1 for axis in order)) if order else sample

    return _each(batch, orders, permute)


def _each(batch: Tensor, parameters: Sequence[T], move: Callable[[Tensor, T], Tensor]) -> Tensor:
    """Move the voxels of each sample and put the batch together again."""
    samples: Iterator[Tensor] = iter(batch)
    return torch.stack([move(sample, value) for sample, value in zip(samples, parameters, strict=True)])
