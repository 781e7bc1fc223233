"""What changes voxel values but moves none: noise, blur, brightness, contrast, low resolution, gamma.

Every function takes rows, that is one channel of one sample each, and one parameter per row, so that a
whole batch is changed by the same few tensor operations.
"""

from collections.abc import Callable, Iterable, Sequence
from math import floor, sqrt
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.domain.record import Record

T = TypeVar("T")

SMALLEST_RANGE = 1e-7
"""Bounds a divisor (value range, standard deviation) from below; engine specification B 2.4.11."""

KERNEL_SIGMAS = 6
"""Length of a blur kernel in standard deviations; engine specification B 2.4.8."""


class NoiseParameters(Record):
    """Additive Gaussian noise of one channel."""

    deviation: float
    """Standard deviation, in units of the normalized image."""

    seed: int
    """Of the generator that fills the noise field."""


def change_rows(
    state_rzyx: Tensor,
    channels: int,
    drawn: Iterable[Sequence[T | None]],
    transform: Callable[[Tensor, Sequence[T]], Tensor],
) -> None:
    """Replace the rows (sample · channels + channel) that have a parameter by what becomes of them.

    Args:
        state_rzyx: All channels of all samples of a batch; changed in place.
        channels: Of each sample.
        drawn: Per sample, one parameter per channel, None for a channel to be left alone, or nothing at all.
        transform: Takes the rows concerned and their parameters.
    """
    chosen = {
        sample * channels + channel: value
        for sample, values in enumerate(drawn)
        for channel, value in enumerate(values)
        if value is not None
    }
    if chosen:
        rows = torch.tensor(list(chosen), device=state_rzyx.device)
        state_rzyx[rows] = transform(state_rzyx[rows], list(chosen.values()))


def with_noise(rows_nzyx: Tensor, noises: Sequence[NoiseParameters]) -> Tensor:
    """Add independent Gaussian noise.

    Source:
        Engine specification B 2.4.7.
    """
    generator = torch.Generator(device=rows_nzyx.device)
    return torch.stack(
        [
            row_zyx
            + noise.deviation
            * torch.randn(row_zyx.shape, generator=generator.manual_seed(noise.seed), device=row_zyx.device)
            for row_zyx, noise in zip(rows_nzyx, noises, strict=True)
        ]
    )


def blurred(rows_nzyx: Tensor, deviations: Sequence[Sequence[float]]) -> Tensor:
    """Blur with a truncated Gaussian, reflecting at the borders.

    Args:
        rows_nzyx: One channel per row.
        deviations: Per row, the standard deviation along each axis in voxels.

    Source:
        Engine specification B 2.4.8.
    """
    return _along_axes(rows_nzyx, deviations, blur_operator)


def at_low_resolution(rows_nzyx: Tensor, zooms: Sequence[Sequence[float]]) -> Tensor:
    """Shrink by taking nearest voxels, and interpolate back linearly.

    Args:
        rows_nzyx: One channel per row.
        zooms: Per row, the share of voxels kept along each axis.

    Source:
        Engine specification B 2.4.10.
    """
    return _along_axes(rows_nzyx, zooms, zoom_operator)


def brightened(rows_nzyx: Tensor, factors: Sequence[float]) -> Tensor:
    """Multiply every value.

    Source:
        Engine specification B 2.4.9.
    """
    return rows_nzyx * _per_row(factors, rows_nzyx)


def shifted(rows_nzyx: Tensor, shifts: Sequence[float]) -> Tensor:
    """Add to every value.

    Source:
        Engine specification B 2.7, row 8.
    """
    return rows_nzyx + _per_row(shifts, rows_nzyx)


def with_contrast(rows_nzyx: Tensor, factors: Sequence[float]) -> Tensor:
    """Stretch values about their mean, within their former range.

    Source:
        Engine specification B 2.4.9.
    """
    space = _space(rows_nzyx)
    stretched_nzyx = with_unbounded_contrast(rows_nzyx, factors)
    return stretched_nzyx.clamp(rows_nzyx.amin(space, keepdim=True), rows_nzyx.amax(space, keepdim=True))


def with_unbounded_contrast(rows_nzyx: Tensor, factors: Sequence[float]) -> Tensor:
    """Stretch values about their mean.

    Source:
        Engine specification B 2.7, row 9.
    """
    mean = rows_nzyx.mean(_space(rows_nzyx), keepdim=True)
    return (rows_nzyx - mean) * _per_row(factors, rows_nzyx) + mean


def with_gamma(rows_nzyx: Tensor, exponents: Sequence[float]) -> Tensor:
    """Raise values within their range to a power, keeping mean and standard deviation.

    Source:
        Engine specification B 2.4.11.
    """
    space = _space(rows_nzyx)
    lowest = rows_nzyx.amin(space, keepdim=True)
    span = (rows_nzyx.amax(space, keepdim=True) - lowest).clamp(min=SMALLEST_RANGE)
    curved_nzyx = ((rows_nzyx - lowest) / span).pow(_per_row(exponents, rows_nzyx)) * span + lowest
    _, mean, deviation = _centred(rows_nzyx)
    centred_nzyx, _, new_deviation = _centred(curved_nzyx)
    return centred_nzyx * (deviation / new_deviation.clamp(min=SMALLEST_RANGE)) + mean


def with_inverted_gamma(rows_nzyx: Tensor, exponents: Sequence[float]) -> Tensor:
    """Apply `with_gamma` to the negative image."""
    return -with_gamma(-rows_nzyx, exponents)


def blur_operator(size: int, deviation: float) -> npt.NDArray[np.float32]:
    """Write the blur along an axis as a matrix from its voxels to its voxels.

    Source:
        Engine specification B 2.4.8: the kernel has the odd length nearest to six deviations plus a half, the longer of two.
    """
    kernel = blur_kernel(deviation)
    radius = len(kernel) // 2
    rows, steps = np.arange(size)[:, None], np.arange(-radius, radius + 1)
    operator = np.zeros((size, size))
    np.add.at(operator, (np.broadcast_to(rows, (size, len(kernel))), _reflected(rows + steps, size)), kernel)
    return operator.astype(np.float32)


def blur_kernel(deviation: float) -> npt.NDArray[np.float64]:
    """Return the weights of a truncated Gaussian of the given standard deviation in voxels."""
    radius = floor((KERNEL_SIGMAS * deviation + 0.5) / 2)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    return np.asarray(weights / weights.sum())


def zoom_operator(size: int, zoom: float) -> npt.NDArray[np.float32]:
    """Write shrinking and growing back along an axis as a matrix from its voxels to its voxels.

    Source:
        Engine specification B 2.4.10: centres of the kept voxels as in `nearest_indices`; back by linear
        interpolation between the centres of the smaller axis' voxels, constant beyond the outermost.
    """
    small = max(1, round(size * zoom))
    kept = nearest_indices(size, small)
    position = np.maximum((np.arange(size) + 0.5) * (small / size) - 0.5, 0)
    lower = np.floor(position).astype(np.int64)
    upper = np.minimum(lower + 1, small - 1)
    operator = np.zeros((size, size))
    operator[np.arange(size), kept[lower]] += 1 - (position - lower)
    operator[np.arange(size), kept[upper]] += position - lower
    return operator.astype(np.float32)


def nearest_indices(size: int, small: int) -> npt.NDArray[np.int64]:
    """For each voxel of a shrunken axis, find the voxel in which its centre lies.

    In float32, as torch interpolates with the mode `nearest-exact`: where a centre lies on the border
    between two voxels, rounding decides.

    Source:
        Engine specification B 2.4.10: floor((i + 1/2) · size / small).
    """
    half = np.float32(0.5)
    centres = (np.arange(small, dtype=np.float32) + half) * (np.float32(size) / np.float32(small))
    return np.minimum(centres.astype(np.int64), size - 1)


def _reflected(index: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Mirror indices beyond an axis about its outermost voxels, which are not repeated."""
    period = max(2 * (size - 1), 1)
    folded = index % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(index)


def _along_axes(
    rows_nzyx: Tensor,
    parameters: Sequence[Sequence[float]],
    operator: Callable[[int, float], npt.NDArray[np.float32]],
) -> Tensor:
    """Multiply each row, along every axis, by the matrix that belongs to its parameter."""
    turned = rows_nzyx
    for axis in range(rows_nzyx.dim() - 1):
        _, size, *others = turned.shape
        matrices_nij = torch.from_numpy(np.stack([operator(size, values[axis]) for values in parameters]))
        changed = matrices_nij.to(turned.device) @ turned.flatten(2)
        # The changed axis goes last, so the next one comes first; after a round all are in place again.
        turned = changed.transpose(1, 2).reshape(-1, *others, size)
    return turned


def _centred(rows_nzyx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's distance from its mean, the mean and the (unbiased) standard deviation.

    Source:
        Own measurement: on a CPU `torch.std_mean` takes ten times as long as these two passes.
    """
    space = _space(rows_nzyx)
    mean = rows_nzyx.mean(space, keepdim=True)
    centred_nzyx = rows_nzyx - mean
    norm = torch.linalg.vector_norm(centred_nzyx, dim=space, keepdim=True)
    return centred_nzyx, mean, norm / sqrt(rows_nzyx[0].numel() - 1)


def _space(rows_nzyx: Tensor) -> tuple[int, ...]:
    """Return the axes of space, behind the axis of rows."""
    return tuple(range(1, rows_nzyx.dim()))


def _per_row(values: Sequence[float], rows_nzyx: Tensor) -> Tensor:
    """Shape one value per row so that it multiplies whole rows."""
    return rows_nzyx.new_tensor(values).view(-1, *(1 for _ in _space(rows_nzyx)))
