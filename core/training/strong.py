"""The strong augmentation: more transforms, applied more often and further than the default's."""

from collections import Counter
from collections.abc import Sequence
from math import log

import numpy as np
from torch import Tensor

from core.domain.plan import Configuration
from core.domain.training import TrainingSettings
from core.training.augment import (
    GAMMA_RANGE,
    INVERTED_GAMMA_PROBABILITY,
    NOISE_DEVIATION_RANGE,
    NOISE_PROBABILITY,
    in_moving_axes,
)
from core.training.filters import median_filtered, sharpened
from core.training.intensity import (
    at_low_resolution,
    blurred,
    change_rows,
    shifted,
    with_contrast,
    with_inverted_gamma,
    with_noise,
    with_unbounded_contrast,
)
from core.training.local import (
    Blank,
    BumpParameters,
    GradientParameters,
    LocalGammaParameters,
    blanked,
    with_gradient,
    with_local_gamma,
)
from core.training.parameters import (
    FAIR,
    AugmentationParameters,
    draw_channels,
    draw_factors,
    draw_mirrored,
    draw_noise,
    two_sided,
)
from core.training.spatial import PatchGeometry, SpatialRule, draw_spatial, patch_geometry
from core.training.turns import QuarterTurn, mirror_axes, mirrored, swap_axis, transposed, turned

SPATIAL_RULE = SpatialRule(rotation=0.4, axis=0.5, scaling=0.2, scales=(0.7, 1.43), is_uniform=False)
"""This and all below: engine specification B 2.7; probabilities are those of a sample."""

SHRINKAGE = 0.7
"""The enlarged patch's edge is divided by this."""

CHANNEL_PROBABILITY = 0.5
"""Of each channel, given that its sample is changed; noise and gamma change all of them."""

TURN_PROBABILITY = 0.5
"""Of a quarter turn, which by one chance in four is none."""

PERMUTATION_PROBABILITY = 0.5

MEDIAN_PROBABILITY = 0.2
"""Given that the coin shows this and not the blur."""

MEDIAN_EDGES = (2, 7)
"""Uniform, both included, voxels."""

BLUR_PROBABILITY = 0.2
"""Given that the coin shows this and not the median."""

BLUR_DEVIATION_RANGE = (0.3, 1.5)
"""Uniform, per channel; the same along all axes, voxels."""

SHIFT_PROBABILITY = 0.1

SHIFT_DEVIATION = 0.5
"""Of a Gaussian about 0, per channel, in units of the normalized image."""

CONTRAST_PROBABILITY = 0.2
"""Given that the coin shows this kind and not the other, within the range or beyond."""

CONTRAST_RANGE = (0.5, 2.0)
"""Two-sided, per channel."""

LOW_RESOLUTION_PROBABILITY = 0.15

LOW_RESOLUTION_RANGE = (0.25, 1.0)
"""Uniform, per channel: the share of voxels kept along every axis."""

BLANK_PROBABILITY = 0.4

BLANK_COUNTS = (1, 4)
"""Uniform, both included, per channel."""

BLANK_DIVISORS = (10, 3)
"""The edge of a blank box is at least the first of these parts of the patch's edge, and less than the second."""

GRADIENT_PROBABILITY = 0.3

GRADIENT_STRENGTH_RANGE = (1.0, 5.0)
"""Uniform; brighter or darker with equal probability. In units of the normalized image."""

LOCAL_GAMMA_PROBABILITY = 0.3

LOCAL_GAMMA_RANGES = ((0.01, 0.8), (1.5, 4.0))
"""One of these with equal probability, then uniform."""

BUMP_CENTRE_RANGE = (-0.5, 1.5)
"""Uniform, along each axis in edges of the patch."""

BUMP_WIDTH_DIVISOR = 6
"""The width of a bump is between this part of the patch's edge and the edge; its logarithm is uniform."""

SHARPENING_PROBABILITY = 0.2

SHARPENING_RANGE = (0.1, 1.0)
"""Uniform, per channel."""


def strong_geometry(configuration: Configuration, settings: TrainingSettings) -> PatchGeometry:
    """Return the sizes of patches."""
    return patch_geometry(configuration, dummy_2d=settings.dummy_2d, shrinkage=SHRINKAGE)


def draw_strong(
    rng: np.random.Generator, geometry: PatchGeometry, channels: int, settings: TrainingSettings
) -> AugmentationParameters:
    """Draw the parameters of one training sample.

    Source:
        Engine specification B 2.7.
    """
    edges = geometry.patch[3 - geometry.dimensions :]
    exchangeable = _exchangeable_axes(edges, swap_axis(geometry.dimensions, settings))
    is_median, is_bounded = rng.random() < FAIR, rng.random() < FAIR
    each = (CHANNEL_PROBABILITY,) * channels

    def blur() -> tuple[float, ...]:
        return (float(rng.uniform(*BLUR_DEVIATION_RANGE)),) * geometry.dimensions

    def factor() -> float:
        return two_sided(rng, CONTRAST_RANGE)

    return AugmentationParameters(
        spatial=draw_spatial(rng, geometry, SPATIAL_RULE),
        quarter_turn=_draw_turn(rng, exchangeable),
        axis_order=_draw_order(rng, exchangeable, geometry.dimensions),
        median=draw_channels(
            rng,
            MEDIAN_PROBABILITY * is_median,
            each,
            lambda: int(rng.integers(*MEDIAN_EDGES, endpoint=True)),
        ),
        blur=draw_channels(rng, BLUR_PROBABILITY * (not is_median), each, blur),
        noise=draw_noise(rng, NOISE_PROBABILITY, NOISE_DEVIATION_RANGE, channels),
        shift=draw_channels(rng, SHIFT_PROBABILITY, each, lambda: float(rng.normal(0, SHIFT_DEVIATION))),
        contrast=draw_channels(rng, CONTRAST_PROBABILITY * is_bounded, each, factor),
        unbounded_contrast=draw_channels(rng, CONTRAST_PROBABILITY * (not is_bounded), each, factor),
        low_resolution=draw_channels(
            rng,
            LOW_RESOLUTION_PROBABILITY,
            each,
            lambda: in_moving_axes(geometry, float(rng.uniform(*LOW_RESOLUTION_RANGE))),
        ),
        inverted_gamma=draw_factors(rng, INVERTED_GAMMA_PROBABILITY, GAMMA_RANGE, channels),
        second_inverted_gamma=draw_factors(rng, INVERTED_GAMMA_PROBABILITY, GAMMA_RANGE, channels),
        mirrored=draw_mirrored(rng, mirror_axes(geometry.dimensions, settings)),
        blanks=draw_channels(rng, BLANK_PROBABILITY, each, lambda: _draw_blanks(rng, edges)),
        gradient=draw_channels(rng, GRADIENT_PROBABILITY, each, lambda: _draw_gradient(rng, edges)),
        local_gamma=draw_channels(rng, LOCAL_GAMMA_PROBABILITY, each, lambda: _draw_local_gamma(rng, edges)),
        sharpening=draw_channels(
            rng, SHARPENING_PROBABILITY, each, lambda: float(rng.uniform(*SHARPENING_RANGE))
        ),
    )


def _exchangeable_axes(edges: Sequence[int], kept: int | None) -> tuple[int, ...]:
    """Return the axes of the most frequent edge, if there are at least two; the axis from left to right stays.

    Which of two edges that are equally frequent counts does not matter in two or three dimensions.
    """
    edge, count = Counter(edges).most_common(1)[0]
    axes = tuple(axis for axis, other in enumerate(edges) if other == edge and axis != kept)
    return axes if count > 1 and len(axes) > 1 else ()


def _draw_turn(rng: np.random.Generator, axes: tuple[int, ...]) -> QuarterTurn | None:
    """Draw a pair of axes and by how many quarters the patch is turned within their plane."""
    if not axes or rng.random() >= TURN_PROBABILITY:
        return None
    first, second = sorted(rng.choice(axes, 2, replace=False).tolist())
    return QuarterTurn(axes=(first, second), quarters=int(rng.integers(4)))


def _draw_order(rng: np.random.Generator, axes: tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    """Draw an order of the axes, in which only the exchangeable ones change places."""
    if not axes or rng.random() >= PERMUTATION_PROBABILITY:
        return ()
    order = list(range(dimensions))
    for axis, other in zip(axes, rng.permutation(axes).tolist(), strict=True):
        order[axis] = other
    return tuple(order)


def _draw_blanks(rng: np.random.Generator, edges: Sequence[int]) -> tuple[Blank, ...]:
    """Draw boxes that lie within the patch; in a patch of few voxels their edge is one voxel."""
    boxes = []
    for _ in range(int(rng.integers(*BLANK_COUNTS, endpoint=True))):
        box = []
        for edge in edges:
            least = max(1, edge // BLANK_DIVISORS[0])
            size = int(rng.integers(least, max(least + 1, edge // BLANK_DIVISORS[1])))
            first = int(rng.integers(edge - size, endpoint=True))
            box.append((first, first + size))
        boxes.append(tuple(box))
    return tuple(boxes)


def _draw_gradient(rng: np.random.Generator, edges: Sequence[int]) -> GradientParameters:
    bump = _draw_bump(rng, edges)
    sign = 1 if rng.random() < FAIR else -1
    return GradientParameters(bump=bump, strength=sign * float(rng.uniform(*GRADIENT_STRENGTH_RANGE)))


def _draw_local_gamma(rng: np.random.Generator, edges: Sequence[int]) -> LocalGammaParameters:
    bump = _draw_bump(rng, edges)
    bounds = LOCAL_GAMMA_RANGES[0 if rng.random() < FAIR else 1]
    return LocalGammaParameters(bump=bump, exponent=float(rng.uniform(*bounds)))


def _draw_bump(rng: np.random.Generator, edges: Sequence[int]) -> BumpParameters:
    """Draw a hill whose top may lie outside the patch; it is at least a voxel wide."""
    centres = [float(rng.uniform(*BUMP_CENTRE_RANGE)) * edge for edge in edges]
    logarithms = [rng.uniform(log(max(1, edge // BUMP_WIDTH_DIVISOR)), log(edge)) for edge in edges]
    return BumpParameters(centres=tuple(centres), widths=tuple(np.exp(logarithms).tolist()))


def strongly_augmented(
    voxels_bczyx: Tensor, labels_blzyx: Tensor, parameters: Sequence[AugmentationParameters]
) -> tuple[Tensor, Tensor]:
    """Apply everything but the rotation and scaling, which make the patches, to a batch of patches.

    Args:
        voxels_bczyx: Patches, float32; (b, c, y, x) in 2D.
        labels_blzyx: Their label maps, -1 outside.
        parameters: One record per sample.

    Returns:
        New voxels and labels of the same shapes.

    Source:
        Engine specification B 2.7, rows 4 to 17, in this order.
    """
    voxels_bczyx, labels_blzyx = _reoriented(voxels_bczyx, labels_blzyx, parameters)
    state, channels = voxels_bczyx.flatten(0, 1).clone(), voxels_bczyx.shape[1]
    change_rows(state, channels, (sample.median for sample in parameters), median_filtered)
    change_rows(state, channels, (sample.blur for sample in parameters), blurred)
    change_rows(state, channels, (sample.noise for sample in parameters), with_noise)
    change_rows(state, channels, (sample.shift for sample in parameters), shifted)
    change_rows(state, channels, (sample.contrast for sample in parameters), with_contrast)
    change_rows(
        state, channels, (sample.unbounded_contrast for sample in parameters), with_unbounded_contrast
    )
    change_rows(state, channels, (sample.low_resolution for sample in parameters), at_low_resolution)
    change_rows(state, channels, (sample.inverted_gamma for sample in parameters), with_inverted_gamma)
    change_rows(state, channels, (sample.second_inverted_gamma for sample in parameters), with_inverted_gamma)
    axes = [sample.mirrored for sample in parameters]
    state = mirrored(state.view_as(voxels_bczyx), axes).flatten(0, 1)
    change_rows(state, channels, (sample.blanks for sample in parameters), blanked)
    change_rows(state, channels, (sample.gradient for sample in parameters), with_gradient)
    change_rows(state, channels, (sample.local_gamma for sample in parameters), with_local_gamma)
    change_rows(state, channels, (sample.sharpening for sample in parameters), sharpened)
    return state.view_as(voxels_bczyx), mirrored(labels_blzyx, axes)


def _reoriented(
    voxels_bczyx: Tensor, labels_blzyx: Tensor, parameters: Sequence[AugmentationParameters]
) -> tuple[Tensor, Tensor]:
    """Turn voxels and labels by quarters, then put their axes in another order."""
    turns = [sample.quarter_turn for sample in parameters]
    orders = [sample.axis_order for sample in parameters]
    return transposed(turned(voxels_bczyx, turns), orders), transposed(turned(labels_blzyx, turns), orders)
