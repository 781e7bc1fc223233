"""Cropping to nonzero voxels: box, holes, marks outside the mask, and the way back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from core.preprocessing.crop import (
    BoolArray,
    box_shape,
    crop_to_nonzero,
    nonzero_box,
    nonzero_mask,
    slices,
    uncropped,
)

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7))
UNHURRIED = settings(deadline=None)


def shell(size: int = 5) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    voxels_czyx = np.zeros((1, size + 2, size + 2, size + 2), dtype=np.float32)
    voxels_czyx[0, 1:-1, 1:-1, 1:-1] = 1
    voxels_czyx[0, 2:-2, 2:-2, 2:-2] = 0
    return voxels_czyx


def test_an_empty_image_keeps_its_extent() -> None:
    crop = crop_to_nonzero(np.zeros((2, 3, 4, 5), np.float32), np.zeros((3, 4, 5), np.uint8))

    assert crop.box == ((0, 3), (0, 4), (0, 5))
    assert crop.labels_zyx is not None
    assert (crop.labels_zyx == -1).all()


def test_any_channel_counts() -> None:
    voxels_czyx = np.zeros((2, 4, 4, 4), np.float32)
    voxels_czyx[0, 1, 1, 1] = -1
    voxels_czyx[1, 2, 3, 0] = 1

    assert crop_to_nonzero(voxels_czyx).box == ((1, 3), (1, 4), (0, 2))


def test_background_in_a_hole_is_inside_but_background_around_is_not() -> None:
    voxels_czyx = shell()
    voxels_czyx[0, 1, 1, 1] = 0

    crop = crop_to_nonzero(voxels_czyx, np.zeros(voxels_czyx.shape[1:], np.uint8))

    assert crop.labels_zyx is not None
    assert crop.labels_zyx.dtype == np.int8
    assert crop.labels_zyx[2, 2, 2] == 0
    assert np.argwhere(crop.labels_zyx == -1).tolist() == [[0, 0, 0]]


def test_a_tunnel_through_a_whole_axis_is_not_filled() -> None:
    voxels_czyx = shell()
    voxels_czyx[0, :, 3, 3] = 0

    assert not nonzero_mask(voxels_czyx)[3, 3, 3]


def test_slices_have_no_holes() -> None:
    voxels_czyx = shell()[:, 3:4]

    assert not nonzero_mask(voxels_czyx)[0, 3, 3]


def test_a_label_outside_the_mask_stays() -> None:
    voxels_czyx = np.ones((1, 2, 2, 2), np.float32)
    voxels_czyx[0, 0, 0] = 0
    labels_zyx = np.zeros((2, 2, 2), np.uint8)
    labels_zyx[0, 0, 0] = 3

    crop = crop_to_nonzero(voxels_czyx, labels_zyx)

    assert crop.labels_zyx is not None
    assert crop.labels_zyx.tolist() == [[[3, -1], [0, 0]], [[0, 0], [0, 0]]]


@UNHURRIED
@given(MASKS)
def test_holes_and_box_are_those_of_the_definition(mask_zyx: BoolArray) -> None:
    voxels_czyx = mask_zyx[np.newaxis].astype(np.float32)
    filled_zyx = ndimage.binary_fill_holes(mask_zyx)
    box = nonzero_box(voxels_czyx)
    outside_zyx = np.ones_like(mask_zyx)
    outside_zyx[slices(box)] = False

    assert (nonzero_mask(voxels_czyx) == filled_zyx).all()
    assert (nonzero_mask(voxels_czyx[(slice(None), *slices(box))]) == filled_zyx[slices(box)]).all()
    assert not filled_zyx[outside_zyx].any()


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.2, 0.35, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(20, 21, 22), (3, 60, 50), (3, 700, 510), (102, 103, 104)])
def test_holes_are_found_however_much_is_empty(shape: tuple[int, int, int], share: float) -> None:
    rng = np.random.default_rng(int(share * 1000))
    mask_zyx = rng.random(shape) >= share
    mask_zyx[1, :-1, 1] = False  # A tunnel that opens to one face only.

    found_zyx = nonzero_mask(mask_zyx[None].astype(np.float32))

    assert (found_zyx == ndimage.binary_fill_holes(mask_zyx)).all()


@UNHURRIED
@given(MASKS)
def test_there_and_back_loses_only_what_was_cut_away(mask_zyx: BoolArray) -> None:
    labels_zyx = mask_zyx.astype(np.uint8)
    crop = crop_to_nonzero(mask_zyx[np.newaxis].astype(np.float32), labels_zyx)

    back_zyx = uncropped(labels_zyx[slices(crop.box)], crop.box, labels_zyx.shape)

    assert crop.voxels_czyx.shape[1:] == box_shape(crop.box)
    assert (back_zyx == labels_zyx).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_box_is_tight(axis: int) -> None:
    voxels_czyx = np.zeros((1, 6, 6, 6), np.float32)
    index = [3, 3, 3]
    index[axis] = 5
    voxels_czyx[0, 3, 3, 3] = voxels_czyx[0, *index] = 1

    box = nonzero_box(voxels_czyx)

    assert box[axis] == (3, 6)
    assert box_shape(box) == tuple(3 if a == axis else 1 for a in range(3))
