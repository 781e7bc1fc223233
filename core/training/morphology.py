"""Masks grown and shrunken by balls of any radius, on any device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import floor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, slots=True)
class _Run:
    """Members of a ball that differ in the last axis only."""

    row: tuple[int, int]
    """Offset along the first two axes."""
    first: int
    last: int
    """Offsets along the last axis, both included."""


def dilated(mask_zyx: Tensor, radius: float) -> Tensor:
    """Add every voxel whose ball meets the mask; beyond the array there is no mask.

    Args:
        mask_zyx: Booleans, two or three axes.
        radius: Voxels.

    Source:
        Engine specification B 2.4.14.
    """
    return _within(mask_zyx, radius, _grown)


def eroded(mask_zyx: Tensor, radius: float) -> Tensor:
    """Keep the voxels whose ball lies within the mask; beyond the array everything counts as mask.

    Source:
        Engine specification B 2.4.14: the complement of the dilated complement.
    """
    return _within(mask_zyx, radius, lambda part_zyx, reach: ~_grown(~part_zyx, reach))


def opened(mask_zyx: Tensor, radius: float) -> Tensor:
    """Erode, then dilate: thin parts go."""
    return dilated(eroded(mask_zyx, radius), radius)


def closed(mask_zyx: Tensor, radius: float) -> Tensor:
    """Dilate, then erode: narrow gaps are filled."""
    return eroded(dilated(mask_zyx, radius), radius)


def _within(mask_zyx: Tensor, radius: float, change: Callable[[Tensor, float], Tensor]) -> Tensor:
    """Change a mask where it can change: in the box around it that a ball can reach."""
    found = mask_zyx.nonzero()
    changed_zyx = torch.zeros_like(mask_zyx)
    if len(found) == 0:
        return changed_zyx
    reach = floor(radius) + 1
    lowest, highest = found.amin(0).tolist(), found.amax(0).tolist()
    part = tuple(
        slice(max(0, low - reach), high + reach + 1) for low, high in zip(lowest, highest, strict=True)
    )
    changed_zyx[part] = change(mask_zyx[part], radius)
    return changed_zyx


def ball(radius: float, axes: int) -> npt.NDArray[np.bool_]:
    """Return the voxels of a ball, or in a plane of a disk.

    In a volume its samples are spaced evenly between both ends, in a plane they are one voxel apart, so that
    the disk is not symmetric unless the radius is whole.

    Source:
        Engine specification B 2.4.14.
    """
    if axes == 2:  # noqa: PLR2004 - a plane
        squares = np.arange(-radius, radius + 1) ** 2
        return np.asarray(squares + squares[:, None] <= radius * radius)
    count = floor(2 * radius + 1)
    squares = (np.arange(count) * (2 * radius / (count - 1)) - radius) ** 2
    # In this order of addition rounding decides about the outermost voxels as in the reference.
    return np.asarray(squares + squares[:, None] + squares[:, None, None] <= radius * radius)


def _runs(radius: float, axes: int) -> Iterator[_Run]:
    """Take a ball apart into rows; of an even edge the upper half is the longer one."""
    members = ball(radius, axes)
    edge = members.shape[0]
    below = (edge - 1) // 2
    for row in product(range(edge), repeat=axes - 1):
        inside = np.flatnonzero(members[row])
        if len(inside) > 0:
            offsets = (0,) * (3 - axes) + tuple(index - below for index in row)
            yield _Run((offsets[0], offsets[1]), int(inside[0]) - below, int(inside[-1]) - below)


def _grown(mask_zyx: Tensor, radius: float) -> Tensor:
    """Dilate a whole array.

    Rows of the ball of the same length share one dilation along the last axis; all others are shifts of the
    flat, padded array.

    Source:
        Own measurement: 0.09 s for a ball of radius 4.5 around a cube of 108³ voxels in 128³, on one core.
    """
    runs = list(_runs(radius, mask_zyx.dim()))
    margin = max(max(abs(step) for step in (*run.row, run.first, run.last)) for run in runs)
    flat_axes = 3 - mask_zyx.dim()
    padded = pad(mask_zyx[(None,) * flat_axes], (margin,) * 6)
    sizes = padded.shape
    start = ((margin * sizes[1]) + margin) * sizes[2] + margin
    flat = padded.flatten()
    length = flat.numel() - 2 * start
    grown = torch.zeros(length, dtype=torch.bool, device=mask_zyx.device)
    for first, last in {(run.first, run.last) for run in runs}:
        row = _or_shifted(flat, first, last)
        for run in runs:
            if (run.first, run.last) == (first, last):
                offset = start + run.row[0] * sizes[1] * sizes[2] + run.row[1] * sizes[2]
                grown |= row[offset : offset + length]
    whole = pad(grown, (start, start)).view(sizes)
    inner = slice(margin, -margin)
    return whole[inner, inner, inner].reshape(mask_zyx.shape)


def _or_shifted(flat: Tensor, first: int, last: int) -> Tensor:
    """Return for each voxel whether any of those from `first` to `last` behind it is set."""
    row = flat.clone()
    reach, count = 1, last - first + 1
    while reach < count:
        step = min(reach, count - reach)
        row[:-step] |= row[step:].clone()
        reach += step
    return torch.roll(row, -first)
