"""Everything random about the augmentation of one sample, as mere numbers, and how numbers are drawn."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from pydantic import Field, JsonValue

from core.domain.record import Record
from core.training.intensity import NoiseParameters
from core.training.local import Blank, GradientParameters, LocalGammaParameters
from core.training.spatial import SpatialParameters
from core.training.turns import QuarterTurn

T = TypeVar("T")

FAIR = 0.5
"""The probability of either side of a coin."""

MIRROR_PROBABILITY = 0.5
"""Of each axis along which mirroring is allowed; engine specification B 2.4, B 2.7."""

NOISE_SEEDS = 2**63
"""Noise fields are named by a number below this."""


class AugmentationParameters(Record):
    """What an augmentation has drawn for one sample; what it does not know stays empty.

    Intensity transforms hold one entry per channel, or none where the sample is left alone; an entry
    of None leaves its channel alone.
    """

    spatial: SpatialParameters | None = None
    quarter_turn: QuarterTurn | None = None
    axis_order: tuple[int, ...] = ()
    """Which axis of the network's patch comes first, second, …; none: all stay in place."""
    median: tuple[int | None, ...] = ()
    """Edge of the box around a voxel, voxels."""
    noise: tuple[NoiseParameters, ...] = ()
    blur: tuple[tuple[float, ...] | None, ...] = ()
    """Standard deviation along each axis, voxels."""
    brightness: tuple[float, ...] = ()
    shift: tuple[float | None, ...] = ()
    """Brightness that is added, in units of the normalized image."""
    contrast: tuple[float | None, ...] = ()
    unbounded_contrast: tuple[float | None, ...] = ()
    """Contrast that may leave the former range."""
    low_resolution: tuple[tuple[float, ...] | None, ...] = ()
    """Share of voxels kept along each axis."""
    inverted_gamma: tuple[float, ...] = ()
    second_inverted_gamma: tuple[float, ...] = ()
    gamma: tuple[float, ...] = ()
    mirrored: tuple[int, ...] = ()
    """Axes of the network's patch."""
    blanks: tuple[tuple[Blank, ...] | None, ...] = ()
    gradient: tuple[GradientParameters | None, ...] = ()
    local_gamma: tuple[LocalGammaParameters | None, ...] = ()
    sharpening: tuple[float | None, ...] = ()
    further: dict[str, JsonValue] = Field(default_factory=dict)
    """What the augmentation of another package has drawn beyond that."""


def draw_mirrored(rng: np.random.Generator, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Draw along which of the allowed axes a patch is mirrored."""
    return tuple(axis for axis in axes if rng.random() < MIRROR_PROBABILITY)


def draw_noise(
    rng: np.random.Generator, probability: float, deviations: tuple[float, float], channels: int
) -> tuple[NoiseParameters, ...]:
    """Draw one deviation for all channels, and a noise field for each."""
    if rng.random() >= probability:
        return ()
    deviation = float(rng.uniform(*deviations))
    seeds = rng.integers(NOISE_SEEDS, size=channels)
    return tuple(NoiseParameters(deviation=deviation, seed=int(seed)) for seed in seeds)


def draw_factors(
    rng: np.random.Generator, probability: float, bounds: tuple[float, float], channels: int
) -> tuple[float, ...]:
    """Draw one two-sided factor for every channel of the samples that chance selects."""
    if rng.random() >= probability:
        return ()
    return tuple(two_sided(rng, bounds) for _ in range(channels))


def draw_channels(
    rng: np.random.Generator,
    probability: float,
    channel_probabilities: tuple[float, ...],
    draw: Callable[[], T],
) -> tuple[T | None, ...]:
    """Draw something for some channels of the samples that chance selects.

    Args:
        rng: Also used by `draw`, once chance has selected a channel.
        probability: Of the sample.
        channel_probabilities: Of each channel, given that the sample was selected.
        draw: What is drawn for a channel.
    """
    if rng.random() >= probability:
        return ()
    return tuple(draw() if rng.random() < share else None for share in channel_probabilities)


def two_sided(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw below or above 1 with equal probability, then uniformly up to that bound.

    Source:
        Engine specification B 2.3.
    """
    low, high = bounds
    return float(rng.uniform(low, 1.0) if rng.random() < FAIR else rng.uniform(1.0, high))
