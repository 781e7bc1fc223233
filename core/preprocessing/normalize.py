"""Intensities of a channel → the range that a network expects, by the scheme that the plan names."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from core.domain.fingerprint import IntensityProperties
from core.errors import ImageError, PlanError
from core.io.image import FloatArray
from core.preprocessing.crop import BoolArray
from core.registry import Registry

SMALLEST_DIVISOR = np.float32(1e-8)
"""Keeps a constant channel finite; Engine specification A 6.4."""

HIGHEST_COLOUR = 255
"""Largest value of an 8-bit colour channel."""

Normalization = Callable[[FloatArray, BoolArray | None, IntensityProperties | None], FloatArray]
"""One channel (z, y, x), the mask to stay within or None, what the fingerprint knows of the channel."""

NORMALIZATIONS: Registry[Normalization] = Registry("normalization scheme")


def normalize(
    channels: Sequence[FloatArray],
    mask_zyx: BoolArray | None,
    schemes: Sequence[str],
    use_mask: Sequence[bool],
    properties: Sequence[IntensityProperties | None],
) -> Iterator[FloatArray]:
    """Normalize channel after channel, each by its own scheme.

    Args:
        channels: The cropped image, each channel (z, y, x).
        mask_zyx: The nonzero mask; may be None if no channel uses it.
        schemes: Name of the scheme, one per channel.
        use_mask: Whether a channel is normalized within the mask only, one per channel.
        properties: Foreground intensities of the dataset, one per channel; None where unknown.

    Yields:
        float32 (z, y, x); it may be the channel itself where a scheme changes nothing.

    Raises:
        ImageError: The image has another number of channels, or values that a scheme cannot take.
        PlanError: A scheme lacks the foreground intensities that it needs.
        UnknownNameError: A scheme does not exist.

    Source:
        Engine specification A 6.4.
    """
    if len(channels) != len(schemes):
        raise ImageError(
            f"the image has {len(channels)} channels but the plan normalizes {len(schemes)}; "
            "give one file per channel, in the order of channel_names in dataset.json"
        )
    for channel_zyx, name, is_masked, known in zip(channels, schemes, use_mask, properties, strict=True):
        yield NORMALIZATIONS.get(name)(channel_zyx, mask_zyx if is_masked else None, known)


@NORMALIZATIONS.register("CTNormalization")
def normalize_ct(
    voxels_zyx: FloatArray, _mask_zyx: BoolArray | None, properties: IntensityProperties | None
) -> FloatArray:
    """Clip to the dataset's foreground range and scale by its statistics: Hounsfield units are comparable.

    Raises:
        PlanError: The plan does not know the foreground intensities of this channel.
    """
    if properties is None:
        raise PlanError(
            "plans.json lacks foreground_intensity_properties_per_channel for a CTNormalization channel; "
            "plan again with the dataset's fingerprint"
        )
    clipped_zyx = np.clip(
        voxels_zyx, np.float32(properties.percentile_00_5), np.float32(properties.percentile_99_5)
    )
    clipped_zyx -= np.float32(properties.mean)
    clipped_zyx /= max(np.float32(properties.std), SMALLEST_DIVISOR)
    return np.asarray(clipped_zyx, dtype=np.float32)


@NORMALIZATIONS.register("ZScoreNormalization")
def normalize_zscore(
    voxels_zyx: FloatArray, mask_zyx: BoolArray | None, _properties: IntensityProperties | None
) -> FloatArray:
    """Shift and scale to zero mean and unit deviation; with a mask, within it, and nothing outside."""
    inside = voxels_zyx if mask_zyx is None else voxels_zyx[mask_zyx]
    if inside.size == 0:
        return np.array(voxels_zyx, dtype=np.float32)
    mean, deviation = inside.mean(), max(inside.std(), SMALLEST_DIVISOR)
    if mask_zyx is None:
        shifted_zyx: FloatArray = voxels_zyx - mean
        shifted_zyx /= deviation
        return shifted_zyx
    normalized_zyx = np.array(voxels_zyx, dtype=np.float32)
    normalized_zyx[mask_zyx] = (inside - mean) / deviation
    return normalized_zyx


@NORMALIZATIONS.register("NoNormalization")
def keep(
    voxels_zyx: FloatArray, _mask_zyx: BoolArray | None, _properties: IntensityProperties | None
) -> FloatArray:
    """Leave the intensities as they are."""
    return voxels_zyx


@NORMALIZATIONS.register("RescaleTo01Normalization")
def rescale_to_unit(
    voxels_zyx: FloatArray, _mask_zyx: BoolArray | None, _properties: IntensityProperties | None
) -> FloatArray:
    """Map the image's own range to [0, 1]."""
    shifted_zyx: FloatArray = voxels_zyx - voxels_zyx.min()
    shifted_zyx /= max(shifted_zyx.max(), SMALLEST_DIVISOR)
    return shifted_zyx


@NORMALIZATIONS.register("RGBTo01Normalization")
def rescale_colour(
    voxels_zyx: FloatArray, _mask_zyx: BoolArray | None, _properties: IntensityProperties | None
) -> FloatArray:
    """Map 8-bit colours to [0, 1].

    Raises:
        ImageError: A value lies outside of what 8 bits can hold.
    """
    low, high = float(voxels_zyx.min()), float(voxels_zyx.max())
    if low < 0 or high > HIGHEST_COLOUR:
        raise ImageError(
            f"a colour channel must lie within 0 and {HIGHEST_COLOUR} but reaches from {low:g} to {high:g}; "
            "save the image with 8 bits per channel, or name the channel otherwise in dataset.json"
        )
    return voxels_zyx / np.float32(HIGHEST_COLOUR)
