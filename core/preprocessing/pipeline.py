"""The order of preprocessing: transpose, crop, normalize, resample, locate the classes."""

import numpy as np

from core.domain.geometry import permuted
from core.domain.labels import LabelSet
from core.domain.plan import Configuration, Plan
from core.errors import ImageError
from core.io.case_store import CaseProperties, PreprocessedCase
from core.io.image import Image, LabelArray
from core.preprocessing.crop import BoolArray, Crop, box_shape, crop_to_nonzero, nonzero_mask
from core.preprocessing.locations import class_locations
from core.preprocessing.normalize import normalize_channel, require_channels
from core.preprocessing.resample import RESAMPLINGS, Grid, regrid_image, regrid_labels
from core.preprocessing.target import target_grid


def preprocess_case(
    image: Image,
    labels_zyx: LabelArray | None,
    plan: Plan,
    configuration: Configuration,
    labels: LabelSet,
    *,
    previous_zyx: LabelArray | None = None,
) -> PreprocessedCase:
    """Bring a case onto the grid and into the range of values that a configuration's network expects.

    Intensities are normalized before they are resampled, so that the splines cannot overshoot what clipping
    has just removed. Without a reference (at inference) nothing is done that only training needs.

    Args:
        image: As it was acquired.
        labels_zyx: Its reference on the same grid, or None.
        plan: Axis order and intensities of the dataset.
        configuration: Spacing, normalization and resampling.
        labels: What the dataset declares.
        previous_zyx: At inference, what the previous stage of a cascade segmented, on the image's grid; it is
            treated as a reference is.

    Returns:
        The case; labels int8 or int16, -1 for background outside the nonzero mask.

    Raises:
        ImageError: The image does not fit the plan or its reference, holds values that are not finite, or nothing
            of it would be left at the plan's spacing, or more than there is memory for.
        PlanError: The plan contradicts itself.
        UnknownNameError: The plan names a normalization or resampling that does not exist.

    Source:
        Engine specification A 6.1, B 4.4.
    """
    has_reference = labels_zyx is not None
    labels_zyx = labels_zyx if previous_zyx is None else previous_zyx
    _require_usable(image, labels_zyx)
    axes, geometry = plan.transpose_forward, image.geometry
    voxels_czyx = image.voxels_czyx.transpose(0, *(axis + 1 for axis in axes))
    crop = crop_to_nonzero(voxels_czyx, None if labels_zyx is None else labels_zyx.transpose(axes))
    spacing = permuted(geometry.spacing, axes)
    source = Grid(box_shape(crop.box), spacing)
    whole = Grid(permuted(image.shape, axes), spacing)
    target = target_grid(whole, source, configuration, len(crop.voxels_czyx))
    properties = CaseProperties(
        geometry=geometry,
        spacing=geometry.spacing,
        shape_before_cropping=whole.shape,
        bbox_used_for_cropping=crop.box,
        shape_after_cropping_and_before_resampling=source.shape,
    )
    by_name = RESAMPLINGS.get(configuration.resampling_fn_data)
    change = by_name(source, target, configuration.resampling_fn_data_kwargs)
    mask_zyx = _mask(crop, configuration)
    channels, marked_zyx = [*crop.voxels_czyx], crop.labels_zyx
    require_channels(len(channels), configuration.normalization_schemes)
    del (
        image,
        labels_zyx,
        previous_zyx,
        voxels_czyx,
        crop,
    )  # Where nobody else holds them, their memory serves what follows.
    resampled_czyx = np.empty((len(channels), *change.target), np.float32)
    for channel, scheme in enumerate(configuration.normalization_schemes):
        normalized_zyx = normalize_channel(
            channels.pop(0),
            scheme,
            mask_zyx if configuration.use_mask_for_norm[channel] else None,
            plan.foreground_intensity_properties_per_channel.get(str(channel)),
        )
        resampled_czyx[channel] = regrid_image(normalized_zyx[np.newaxis], change)[0]
        del normalized_zyx
    if marked_zyx is None:
        return PreprocessedCase(resampled_czyx, None, properties, {})
    by_name = RESAMPLINGS.get(configuration.resampling_fn_seg)
    change = by_name(source, target, configuration.resampling_fn_seg_kwargs)
    resampled_zyx = np.ascontiguousarray(regrid_labels(marked_zyx, change))
    if not has_reference:
        return PreprocessedCase(resampled_czyx, None, properties, {}, previous_zyx=resampled_zyx)
    return PreprocessedCase(resampled_czyx, resampled_zyx, properties, class_locations(resampled_zyx, labels))


def _require_usable(image: Image, labels_zyx: LabelArray | None) -> None:
    """Refuse what would spoil the case without a word."""
    if not (np.isfinite(image.voxels_czyx.min()) and np.isfinite(image.voxels_czyx.max())):
        raise ImageError("the image holds values that are not finite; replace NaN and infinity by numbers")
    if labels_zyx is not None and labels_zyx.shape != image.shape:
        raise ImageError(
            f"the image has {image.shape} voxels (z, y, x) but its labels have {labels_zyx.shape}; "
            "resample one onto the grid of the other"
        )


def _mask(crop: Crop, configuration: Configuration) -> BoolArray | None:
    """Return the nonzero mask, if a channel is to be normalized within it."""
    if not any(configuration.use_mask_for_norm):
        return None
    if crop.labels_zyx is None:
        return nonzero_mask(crop.voxels_czyx)
    mask_zyx: BoolArray = crop.labels_zyx >= 0
    return mask_zyx
