from itertools import product
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.training.morphology import ball, closed, dilated, eroded, opened

RADII = st.floats(1, 4)


def blobs(*shape: int, seed: int = 0, threshold: float = 0.5) -> Tensor:
    """Noise, smoothed a little: parts of every size, some at the border."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    for axis in range(len(shape)):
        noise = (noise + noise.roll(1, axis) + noise.roll(2, axis)) / 3
    return noise > threshold


def moved(mask: Tensor, radius: float, *, outside: bool) -> Tensor:
    """For each member of the ball, the mask seen from there."""
    members = ball(radius, mask.dim())
    below = (members.shape[0] - 1) // 2
    edges = [(below, members.shape[0] - 1 - below)] * mask.dim()
    padded = np.pad(mask.numpy(), edges, constant_values=outside)
    seen = [
        padded[tuple(slice(start, start + size) for start, size in zip(place, mask.shape, strict=True))]
        for place in np.argwhere(members)
    ]
    return torch.from_numpy(np.stack(seen))


@settings(max_examples=20, deadline=None)
@given(
    radius=RADII, seed=st.integers(0, 99), shape=st.sampled_from([(9, 11, 7), (1, 12, 10), (13, 16), (1, 5)])
)
def test_every_voxel_of_the_ball_counts(radius: float, seed: int, shape: tuple[int, ...]) -> None:
    mask = blobs(*shape, seed=seed)

    assert torch.equal(dilated(mask, radius), moved(mask, radius, outside=False).any(0))
    assert torch.equal(eroded(mask, radius), moved(mask, radius, outside=True).all(0))


@pytest.mark.parametrize("shape", [(12, 14, 13), (16, 15)])
@pytest.mark.parametrize("radius", [1.0, 2.3, 3.7])
def test_opening_and_closing_are_made_of_both(shape: tuple[int, ...], radius: float) -> None:
    mask = blobs(*shape)

    assert torch.equal(opened(mask, radius), dilated(eroded(mask, radius), radius))
    assert torch.equal(closed(mask, radius), eroded(dilated(mask, radius), radius))


@pytest.mark.parametrize("change", [dilated, eroded, opened, closed])
def test_nothing_comes_of_nothing(change: object) -> None:
    assert callable(change)
    assert not change(torch.zeros(5, 6, 7, dtype=torch.bool), 3.3).any()


def test_erosion_takes_what_is_beyond_the_array_for_mask() -> None:
    assert eroded(torch.ones(4, 5, 6, dtype=torch.bool), 2.5).all()


@pytest.mark.parametrize(("radius", "edge"), [(1, 3), (1.49, 3), (1.5, 4), (2, 5), (7.9, 16)])
def test_edge_of_a_ball(radius: float, edge: int) -> None:
    assert ball(radius, 3).shape == (edge, edge, edge)
    assert edge == floor(2 * radius + 1)


def test_a_ball_of_an_odd_edge_is_that_of_whole_steps() -> None:
    steps = range(-2, 3)

    expected = {place for place in product(steps, repeat=3) if sum(step * step for step in place) <= 4}

    assert {tuple(place - 2) for place in np.argwhere(ball(2.0, 3))} == expected


# Recorded from the reference, as what follows.
DISK = ["000000", "011110", "011110", "011110", "011100", "000000"]
SQUARE_DILATED = ["1111100", "1111100", "1111100", "1111100", "1111100", "0000000"]
SLICE_DILATED = ["111110", "111110", "111110", "111110", "000000"]
SLICE_ERODED = ["000000", "011100", "011100", "000000", "000000"]


def rows_of(mask: Tensor) -> list[str]:
    return ["".join(str(int(one)) for one in row) for row in mask]


def test_a_disk_of_a_broken_radius_leans_to_one_side() -> None:
    assert rows_of(torch.from_numpy(ball(2.3, 2))) == DISK


def test_a_dilated_square_is_that_of_the_reference() -> None:
    mask = torch.zeros(6, 7, dtype=torch.bool)
    mask[1:4, 2:4] = True

    assert rows_of(dilated(mask, 2.3)) == SQUARE_DILATED


def test_a_block_is_changed_as_by_the_reference() -> None:
    mask = torch.zeros(2, 5, 6, dtype=torch.bool)
    mask[:, 1:4, 1:5] = True

    assert [rows_of(part) for part in dilated(mask, 1.6)] == [SLICE_DILATED] * 2
    assert [rows_of(part) for part in eroded(mask, 1.6)] == [SLICE_ERODED] * 2
