"""Intensities of a channel → the range that a network expects, by the scheme that the plan names."""

from collections.abc import Callable, Sequence

import numpy as np

from core.domain.fingerprint import IntensityProperties
from core.errors import ExtensionError, ImageError, PlanError
from core.extensions import Group
from core.io.image import FloatArray
from core.preprocessing.crop import BoolArray
from core.registry import Registry

SMALLEST_DIVISOR = np.float32(1e-8)
"""Keeps a constant channel finite; Engine specification A 6.4."""

HIGHEST_COLOUR = 255
"""Largest value of an 8-bit colour channel."""

Normalization = Callable[[FloatArray, BoolArray | None, IntensityProperties | None], FloatArray]
"""Of one channel (z, y, x), the mask to stay within or None, what the fingerprint knows of the channel.

It returns float32 of the same shape, and leaves the channel that it was given as it was.
"""

NORMALIZATIONS: Registry[Normalization] = Registry("normalization scheme", Group.NORMALIZATION)


def normalize_channel(
    voxels_zyx: FloatArray,
    scheme: str,
    mask_zyx: BoolArray | None,
    properties: IntensityProperties | None,
) -> FloatArray:
    """Normalize one channel of the cropped image.

    Args:
        voxels_zyx: The channel.
        scheme: Name of the scheme.
        mask_zyx: What it is normalized within, None for all of it.
        properties: Foreground intensities of the dataset; None where unknown.

    Returns:
        float32; the channel itself where the scheme changes nothing.

    Raises:
        ImageError: The channel has values that the scheme cannot take.
        PlanError: The scheme lacks the foreground intensities that it needs.
        UnknownNameError: The scheme does not exist.
        ExtensionError: The scheme of a package cannot be loaded, or returns something else than the channel.

    Source:
        Engine specification A 6.4.
    """
    normalized_zyx = np.asarray(NORMALIZATIONS.get(scheme)(voxels_zyx, mask_zyx, properties), np.float32)
    if normalized_zyx.shape != voxels_zyx.shape:
        raise ExtensionError(
            f"the normalization scheme {scheme} made {normalized_zyx.shape} of a channel of {voxels_zyx.shape} "
            "voxels (z, y, x); it must keep the shape: update the package that adds it",
            name=scheme,
        )
    return normalized_zyx


def require_channels(found: int, schemes: Sequence[str]) -> None:
    """Refuse an image that has not one channel for each scheme.

    Raises:
        ImageError: It has more or fewer.
    """
    if found != len(schemes):
        raise ImageError(
            f"the image has {found} channel{'s' * (found != 1)} but the plan normalizes {len(schemes)}; "
            "give one file per channel, in the order of channel_names in dataset.json"
        )


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
