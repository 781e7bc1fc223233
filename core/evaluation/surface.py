"""How far apart the surfaces of two masks are, in millimetres, and how much their volumes differ."""

import warnings
from math import prod
from typing import Final

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice

from core.evaluation.metrics import CUBIC_MILLIMETRES_PER_ML, BoolArray
from core.io.image import Geometry

PERCENTILE: Final = 95
"""Of the distances of one surface to the other; the larger one of both directions counts."""

ROUNDING: Final = 1e-6
"""Relative; distances are 32-bit numbers, and ten voxels of 0.1 mm are within a tolerance of 1 mm."""


def surface_scores(
    reference_zyx: BoolArray, prediction_zyx: BoolArray, geometry: Geometry, tolerance_mm: float
) -> dict[str, float | None]:
    """Compare the surfaces and volumes of two masks.

    Args:
        reference_zyx: What is true.
        prediction_zyx: What was found, same shape.
        geometry: Of both; a 2D image has edges instead of surfaces, and no volume.
        tolerance_mm: Farthest distance at which surfaces agree.

    Returns:
        `surface_dice`, `hd95_mm`, `volume_difference_ml`, `volume_difference_relative`, as `Scores` has them.
        Without a voxel on either side all but the difference of volumes is undefined; with voxels on one side only,
        the surface Dice is 0 and the distance undefined, because it is infinite.

    Source:
        doi:10.2196/26151 (surface Dice). Surfaces are weighted by their area, as there.
    """
    found, true = int(prediction_zyx.sum()), int(reference_zyx.sum())
    scores: dict[str, float | None] = {
        "surface_dice": 0.0 if found or true else None,
        "hd95_mm": None,
        "volume_difference_ml": None,
        "volume_difference_relative": (found - true) / true if true else None,
    }
    if not geometry.is_2d:
        scores["volume_difference_ml"] = (found - true) * prod(geometry.spacing) / CUBIC_MILLIMETRES_PER_ML
    if found and true:
        scores |= _distances(reference_zyx, prediction_zyx, geometry, tolerance_mm)
    return scores


def _distances(
    reference_zyx: BoolArray, prediction_zyx: BoolArray, geometry: Geometry, tolerance_mm: float
) -> dict[str, float | None]:
    """Measure how far apart two surfaces are; neither mask is empty."""
    box = _box(reference_zyx | prediction_zyx)
    spacing: tuple[float, ...] = geometry.spacing
    reference, prediction = (np.pad(mask[box], 1) for mask in (reference_zyx, prediction_zyx))
    if geometry.is_2d:
        reference, prediction, spacing = reference[1], prediction[1], spacing[1:]
    found, true = (torch.from_numpy(mask)[None, None] for mask in (prediction, reference))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Of one part of MONAI about another.
        overlap = compute_surface_dice(
            found,
            true,
            [tolerance_mm * (1 + ROUNDING)],
            include_background=True,
            spacing=spacing,
            use_subvoxels=True,
        )
        distance = compute_hausdorff_distance(
            found, true, include_background=True, percentile=PERCENTILE, spacing=spacing
        )
    return {"surface_dice": float(overlap), "hd95_mm": float(distance)}


def _box(mask_zyx: BoolArray) -> tuple[slice, ...]:
    """Return the box around what is marked; there is something."""
    found = [np.flatnonzero(mask_zyx.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(int(places[0]), int(places[-1]) + 1) for places in found)
