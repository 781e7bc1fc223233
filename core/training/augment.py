"""The default augmentation in two steps: draw parameters, which are mere numbers, then apply them to a batch."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from core.domain.plan import Configuration
from core.domain.training import TrainingSettings
from core.training.intensity import (
    at_low_resolution,
    blurred,
    brightened,
    change_rows,
    with_contrast,
    with_gamma,
    with_inverted_gamma,
    with_noise,
)
from core.training.parameters import (
    AugmentationParameters,
    draw_channels,
    draw_factors,
    draw_mirrored,
    draw_noise,
)
from core.training.spatial import PatchGeometry, SpatialRule, draw_spatial, patch_geometry
from core.training.turns import mirror_axes, mirrored

SPATIAL_RULE = SpatialRule(rotation=0.2, axis=1.0, scaling=0.2, scales=(0.7, 1.4), is_uniform=True)
"""This and all below: engine specification B 2.4, rows 2 to 11."""

NOISE_PROBABILITY = 0.1

NOISE_DEVIATION_RANGE = (0.0, 0.1)
"""Uniform; one value for all channels of a sample. In units of the normalized image."""

BLUR_PROBABILITY = 0.2

BLUR_CHANNEL_PROBABILITY = 0.5
"""Of each channel, given that the sample is blurred."""

BLUR_DEVIATION_RANGE = (0.5, 1.0)
"""Uniform, per channel and axis, voxels."""

BRIGHTNESS_PROBABILITY = 0.15

BRIGHTNESS_RANGE = (0.75, 1.25)
"""Two-sided (`two_sided`), per channel."""

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


def default_geometry(configuration: Configuration, settings: TrainingSettings) -> PatchGeometry:
    """Return the sizes of patches.

    Source:
        Engine specification B 2.1, B 2.2.
    """
    return patch_geometry(configuration, dummy_2d=settings.dummy_2d)


def draw_default(
    rng: np.random.Generator, geometry: PatchGeometry, channels: int, settings: TrainingSettings
) -> AugmentationParameters:
    """Draw the parameters of one training sample.

    Source:
        Engine specification B 2.3, B 2.4.
    """

    def deviations() -> tuple[float, ...]:
        return tuple(rng.uniform(*BLUR_DEVIATION_RANGE, geometry.dimensions).tolist())

    def zooms() -> tuple[float, ...]:
        return in_moving_axes(geometry, float(rng.uniform(*LOW_RESOLUTION_RANGE)))

    blurs = (BLUR_CHANNEL_PROBABILITY,) * channels
    losses = (LOW_RESOLUTION_CHANNEL_PROBABILITY,) * channels
    return AugmentationParameters(
        spatial=draw_spatial(rng, geometry, SPATIAL_RULE),
        noise=draw_noise(rng, NOISE_PROBABILITY, NOISE_DEVIATION_RANGE, channels),
        blur=draw_channels(rng, BLUR_PROBABILITY, blurs, deviations),
        brightness=draw_factors(rng, BRIGHTNESS_PROBABILITY, BRIGHTNESS_RANGE, channels),
        contrast=draw_factors(rng, CONTRAST_PROBABILITY, CONTRAST_RANGE, channels),
        low_resolution=draw_channels(rng, LOW_RESOLUTION_PROBABILITY, losses, zooms),
        inverted_gamma=draw_factors(rng, INVERTED_GAMMA_PROBABILITY, GAMMA_RANGE, channels),
        gamma=draw_factors(rng, GAMMA_PROBABILITY, GAMMA_RANGE, channels),
        mirrored=draw_mirrored(rng, mirror_axes(geometry.dimensions, settings)),
    )


def in_moving_axes(geometry: PatchGeometry, zoom: float) -> tuple[float, ...]:
    """Return the zoom of each axis; where slices are augmented one by one, none is lost."""
    return (1.0,) * (geometry.dimensions - geometry.moving_axes) + (zoom,) * geometry.moving_axes


def augmented(
    voxels_bczyx: Tensor, labels_blzyx: Tensor, parameters: Sequence[AugmentationParameters]
) -> tuple[Tensor, Tensor]:
    """Apply everything but the spatial transform, which makes the patches, to a batch of patches.

    Args:
        voxels_bczyx: Patches, float32; (b, c, y, x) in 2D.
        labels_blzyx: Their label maps, -1 outside: the reference, and in a cascade the previous stage's.
        parameters: One record per sample.

    Returns:
        New voxels and labels of the same shapes.

    Source:
        Engine specification B 2.4, rows 4 to 11, in this order.
    """
    state = voxels_bczyx.flatten(0, 1).clone()
    channels = voxels_bczyx.shape[1]
    change_rows(state, channels, (sample.noise for sample in parameters), with_noise)
    change_rows(state, channels, (sample.blur for sample in parameters), blurred)
    change_rows(state, channels, (sample.brightness for sample in parameters), brightened)
    change_rows(state, channels, (sample.contrast for sample in parameters), with_contrast)
    change_rows(state, channels, (sample.low_resolution for sample in parameters), at_low_resolution)
    change_rows(state, channels, (sample.inverted_gamma for sample in parameters), with_inverted_gamma)
    change_rows(state, channels, (sample.gamma for sample in parameters), with_gamma)
    axes = [sample.mirrored for sample in parameters]
    return mirrored(state.view_as(voxels_bczyx), axes), mirrored(labels_blzyx, axes)
