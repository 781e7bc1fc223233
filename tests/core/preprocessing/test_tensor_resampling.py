"""Resampling as PyTorch does it, against figures that nnunetv2 2.8.1 with torch 2.13 gave for the same formulas."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from core.domain.geometry import Shape, Spacing
from core.io.image import FloatArray, LabelArray
from core.preprocessing.operators import (
    TENSOR_LINEAR,
    TENSOR_NEAREST,
    TENSOR_NEAREST_EXACT,
    axis_operator,
    copied,
    nearest,
    taps,
)
from core.preprocessing.resample import RESAMPLINGS, Grid, Regridding, regrid_image, regrid_labels

Vector = tuple[Shape, Shape, Spacing, Spacing, dict[str, Any], str, list[float]]

VECTORS: list[Vector] = [
    (
        (3, 4, 5),
        (4, 5, 4),
        (1.0, 1.0, 1.0),
        (1.0, 1.0, 1.0),
        {},
        "00122310211201322100112330213223120332111123302132231203321100122310211201322100",
        [6.24062, 5.35, 5.38906, 2.9125],
    ),
    (
        (3, 4, 5),
        (4, 5, 4),
        (1.0, 1.0, 1.0),
        (1.0, 1.0, 1.0),
        {"memefficient_seg_resampling": True},
        "00122010000001022100112300200000020032111123002000000200321100122010000001022100",
        [6.24062, 5.35, 5.38906, 2.9125],
    ),
    (
        (3, 4, 5),
        (5, 3, 6),
        (5.0, 1.0, 1.0),
        (3.0, 1.0, 1.0),
        {},
        "001112021120211100001112021120211100112223132231322211001112021120211100001112021120211100",
        [2.0, 5.75, 8.16667, 7.33333, 4.5, 3.0],
    ),
    (
        (3, 4, 5),
        (5, 3, 6),
        (5.0, 1.0, 1.0),
        (3.0, 1.0, 1.0),
        {"force_separate_z": False},
        "001112021120211100001122032230221100112223132231322211001122032230221100001112021120211100",
        [4.8, 5.25, 6.56667, 5.73333, 3.45, 3.6],
    ),
    (
        (3, 4, 5),
        (5, 3, 6),
        (5.0, 1.0, 1.0),
        (3.0, 1.0, 1.0),
        {"separate_z_anisotropy_threshold": 6},
        "001112021120211100001122032230221100112223132231322211001122032230221100001112021120211100",
        [4.8, 5.25, 6.56667, 5.73333, 3.45, 3.6],
    ),
    (
        (4, 3, 5),
        (5, 3, 4),
        (2.0, 1.0, 1.0),
        (1.0, 1.0, 1.0),
        {"force_separate_z": True, "aniso_axis_mode": "linear", "memefficient_seg_resampling": True},
        "001223200232112330311303000000000000001223200232112330311303",
        [7.5625, 5.95, 4.7, 1.45],
    ),
    (
        (4, 3, 5),
        (5, 4, 4),
        (4.0, 1.0, 1.0),
        (1.0, 1.0, 1.0),
        {"mode": "nearest", "aniso_axis_mode": "nearest"},
        "00110011231202130011001123120213112211223023132000110011231202131122112230231320",
        [0.0, 5.0, 7.0, 3.0],
    ),
]
"""Shapes, spacings and arguments → the label map in C order, and row (1, 1) of the image."""


def labels_of(shape: Shape) -> LabelArray:
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    labels_zyx: LabelArray = ((z * z + 2 * y + x * y + x // 2) % 4).astype(np.int16)
    return labels_zyx


def image_of(shape: Shape) -> FloatArray:
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    voxels_zyx: FloatArray = ((z * 7 + y * y * 3 + x * x * x * 5) % 11).astype(np.float32)
    return voxels_zyx


def change_of(
    shape: Shape, new: Shape, before: Spacing, after: Spacing, arguments: Mapping[str, Any]
) -> Regridding:
    return RESAMPLINGS.get("resample_torch_fornnunet")(Grid(shape, before), Grid(new, after), arguments)


@pytest.mark.parametrize("vector", VECTORS)
def test_the_figures_of_the_reference(vector: Vector) -> None:
    shape, new, before, after, arguments, labels, row = vector
    change = change_of(shape, new, before, after, arguments)

    labels_zyx = regrid_labels(labels_of(shape), change)
    voxels_czyx = regrid_image(image_of(shape)[None], change)

    assert "".join(map(str, labels_zyx.ravel())) == labels
    assert voxels_czyx[0, 1, 1].tolist() == pytest.approx(row, abs=1e-5)


def test_the_vector_of_the_specification() -> None:
    labels_zyx = np.array([[[0, 1], [2, 3]]], np.int16)
    arguments = {"force_separate_z": False}
    shape, new, spacing = (1, 2, 2), (1, 3, 3), (1.0, 1.0, 1.0)

    strongest = regrid_labels(labels_zyx, change_of(shape, new, spacing, spacing, arguments))
    saving = regrid_labels(
        labels_zyx,
        change_of(shape, new, spacing, spacing, arguments | {"memefficient_seg_resampling": True}),
    )

    assert strongest.tolist() == [[[0, 0, 1], [0, 0, 1], [2, 2, 3]]]
    assert saving.tolist() == [[[0, 0, 1], [0, 0, 0], [2, 0, 3]]]


def test_scores_that_16_bits_cannot_tell_apart_are_ties() -> None:
    row_zyx = np.array([[[2, 1]]], np.int16)
    spacing, middle = (1.0, 1.0, 1.0), 20_000

    found_zyx = regrid_labels(row_zyx, change_of((1, 1, 2), (1, 1, 2 * middle + 1), spacing, spacing, {}))

    assert found_zyx[0, 0, middle - 4 : middle + 2].tolist() == [2, 2, 1, 1, 1, 1]


def test_pytorch_rounds_otherwise_than_scipy_by_one_sample_at_most() -> None:
    pairs = [(n, m) for n in range(1, 80) for m in range(1, 80)]

    largest = [int(np.abs(copied(*pair, TENSOR_NEAREST_EXACT) - nearest(*pair)).max()) for pair in pairs]

    assert set(largest) == {0, 1}
    assert largest[pairs.index((2, 49))] == 1
    assert sum(largest) < len(pairs) / 40


def test_nearest_counts_from_the_beginning_of_samples() -> None:
    assert copied(4, 6, TENSOR_NEAREST).tolist() == [0, 0, 1, 2, 2, 3]
    assert copied(4, 6, TENSOR_NEAREST_EXACT).tolist() == [0, 1, 1, 2, 3, 3]


def test_linear_weights_are_those_of_order_1_but_for_rounding() -> None:
    for n, m in ((1, 4), (5, 5), (7, 19), (64, 23), (500, 311)):
        tensor, spline = axis_operator(n, m, TENSOR_LINEAR), axis_operator(n, m, 1)

        assert tensor.sum(axis=1) == pytest.approx(np.ones(m), abs=1e-6)
        assert np.abs(tensor - spline).max() <= 5e-5
        assert taps(n, m, TENSOR_LINEAR).indices.shape == taps(n, m, 1).indices.shape


def test_all_axes_together_or_apart() -> None:
    grids = Grid((4, 6, 6), (9.0, 1.0, 1.0)), Grid((8, 6, 6), (4.5, 1.0, 1.0))
    simple = RESAMPLINGS.get("resample_torch_simple")(*grids, {"is_seg": True, "num_threads": 2})
    chosen = RESAMPLINGS.get("resample_torch_fornnunet")(*grids, {})

    assert (simple.apart, simple.order) == (None, TENSOR_LINEAR)
    assert (chosen.apart, chosen.order, chosen.order_apart) == (0, TENSOR_LINEAR, TENSOR_NEAREST_EXACT)
