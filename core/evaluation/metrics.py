"""How well two label maps overlap: exact counts per label or region, and what follows from them."""

from collections.abc import Sequence
from itertools import chain
from math import prod

import numpy as np
import numpy.typing as npt

from core.domain.labels import LabelSet, Region, label_key
from core.domain.report import Scores
from core.io.image import LabelArray, LabelMap

CountArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

BLOCK_VOXELS = 1 << 14
"""Voxels counted at a time, so that intermediate arrays stay in the processor's cache.

Source:
    Own measurement, 12.6 M voxels, 25 labels, one thread: 0.03 s, against 0.4 s in one piece.
"""

CUBIC_MILLIMETRES_PER_ML = 1000.0
"""One millilitre is a cubic centimetre."""


def pair_counts(reference_zyx: LabelArray, prediction_zyx: LabelArray, highest: int) -> CountArray:
    """Count how often each pair of reference label and predicted label meets in a voxel.

    One pass over the voxels, however many labels there are; every score follows from the table.

    Args:
        reference_zyx: Labels of the reference.
        prediction_zyx: Labels of the prediction, same shape.
        highest: The highest label that matters; all others, negative ones too, share the last entry.

    Returns:
        Voxel counts, (highest + 2, highest + 2): reference label, predicted label.
    """
    size = highest + 2
    reference, prediction = reference_zyx.reshape(-1), prediction_zyx.reshape(-1)
    counts = np.zeros(size * size, dtype=np.int64)
    for start in range(0, reference.size, BLOCK_VOXELS):
        block = slice(start, start + BLOCK_VOXELS)
        pairs = _bounded(reference[block], size - 1) * np.uint32(size) + _bounded(prediction[block], size - 1)
        counts += np.bincount(pairs, minlength=counts.size)
    return counts.reshape(size, size)


def _bounded(labels: LabelArray, other: int) -> npt.NDArray[np.uint32]:
    """Return labels as indices, with `other` for those that are higher or negative (which wrap around)."""
    return np.minimum(labels.astype(np.uint32), np.uint32(other))


def region_scores(counts: CountArray, region: Region, ignore: int | None) -> Scores:
    """Score one label or region from the table of pairs.

    Args:
        counts: From `pair_counts`, with every label of the region and the ignore label below its last entry.
        region: A label, or the union of several.
        ignore: Voxels whose reference carries this value are left out of all counts.

    Returns:
        Counts in voxels; ratios are None where neither side has a voxel.

    Source:
        Engine specification B 7.3.
    """
    inside = np.zeros(len(counts), dtype=bool)
    inside[list(_members(region))] = True
    scored = np.ones(len(counts), dtype=bool)
    if ignore is not None:
        scored[ignore] = False
    hits = int(counts[np.ix_(inside & scored, inside)].sum())
    misses = int(counts[np.ix_(inside & scored, ~inside)].sum())
    false_alarms = int(counts[np.ix_(~inside & scored, inside)].sum())
    rest = int(counts[np.ix_(~inside & scored, ~inside)].sum())
    union = hits + misses + false_alarms
    return Scores(
        dice=2 * hits / (union + hits) if union else None,
        iou=hits / union if union else None,
        tp=hits,
        fp=false_alarms,
        fn=misses,
        tn=rest,
        n_pred=hits + false_alarms,
        n_ref=hits + misses,
    )


def overlap_scores(
    reference_zyx: LabelArray, prediction_zyx: LabelArray, regions: Sequence[Region], ignore: int | None
) -> dict[str, Scores]:
    """Score a prediction for every label or region.

    Args:
        reference_zyx: Labels of the reference.
        prediction_zyx: Labels of the prediction, same shape.
        regions: What to score, usually `LabelSet.foreground_heads`.
        ignore: The ignore label, if there is one.

    Returns:
        Scores by label key: `1`, or `(1, 2, 3)` for a region.
    """
    highest = max(chain(*map(_members, regions), () if ignore is None else (ignore,)))
    counts = pair_counts(reference_zyx, prediction_zyx, highest)
    return {label_key(region): region_scores(counts, region, ignore) for region in regions}


def volumes_ml(segmentation: LabelMap, labels: LabelSet) -> dict[str, float]:
    """Measure the volume of every foreground label or region.

    Returns:
        Millilitres by name; empty for a 2D image, which has no volume.
    """
    if segmentation.geometry.is_2d:
        return {}
    voxel_ml = prod(segmentation.geometry.spacing) / CUBIC_MILLIMETRES_PER_ML
    highest = max(labels.labels)
    voxels = np.zeros(highest + 2, dtype=np.int64)
    flat = segmentation.labels_zyx.reshape(-1)
    for start in range(0, flat.size, BLOCK_VOXELS):
        block = _bounded(flat[start : start + BLOCK_VOXELS], highest + 1)
        voxels += np.bincount(block, minlength=voxels.size)
    return {
        name: float(voxels[list(_members(region))].sum()) * voxel_ml
        for name, region in zip(labels.foreground_names, labels.foreground_heads, strict=True)
    }


def _members(region: Region) -> tuple[int, ...]:
    """Return the labels that a region unites."""
    return region if isinstance(region, tuple) else (region,)
