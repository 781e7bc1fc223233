"""What changes one part of a patch and not another: blank boxes, brightness gradients, gamma that fades away.

Every function takes rows, that is one channel of one sample each, and one parameter per row.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from core.domain.record import Record
from core.training.intensity import SMALLEST_RANGE

Blank = tuple[tuple[int, int], ...]
"""A box of voxels: first and end along each axis."""


class BumpParameters(Record):
    """A hill: a Gaussian along each axis, multiplied, then stretched to reach from 0 to 1 within the patch."""

    centres: tuple[float, ...]
    """Along each axis, voxels; they may lie outside the patch."""
    widths: tuple[float, ...]
    """Standard deviation along each axis, voxels."""


class GradientParameters(Record):
    """Brightness that is added, most at the top of the hill."""

    bump: BumpParameters
    strength: float
    """Added at the top, in units of the normalized image."""


class LocalGammaParameters(Record):
    """A power that values are raised to, in full at the top of the hill."""

    bump: BumpParameters
    exponent: float


def blanked(rows_nzyx: Tensor, blanks: Sequence[Sequence[Blank]]) -> Tensor:
    """Fill boxes with their mean, one after the other.

    Source:
        Engine specification B 2.7, row 14.
    """
    changed_nzyx = rows_nzyx.clone()
    for row_zyx, boxes in zip(changed_nzyx, blanks, strict=True):
        for box in boxes:
            part_zyx = row_zyx[tuple(slice(first, end) for first, end in box)]
            part_zyx[...] = part_zyx.mean()
    return changed_nzyx


def with_gradient(rows_nzyx: Tensor, gradients: Sequence[GradientParameters]) -> Tensor:
    """Add brightness that falls off from one place.

    Source:
        Engine specification B 2.7, row 15.
    """
    shares_nzyx = bumps(rows_nzyx, [gradient.bump for gradient in gradients])
    return rows_nzyx + shares_nzyx * _per_row([gradient.strength for gradient in gradients], rows_nzyx)


def with_local_gamma(rows_nzyx: Tensor, gammas: Sequence[LocalGammaParameters]) -> Tensor:
    """Raise values within their range to a power, in full at one place and less the farther away.

    Source:
        Engine specification B 2.7, row 16.
    """
    space = tuple(range(1, rows_nzyx.dim()))
    lowest = rows_nzyx.amin(space, keepdim=True)
    span = (rows_nzyx.amax(space, keepdim=True) - lowest).clamp(min=SMALLEST_RANGE)
    level_nzyx = (rows_nzyx - lowest) / span
    curved_nzyx = level_nzyx.pow(_per_row([gamma.exponent for gamma in gammas], rows_nzyx))
    shares_nzyx = bumps(rows_nzyx, [gamma.bump for gamma in gammas])
    return level_nzyx.lerp(curved_nzyx, shares_nzyx) * span + lowest


def bumps(rows_nzyx: Tensor, parameters: Sequence[BumpParameters]) -> Tensor:
    """Return a hill from 0 to 1 for each row.

    Along an axis a voxel holds the Gaussian's share between its borders. Each axis is scaled to a maximum of 1
    first, so that hills whose top lies far away do not vanish.

    Source:
        Engine specification B 2.7.
    """
    hills_nzyx = rows_nzyx.new_ones(())
    lowest = np.ones(len(parameters))
    for axis, size in enumerate(rows_nzyx.shape[1:]):
        shares_ni = np.stack(
            [_axis_share(size, bump.centres[axis], bump.widths[axis]) for bump in parameters]
        )
        lowest *= shares_ni.min(1)
        factor_ni = torch.from_numpy(shares_ni.astype(np.float32)).to(rows_nzyx.device)
        shape = [size if other == axis else 1 for other in range(rows_nzyx.dim() - 1)]
        hills_nzyx = hills_nzyx * factor_ni.view(-1, *shape)
    foot = _per_row(lowest.tolist(), rows_nzyx)
    return (hills_nzyx - foot).clamp_(min=0) / (1 - foot).clamp(min=SMALLEST_RANGE)


def _axis_share(size: int, centre: float, width: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return each voxel's share of a Gaussian, relative to the largest of them."""
    borders = (np.arange(size + 1) - 0.5 - centre) / width
    # On the upper side shares are differences of numbers close to 1: mirrored, they keep their digits.
    flank = np.where(borders[:-1] > 0, -1.0, 1.0)
    shares = np.abs(ndtr(flank * borders[1:]) - ndtr(flank * borders[:-1]))
    return np.asarray(shares / max(float(shares.max()), np.finfo(float).tiny))


def _per_row(values: Sequence[float], rows_nzyx: Tensor) -> Tensor:
    """Shape one value per row so that it multiplies whole rows."""
    return rows_nzyx.new_tensor(values).view(-1, *(1 for _ in rows_nzyx.shape[1:]))
