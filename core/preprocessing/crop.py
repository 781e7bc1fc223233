"""Crop to what is not zero, and put a segmentation back where it was cut out."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import cc3d
import numpy as np
import numpy.typing as npt

from core.domain.geometry import Box, Shape
from core.domain.labels import BACKGROUND, OUTSIDE
from core.io.image import FloatArray, LabelArray

BoolArray = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]

FACE_CONNECTED: Final = 6
"""Neighbours through which background leaks out of a hole; Engine specification A 6.3."""

WORTH_FLOODING: Final = 1 << 20
"""Voxels from which on it pays to try flooding first."""

FLOODED_PART: Final = 50
"""If more than one voxel of so many is flooded, finding all components at once is quicker; measured roughly."""

SMALLEST_WITH_HOLES = 3
"""An axis with fewer voxels has no inner ones, so nothing can be enclosed along it."""


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of a case that is not empty."""

    voxels_czyx: FloatArray
    """A view of the image."""
    labels_zyx: LabelArray | None
    """int8, or int16 where a label needs it, -1 for background outside the nonzero mask; None where no reference
    was given."""
    box: Box
    """Where it was cut out."""


def crop_to_nonzero(voxels_czyx: FloatArray, labels_zyx: LabelArray | None = None) -> Crop:
    """Cut away the margins in which every channel is zero.

    Background outside the nonzero mask is marked, so that intensities can be normalized and patches
    sampled without it. A label that lies there nevertheless stays what it is.

    Args:
        voxels_czyx: The image.
        labels_zyx: Its reference, of the same shape.

    Returns:
        Image and reference within the tight box around the mask.

    Source:
        Engine specification A 6.3.
    """
    box = nonzero_box(voxels_czyx)
    inside = slices(box)
    cropped_czyx = voxels_czyx[(slice(None), *inside)]
    if labels_zyx is None:
        return Crop(cropped_czyx, None, box)
    marked_zyx = _narrowed(labels_zyx[inside])
    mask_zyx = _any_channel(cropped_czyx)
    if not (mask_zyx | (marked_zyx != BACKGROUND)).all():
        mask_zyx = _filled(mask_zyx)
        mask_zyx |= marked_zyx != BACKGROUND
        marked_zyx[~mask_zyx] = OUTSIDE
    return Crop(cropped_czyx, marked_zyx, box)


def nonzero_box(voxels_czyx: FloatArray) -> Box:
    """Find the tight box around all voxels that are not zero in some channel.

    Filling holes cannot change the box, so it is left out. An image without any such voxel keeps its extent.

    Returns:
        Half-open intervals, (z, y, x).

    Source:
        Engine specification A 6.3.
    """
    mask_zyx = _any_channel(voxels_czyx)
    if not mask_zyx.any():
        z, y, x = mask_zyx.shape
        return ((0, z), (0, y), (0, x))
    mask_yx: BoolArray = np.any(mask_zyx, axis=0)
    z_range = _extent(np.any(mask_zyx, axis=(1, 2)))
    y_range = _extent(np.any(mask_yx, axis=1))
    x_range = _extent(np.any(mask_yx, axis=0))
    return (z_range, y_range, x_range)


def nonzero_mask(voxels_czyx: FloatArray) -> BoolArray:
    """Mark the voxels that are not zero in some channel, and the holes that they enclose.

    Returns:
        A mask over (z, y, x).

    Source:
        Engine specification A 6.3.
    """
    return _filled(_any_channel(voxels_czyx))


def uncropped(labels_zyx: LabelArray, box: Box, shape: Sequence[int]) -> LabelArray:
    """Put a cropped segmentation back into an otherwise empty one.

    Args:
        labels_zyx: A segmentation of the box's shape.
        box: Where it was cut out.
        shape: Voxel counts before cropping, (z, y, x).
    """
    whole_zyx = np.zeros(tuple(shape), dtype=labels_zyx.dtype)
    whole_zyx[slices(box)] = labels_zyx
    return whole_zyx


def slices(box: Box) -> tuple[slice, slice, slice]:
    """Return a box as an index into an array (z, y, x)."""
    z, y, x = (slice(low, high) for low, high in box)
    return (z, y, x)


def box_shape(box: Box) -> Shape:
    """Return the voxel counts of a box."""
    z, y, x = (high - low for low, high in box)
    return (z, y, x)


def _narrowed(labels_zyx: LabelArray) -> LabelArray:
    """Copy labels as int8 where that holds them, else as int16."""
    small = np.iinfo(np.int8)
    fits = small.min <= labels_zyx.min() and labels_zyx.max() <= small.max
    return labels_zyx.astype(np.int8 if fits else np.int16)


def _any_channel(voxels_czyx: FloatArray) -> BoolArray:
    """Mark voxels that are not zero in some channel."""
    mask_zyx: BoolArray = voxels_czyx[0] != 0
    for channel_zyx in voxels_czyx[1:]:
        mask_zyx |= channel_zyx != 0
    return mask_zyx


def _extent(projection: BoolArray) -> tuple[int, int]:
    """Return the half-open range from the first to the last marked entry."""
    marked = np.flatnonzero(projection)
    return (int(marked[0]), int(marked[-1]) + 1)


def _filled(mask_zyx: BoolArray) -> BoolArray:
    """Fill holes: what no path along faces connects with the outside of the array."""
    if min(mask_zyx.shape) < SMALLEST_WITH_HOLES or mask_zyx.all():
        return mask_zyx
    if mask_zyx.size >= WORTH_FLOODING:
        outside_zyx = _flooded(~mask_zyx, mask_zyx.size // FLOODED_PART)
        if outside_zyx is not None:
            return np.logical_not(outside_zyx, out=outside_zyx)
    around_zyx = np.ones([count + 2 for count in mask_zyx.shape], np.bool_)
    np.logical_not(mask_zyx, out=around_zyx[1:-1, 1:-1, 1:-1])
    parts_zyx = cc3d.connected_components(around_zyx, connectivity=FACE_CONNECTED, binary_image=True)
    filled_zyx: BoolArray = parts_zyx[1:-1, 1:-1, 1:-1] != parts_zyx[0, 0, 0]
    return filled_zyx


def _flooded(empty_zyx: BoolArray, most: int) -> BoolArray | None:
    """Flood what is empty from the faces of the array, if that is little.

    In CT, zero is a value like others and seldom at the border. Following it from there takes a fraction of
    the time and memory of finding all its components.

    Args:
        empty_zyx: What is not in the mask.
        most: Voxels to flood before giving up.

    Returns:
        What was flooded; None where it is more than that.
    """
    empty_zyx = np.ascontiguousarray(empty_zyx)
    shape, empty = empty_zyx.shape, empty_zyx.reshape(-1)
    flooded = np.zeros(empty.size, np.bool_)
    wave, left = _on_faces(empty_zyx), most
    while wave.size:
        left -= wave.size
        if left < 0:
            return None
        flooded[wave] = True
        beside = _beside(wave, shape)
        wave = np.unique(beside[empty[beside] & ~flooded[beside]])
    return flooded.reshape(shape)


def _on_faces(marked_zyx: BoolArray) -> Places:
    """List the marked voxels on the six faces of the array, by their place in C order."""
    places = []
    for axis, count in enumerate(marked_zyx.shape):
        for index in {0, count - 1}:
            face = np.argwhere(marked_zyx.take(index, axis))
            places.append(
                np.ravel_multi_index(tuple(np.insert(face, axis, index, axis=1).T), marked_zyx.shape)
            )
    return np.unique(np.concatenate(places))


def _beside(places: Places, shape: Sequence[int]) -> Places:
    """List the neighbours of voxels along faces; some of them several times."""
    found = []
    stride = prod(shape)
    for count in shape:
        stride //= count
        index = places // stride % count
        found += [places[index > 0] - stride, places[index < count - 1] + stride]
    return np.concatenate(found)
