"""What postprocessing does to a label map: of some labels together only the largest connected component stays."""

from collections.abc import Sequence
from typing import Final

import cc3d
import numpy as np

from core.domain.labels import BACKGROUND
from core.domain.postprocessing import Postprocessing
from core.io.image import LabelArray

FULLY_CONNECTED: Final = 26
"""Voxels that share a corner belong together; in a single slice, and in a 2D image, these are 8 neighbours."""


def postprocessed(labels_zyx: LabelArray, postprocessing: Postprocessing) -> LabelArray:
    """Take the steps of a postprocessing, one after the other.

    Args:
        labels_zyx: A label map; stays as it is.
        postprocessing: What to remove.

    Returns:
        Labels of the same type and shape; the same array where nothing was removed.

    Source:
        Engine specification B 7.7 and 14.7.
    """
    for group in postprocessing.keep_largest:
        labels_zyx = largest_kept(labels_zyx, group)
    return labels_zyx


def largest_kept(labels_zyx: LabelArray, group: Sequence[int]) -> LabelArray:
    """Make background of what belongs to the labels of a group, but not to their largest component.

    Components as large as the largest stay as well: nothing says which of them is the right one.

    Args:
        labels_zyx: A label map; stays as it is.
        group: Labels whose union is looked at.

    Returns:
        Labels of the same type and shape; the same array where nothing was removed.
    """
    mask_zyx = np.isin(labels_zyx, group)
    box = _bounds(mask_zyx)
    if box is None:
        return labels_zyx
    parts_zyx = cc3d.connected_components(
        np.ascontiguousarray(mask_zyx[box]), connectivity=FULLY_CONNECTED, binary_image=True
    )
    sizes = np.bincount(parts_zyx.ravel())
    sizes[BACKGROUND] = 0
    lost = sizes < sizes.max()
    lost[BACKGROUND] = False
    if not lost.any():
        return labels_zyx
    kept_zyx = labels_zyx.copy()
    kept_zyx[box][lost[parts_zyx]] = BACKGROUND
    return kept_zyx


def _bounds(mask_zyx: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[slice, ...] | None:
    """Return the box around what is marked; None if nothing is."""
    box = []
    for axis in range(mask_zyx.ndim):
        others = tuple(other for other in range(mask_zyx.ndim) if other != axis)
        found = np.flatnonzero(mask_zyx.any(axis=others))
        if len(found) == 0:
            return None
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)
