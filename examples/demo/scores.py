"""Figures that tell whether something was learnt: Dice per label, and the best that a threshold can do."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from task import Label

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
LabelArray = npt.NDArray[np.integer]

INTENSITY_LEVELS = 512
"""Quantiles between which thresholds are sought."""


def dice_per_label(
    prediction_zyx: LabelArray, reference_zyx: LabelArray, labels: Mapping[str, Label]
) -> dict[str, float | None]:
    """Compare two label maps.

    Args:
        prediction_zyx: From the service.
        reference_zyx: Of the held-out case, same shape; voxels of a label named `ignore` do not count.
        labels: As in dataset.json.

    Returns:
        Per label or region twice the overlap by the sum of both; None where neither has any.
    """
    counted = _counted(reference_zyx, labels)
    return {
        name: _dice(np.isin(prediction_zyx[counted], label), np.isin(reference_zyx[counted], label))
        for name, label in foreground(labels).items()
    }


def threshold_dice(
    voxels_czyx: FloatArray, reference_zyx: LabelArray, labels: Mapping[str, Label]
) -> dict[str, float | None]:
    """Return the Dice of the best intensity interval per label, chosen with the reference in hand.

    No threshold, low, high or both, on any channel, does better on this image; one that had to be
    chosen beforehand does worse. What exceeds it was learnt from more than intensity.

    Args:
        voxels_czyx: The held-out image.
        reference_zyx: Its labels.
        labels: As in dataset.json.
    """
    counted = _counted(reference_zyx, labels)
    reference = reference_zyx[counted]
    levels = [_levels(channel_zyx[counted]) for channel_zyx in voxels_czyx]
    found: dict[str, float | None] = {}
    for name, label in foreground(labels).items():
        is_label = np.isin(reference, label)
        best = max(_best_interval(channel, is_label) for channel in levels)
        found[name] = round(best, 4) if is_label.any() else None
    return found


def foreground(labels: Mapping[str, Label]) -> dict[str, Label]:
    """Leave out background and the ignore label."""
    return {name: label for name, label in labels.items() if name != "ignore" and label not in (0, [0])}


def _counted(reference_zyx: LabelArray, labels: Mapping[str, Label]) -> BoolArray:
    """Mark the voxels that somebody annotated."""
    ignored = labels.get("ignore")
    return np.ones(reference_zyx.shape, bool) if ignored is None else ~np.isin(reference_zyx, ignored)


def _dice(prediction: BoolArray, reference: BoolArray) -> float | None:
    """Dice of two masks; None where both are empty."""
    size = int(prediction.sum()) + int(reference.sum())
    return round(2 * int((prediction & reference).sum()) / size, 4) if size else None


def _levels(intensities: FloatArray) -> npt.NDArray[np.intp]:
    """Number the intensities by the quantile interval that they fall in."""
    edges = np.unique(np.quantile(intensities, np.linspace(0, 1, INTENSITY_LEVELS + 1)))
    return np.searchsorted(edges[1:-1], intensities, side="right")


def _best_interval(levels: npt.NDArray[np.intp], is_label: BoolArray) -> float:
    """Return the highest Dice of all intervals [low level, high level)."""
    count = int(levels.max()) + 1
    below = np.concatenate([[0], np.bincount(levels, minlength=count).cumsum()])
    hits_below = np.concatenate([[0], np.bincount(levels[is_label], minlength=count).cumsum()])
    inside = below[None, :] - below[:, None]
    hits = hits_below[None, :] - hits_below[:, None]
    is_interval = inside > 0
    return float((2 * hits[is_interval] / (inside[is_interval] + is_label.sum())).max())
