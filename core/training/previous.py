"""What the previous stage of a cascade segmented, as further channels of a patch; in training it is disturbed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import cc3d
import numpy as np
import torch
from torch import Tensor

from core.domain.record import Record
from core.training.morphology import closed, dilated, eroded, opened

OPERATION_PROBABILITY = 0.4
"""Of a sample; this and all below: engine specification B 2.4, rows 14a and 14b."""

RADIUS_RANGE = (1.0, 8.0)
"""Uniform, per label, voxels."""

REMOVAL_PROBABILITY = 0.2
"""Of a sample."""

LARGEST_REMOVED = 0.15
"""A component goes only if it has a smaller share of the patch's voxels."""

FULLY_CONNECTED: Final[Mapping[int, Literal[8, 26]]] = {2: 8, 3: 26}
"""Neighbours of a voxel, diagonal ones among them, by the number of axes."""

OperationName = Literal["dilate", "erode", "close", "open"]

OPERATIONS: Final[Mapping[OperationName, Callable[[Tensor, float], Tensor]]] = {
    "dilate": dilated,
    "erode": eroded,
    "close": closed,
    "open": opened,
}
"""Each equally likely."""


class OperationParameters(Record):
    """One label grown, shrunken or smoothed."""

    label: int
    """Its place among the foreground labels."""
    operation: OperationName
    radius: float
    """Voxels."""


class RemovalParameters(Record):
    """One component of a label taken away."""

    label: int
    """Its place among the foreground labels."""
    place: float
    """Which of the components that are small enough, as a share of their number, 0 to 1."""


class PreviousParameters(Record):
    """How one sample of the previous stage's labels is disturbed, in this order."""

    operations: tuple[OperationParameters, ...] = ()
    removals: tuple[RemovalParameters, ...] = ()


def draw_previous(rng: np.random.Generator, labels: int, label_probability: float) -> PreviousParameters:
    """Draw how the labels of one sample are disturbed.

    Args:
        rng: Source of randomness.
        labels: How many foreground labels there are.
        label_probability: Of each label, given that its sample is disturbed.

    Source:
        Engine specification B 2.4.14, B 2.4.15.
    """
    names = list(OPERATIONS)
    operations = tuple(
        OperationParameters(
            label=label,
            operation=names[rng.integers(len(names))],
            radius=float(rng.uniform(*RADIUS_RANGE)),
        )
        for label in _draw_labels(rng, OPERATION_PROBABILITY, labels, label_probability)
    )
    removals = tuple(
        RemovalParameters(label=label, place=float(rng.random()))
        for label in _draw_labels(rng, REMOVAL_PROBABILITY, labels, label_probability)
    )
    return PreviousParameters(operations=operations, removals=removals)


def _draw_labels(
    rng: np.random.Generator, probability: float, labels: int, label_probability: float
) -> list[int]:
    """Draw which labels are concerned, in which order."""
    if rng.random() >= probability:
        return []
    return [label for label in rng.permutation(labels).tolist() if rng.random() < label_probability]


def with_previous(
    voxels_bczyx: Tensor,
    previous_bzyx: Tensor,
    foreground: Sequence[int],
    parameters: Sequence[PreviousParameters],
) -> Tensor:
    """Append one channel of zeros and ones per foreground label to a batch.

    Args:
        voxels_bczyx: Patches.
        previous_bzyx: What the previous stage segmented in them, -1 outside.
        foreground: Label values, also where the network predicts regions.
        parameters: How each sample is disturbed.

    Source:
        Engine specification B 2.4.13 to B 2.4.15, B 4.4.
    """
    masks_bkzyx = torch.stack([previous_bzyx == label for label in foreground], dim=1)
    for masks_kzyx, sample in zip(masks_bkzyx, parameters, strict=True):
        for operation in sample.operations:
            _operate(masks_kzyx, operation)
        for removal in sample.removals:
            _remove(masks_kzyx[removal.label], removal.place)
    return torch.cat((voxels_bczyx, masks_bkzyx.to(voxels_bczyx.dtype)), dim=1)


def _operate(masks_kzyx: Tensor, parameters: OperationParameters) -> None:
    """Change the mask of a label; what it gains, the other labels lose."""
    before_zyx = masks_kzyx[parameters.label].clone()
    after_zyx = OPERATIONS[parameters.operation](before_zyx, parameters.radius)
    masks_kzyx &= ~(after_zyx & ~before_zyx)
    masks_kzyx[parameters.label] = after_zyx


def _remove(mask_zyx: Tensor, place: float) -> None:
    """Take one of the small components out of a mask, if there is any; nothing takes its place."""
    found = mask_zyx.nonzero()
    if len(found) == 0:
        return
    bounds = zip(found.amin(0).tolist(), found.amax(0).tolist(), strict=True)
    part_zyx = mask_zyx[tuple(slice(low, high + 1) for low, high in bounds)]
    parts = cc3d.connected_components(
        np.ascontiguousarray(part_zyx.cpu().numpy()),
        connectivity=FULLY_CONNECTED[mask_zyx.dim()],
        binary_image=True,
    )
    sizes = np.bincount(parts.ravel())[1:]
    small = np.flatnonzero(sizes < LARGEST_REMOVED * mask_zyx.numel()) + 1
    if len(small) > 0:
        gone = parts == small[int(place * len(small))]
        part_zyx.masked_fill_(torch.from_numpy(gone).to(mask_zyx.device), value=False)
