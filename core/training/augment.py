"""Augmentation in two steps: draw parameters, which are mere numbers, then apply them to a batch."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from core.domain.record import Record
from core.training.intensity import (
    NoiseParameters,
    at_low_resolution,
    blurred,
    brightened,
    with_contrast,
    with_gamma,
    with_inverted_gamma,
    with_noise,
)
from core.training.spatial import PatchGeometry, SpatialParameters, draw_spatial

T = TypeVar("T")

NOISE_PROBABILITY = 0.1
"""This and all below: engine specification B 2.4, rows 4 to 11."""

NOISE_DEVIATION_RANGE = (0.0, 0.1)
"""Uniform; one value for all channels of a sample. In units of the normalized image."""

BLUR_PROBABILITY = 0.2

BLUR_CHANNEL_PROBABILITY = 0.5
"""Of each channel, given that the sample is blurred."""

BLUR_DEVIATION_RANGE = (0.5, 1.0)
"""Uniform, per channel and axis, voxels."""

BRIGHTNESS_PROBABILITY = 0.15

BRIGHTNESS_RANGE = (0.75, 1.25)
"""Two-sided (`_two_sided`), per channel."""

CONTRAST_PROBABILITY = 0.15

CONTRAST_RANGE = (0.75, 1.25)
"""Two-sided, per channel."""

LOW_RESOLUTION_PROBABILITY = 0.25

LOW_RESOLUTION_CHANNEL_PROBABILITY = 0.5
"""Of each channel, given that the sample loses resolution."""

LOW_RESOLUTION_RANGE = (0.5, 1.0)
"""Uniform, per channel: the share of voxels kept along every axis."""

INVERTED_GAMMA_PROBABILITY = 0.1

GAMMA_PROBABILITY = 0.3
"""Drawn independently of the inverted one."""

GAMMA_RANGE = (0.7, 1.5)
"""Two-sided, per channel."""

MIRROR_PROBABILITY = 0.5
"""Of each axis along which mirroring is allowed."""

NOISE_SEEDS = 2**63
"""Noise fields are named by a number below this."""


class AugmentationParameters(Record):
    """Everything random about the augmentation of one sample.

    Intensity transforms hold one entry per channel, or none where the sample is left alone; an entry
    of None leaves its channel alone.
    """

    spatial: SpatialParameters | None = None
    noise: tuple[NoiseParameters, ...] = ()
    blur: tuple[tuple[float, ...] | None, ...] = ()
    """Standard deviation along each axis, voxels."""
    brightness: tuple[float, ...] = ()
    contrast: tuple[float, ...] = ()
    low_resolution: tuple[tuple[float, ...] | None, ...] = ()
    """Share of voxels kept along each axis."""
    inverted_gamma: tuple[float, ...] = ()
    gamma: tuple[float, ...] = ()
    mirrored: tuple[int, ...] = ()
    """Axes of the network's patch."""


def draw_augmentation(
    rng: np.random.Generator, geometry: PatchGeometry, channels: int
) -> AugmentationParameters:
    """Draw the parameters of one training sample.

    Source:
        Engine specification B 2.3, B 2.4.
    """
    return AugmentationParameters(
        spatial=draw_spatial(rng, geometry),
        noise=_draw_noise(rng, channels),
        blur=_draw_blur(rng, channels, geometry.dimensions),
        brightness=_draw_factors(rng, BRIGHTNESS_PROBABILITY, BRIGHTNESS_RANGE, channels),
        contrast=_draw_factors(rng, CONTRAST_PROBABILITY, CONTRAST_RANGE, channels),
        low_resolution=_draw_low_resolution(rng, geometry, channels),
        inverted_gamma=_draw_factors(rng, INVERTED_GAMMA_PROBABILITY, GAMMA_RANGE, channels),
        gamma=_draw_factors(rng, GAMMA_PROBABILITY, GAMMA_RANGE, channels),
        mirrored=tuple(axis for axis in range(geometry.dimensions) if rng.random() < MIRROR_PROBABILITY),
    )


def _draw_noise(rng: np.random.Generator, channels: int) -> tuple[NoiseParameters, ...]:
    if rng.random() >= NOISE_PROBABILITY:
        return ()
    deviation = float(rng.uniform(*NOISE_DEVIATION_RANGE))
    seeds = rng.integers(NOISE_SEEDS, size=channels)
    return tuple(NoiseParameters(deviation=deviation, seed=int(seed)) for seed in seeds)


def _draw_blur(rng: np.random.Generator, channels: int, axes: int) -> tuple[tuple[float, ...] | None, ...]:
    if rng.random() >= BLUR_PROBABILITY:
        return ()
    return tuple(
        tuple(float(deviation) for deviation in rng.uniform(*BLUR_DEVIATION_RANGE, axes))
        if rng.random() < BLUR_CHANNEL_PROBABILITY
        else None
        for _ in range(channels)
    )


def _draw_low_resolution(
    rng: np.random.Generator, geometry: PatchGeometry, channels: int
) -> tuple[tuple[float, ...] | None, ...]:
    """Draw one zoom per channel; where slices are augmented one by one, none is lost."""
    if rng.random() >= LOW_RESOLUTION_PROBABILITY:
        return ()
    fixed = geometry.dimensions - geometry.moving_axes
    return tuple(
        (1.0,) * fixed + (float(rng.uniform(*LOW_RESOLUTION_RANGE)),) * geometry.moving_axes
        if rng.random() < LOW_RESOLUTION_CHANNEL_PROBABILITY
        else None
        for _ in range(channels)
    )


def _draw_factors(
    rng: np.random.Generator, probability: float, bounds: tuple[float, float], channels: int
) -> tuple[float, ...]:
    if rng.random() >= probability:
        return ()
    return tuple(_two_sided(rng, bounds) for _ in range(channels))


def _two_sided(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw below or above 1 with equal probability, then uniformly up to that bound.

    Source:
        Engine specification B 2.3.
    """
    low, high = bounds
    return float(rng.uniform(low, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, high))  # noqa: PLR2004 - a fair coin


def augmented(
    voxels_bczyx: Tensor, labels_bzyx: Tensor, parameters: Sequence[AugmentationParameters]
) -> tuple[Tensor, Tensor]:
    """Apply everything but the spatial transform, which makes the patches, to a batch of patches.

    Args:
        voxels_bczyx: Patches, float32; (b, c, y, x) in 2D.
        labels_bzyx: Their labels, -1 outside.
        parameters: One record per sample.

    Returns:
        New voxels and labels of the same shapes.

    Source:
        Engine specification B 2.4, rows 4 to 11, in this order.
    """
    state = voxels_bczyx.flatten(0, 1).clone()
    channels = voxels_bczyx.shape[1]
    _change(state, channels, (sample.noise for sample in parameters), with_noise)
    _change(state, channels, (sample.blur for sample in parameters), blurred)
    _change(state, channels, (sample.brightness for sample in parameters), brightened)
    _change(state, channels, (sample.contrast for sample in parameters), with_contrast)
    _change(state, channels, (sample.low_resolution for sample in parameters), at_low_resolution)
    _change(state, channels, (sample.inverted_gamma for sample in parameters), with_inverted_gamma)
    _change(state, channels, (sample.gamma for sample in parameters), with_gamma)
    mirrored = [sample.mirrored for sample in parameters]
    return _mirrored(state.view_as(voxels_bczyx), mirrored, 2), _mirrored(labels_bzyx, mirrored, 1)


def masked(voxels_bczyx: Tensor, labels_bzyx: Tensor, channels: Sequence[bool]) -> Tensor:
    """Set channels that were normalized within the mask to 0 outside it again, as noise and gamma filled it.

    Args:
        voxels_bczyx: Augmented patches.
        labels_bzyx: Their labels, -1 outside the mask.
        channels: Which channels were normalized within the mask.

    Source:
        Engine specification B 2.4.12.
    """
    if not any(channels):
        return voxels_bczyx
    shape = (1, -1, *(1 for _ in labels_bzyx.shape[1:]))
    concerned = torch.tensor(channels, device=voxels_bczyx.device).view(shape)
    return voxels_bczyx.masked_fill((labels_bzyx < 0).unsqueeze(1) & concerned, 0)


def _change(
    state_rzyx: Tensor,
    channels: int,
    drawn: Iterable[Sequence[T | None]],
    transform: Callable[[Tensor, Sequence[T]], Tensor],
) -> None:
    """Replace the rows (sample · channels + channel) that have a parameter by what becomes of them."""
    chosen = {
        sample * channels + channel: value
        for sample, values in enumerate(drawn)
        for channel, value in enumerate(values)
        if value is not None
    }
    if chosen:
        rows = torch.tensor(list(chosen), device=state_rzyx.device)
        state_rzyx[rows] = transform(state_rzyx[rows], list(chosen.values()))


def _mirrored(batch: Tensor, axes_of_samples: Sequence[tuple[int, ...]], first_axis: int) -> Tensor:
    """Flip each sample along its axes; `first_axis` is where space begins."""
    flipped = [
        torch.flip(sample, [axis + first_axis - 1 for axis in axes])
        for sample, axes in zip(batch, axes_of_samples, strict=True)
    ]
    return torch.stack(flipped)
