from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from core.training.intensity import (
    NoiseParameters,
    at_low_resolution,
    blur_kernel,
    blur_operator,
    blurred,
    brightened,
    nearest_indices,
    with_contrast,
    with_gamma,
    with_inverted_gamma,
    with_noise,
    zoom_operator,
)

# Engine specification B 14.5.
SMALL = torch.tensor([[[-1, 0, 1, 3], [2, 0.5, -0.5, 1.5]]])
GAMMA = [[-0.73752, -0.08787, 0.86211, 3.20122], [1.97228, 0.363, -0.47368, 1.40045]]
INVERTED_GAMMA = [[-1.17265, 0.04241, 1.14006, 2.72162], [2.07931, 0.60779, -0.55207, 1.63353]]
CONTRAST = [[-1, -0.1625, 1.0375, 3], [2.2375, 0.4375, -0.7625, 1.6375]]
LOW_RESOLUTION = [0, 1.2374, 3.1517, 6.3839, 8.9939, 10.9816, 15.309, 18.5203]


def random_rows(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_gamma_is_that_of_the_specification() -> None:
    torch.testing.assert_close(with_gamma(SMALL, [1.3])[0], torch.tensor(GAMMA), atol=1e-5, rtol=0)


def test_inverted_gamma_is_that_of_the_specification() -> None:
    torch.testing.assert_close(
        with_inverted_gamma(SMALL, [1.3])[0], torch.tensor(INVERTED_GAMMA), atol=1e-5, rtol=0
    )


def test_gamma_keeps_mean_and_deviation() -> None:
    rows = random_rows(2, 6, 7, 8)

    changed = with_gamma(rows, [0.7, 1.5])

    torch.testing.assert_close(changed.mean((1, 2, 3)), rows.mean((1, 2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(changed.std((1, 2, 3)), rows.std((1, 2, 3)))


def test_gamma_leaves_a_constant_channel_alone() -> None:
    torch.testing.assert_close(with_gamma(torch.full((1, 4, 4), 2.5), [1.3]), torch.full((1, 4, 4), 2.5))


def test_contrast_is_that_of_the_specification() -> None:
    torch.testing.assert_close(with_contrast(SMALL, [1.2])[0], torch.tensor(CONTRAST))


def test_brightness_multiplies() -> None:
    rows = random_rows(2, 4, 5)

    torch.testing.assert_close(brightened(rows, [0.75, 1.25]), torch.stack([rows[0] * 0.75, rows[1] * 1.25]))


def test_noise_has_the_drawn_deviation_and_is_named_by_its_seed() -> None:
    zeros = torch.zeros(2, 30, 30, 30)
    noises = [NoiseParameters(deviation=0.1, seed=1), NoiseParameters(deviation=0.05, seed=2)]

    first, second = with_noise(zeros, noises), with_noise(zeros, noises)

    assert torch.equal(first, second)
    assert first.std((1, 2, 3)).tolist() == pytest.approx([0.1, 0.05], rel=0.02)
    assert first.mean((1, 2, 3)).tolist() == pytest.approx([0, 0], abs=0.002)
    assert abs(np.corrcoef(first.flatten(1))[0, 1]) < 0.02


def test_blur_kernel_is_that_of_the_specification() -> None:
    expected = [0.015200, 0.218752, 0.532097, 0.218752, 0.015200]

    assert blur_kernel(0.75).tolist() == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("deviation", "length"), [(0.5, 3), (0.5833, 3), (0.5834, 5), (0.9166, 5), (0.9167, 7), (1.0, 7)]
)
def test_length_of_a_blur_kernel(deviation: float, length: int) -> None:
    assert len(blur_kernel(deviation)) == length


def test_blur_reflects_at_the_border_without_repeating_it() -> None:
    operator = blur_operator(4, 0.5)

    near, centre, _ = blur_kernel(0.5)
    assert operator[0].tolist() == pytest.approx([centre, 2 * near, 0, 0])
    assert operator.sum(axis=1).tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_blur_stands_axes_shorter_than_its_kernel(size: int) -> None:
    assert blur_operator(size, 1.0).sum(axis=1).tolist() == pytest.approx([1] * size)


def test_blur_goes_along_every_axis_with_its_own_deviation() -> None:
    rows = torch.zeros(2, 9, 9, 9)
    rows[:, 4, 4, 4] = 1
    deviations = [(0.5, 0.75, 1.0), (1.0, 0.5, 0.75)]

    changed = blurred(rows, deviations)

    for row, values in zip(changed, deviations, strict=True):
        kernels = [np.pad(blur_kernel(value), 4 - len(blur_kernel(value)) // 2) for value in values]
        torch.testing.assert_close(
            row.double(), torch.from_numpy(np.einsum("z,y,x->zyx", *kernels)), atol=1e-7, rtol=1e-5
        )


def test_low_resolution_is_that_of_the_specification() -> None:
    values = torch.arange(64, dtype=torch.float32).pow(1.5).view(1, 8, 8)

    first_row = at_low_resolution(values, [(0.6, 0.6)])[0, 0]

    assert first_row.tolist() == pytest.approx(LOW_RESOLUTION, abs=6e-4)


def test_low_resolution_keeps_axes_that_lose_nothing() -> None:
    rows = random_rows(1, 5, 8, 8)

    changed = at_low_resolution(rows, [(1.0, 0.5, 0.5)])

    torch.testing.assert_close(
        changed, torch.cat([at_low_resolution(rows[:, z], [(0.5, 0.5)])[:, None] for z in range(5)], dim=1)
    )


@pytest.mark.parametrize(("size", "zoom"), [(40, 0.5), (41, 0.73), (56, 0.999), (7, 0.51)])
def test_low_resolution_agrees_with_interpolation(size: int, zoom: float) -> None:
    values = random_rows(1, size)

    changed = values.double() @ torch.from_numpy(zoom_operator(size, zoom)).double().T

    small = torch.nn.functional.interpolate(values[None], size=round(size * zoom), mode="nearest-exact")
    expected = torch.nn.functional.interpolate(small, size=size, mode="linear")[0]
    torch.testing.assert_close(changed.float(), expected, atol=1e-5, rtol=0)


def test_nearest_voxels_are_those_that_torch_takes() -> None:
    for size in range(1, 130, 3):
        index = torch.arange(size, dtype=torch.float32).view(1, 1, size)
        for small in range(1, size + 1):
            expected = torch.nn.functional.interpolate(index, size=small, mode="nearest-exact")[0, 0]
            assert nearest_indices(size, small).tolist() == expected.tolist()


def test_nearest_voxels_ascend() -> None:
    assert all(first < second for first, second in pairwise(nearest_indices(8, 5).tolist()))
