from math import pi, radians

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.domain.geometry import Box
from core.training.positions import read_box
from core.training.spatial import PatchGeometry, SpatialParameters, affine, needed_box, patch_geometry
from core.training.warp import transformed
from tests.plans import small_plan

RAMP_5 = torch.arange(25, dtype=torch.float32).view(1, 1, 5, 5)
STRIPES_5 = torch.tensor([1, 1, 0, 0, 0], dtype=torch.int16).view(1, 5, 1).expand(1, 5, 5).contiguous()


def geometry_of(patch: tuple[int, ...]) -> PatchGeometry:
    _, configuration = small_plan([1] * len(patch), entries={"patch_size": list(patch)})
    return patch_geometry(configuration)


def plane(initial: int, patch: int) -> PatchGeometry:
    return PatchGeometry((1, patch, patch), (1, initial, initial), pi, 2, 2)


def cut(voxels_czyx: Tensor, box: Box, padding: float) -> Tensor:
    """Read a box that may reach beyond the array, which stands for the whole initial patch."""
    z, y, x = voxels_czyx.shape[-3:]
    return torch.from_numpy(read_box(voxels_czyx.numpy(), box, ((0, z), (0, y), (0, x)), padding))


def moved(
    voxels_czyx: Tensor, labels_zyx: Tensor, geometry: PatchGeometry, spatial: SpatialParameters
) -> tuple[Tensor, Tensor]:
    box = needed_box(geometry, spatial)
    voxels, labels = transformed(cut(voxels_czyx, box, 0), cut(labels_zyx, box, -1)[None], geometry, spatial)
    return voxels, labels[0]


def test_a_quarter_turn() -> None:
    voxels, labels = moved(RAMP_5, STRIPES_5, plane(5, 5), SpatialParameters(angles=(pi / 2,), scale=1))

    assert voxels[0, 0, 0].tolist() == pytest.approx([20, 15, 10, 5, 0], abs=1e-4)
    assert voxels[0, 0, 1].tolist() == pytest.approx([21, 16, 11, 6, 1], abs=1e-4)
    assert labels[0].tolist() == [[0, 0, 0, 1, 1]] * 5


def test_a_turn_by_30_degrees() -> None:
    spatial = SpatialParameters(angles=(radians(30),), scale=1)

    voxels, labels = moved(RAMP_5, STRIPES_5, plane(5, 5), spatial)

    assert voxels[0, 0, 0].tolist() == pytest.approx([1.699, 3.974, 2.340, 1.433, 0.732], abs=6e-4)
    assert voxels[0, 0, 2, 2].item() == pytest.approx(12)
    assert {tuple(position) for position in (labels[0] == -1).nonzero().tolist()} == {
        (0, 0),
        (0, 4),
        (4, 0),
        (4, 4),
    }


def test_zooming_out() -> None:
    voxels, labels = moved(RAMP_5, STRIPES_5, plane(5, 5), SpatialParameters(angles=(0,), scale=2))

    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = torch.tensor([[0, 2, 4], [10, 12, 14], [20, 22, 24]])
    torch.testing.assert_close(voxels[0, 0], expected)
    assert labels[0].tolist() == [
        [-1, -1, -1, -1, -1],
        [-1, 1, 1, 1, -1],
        [-1, 0, 0, 0, -1],
        [-1, 0, 0, 0, -1],
        [-1, -1, -1, -1, -1],
    ]


def test_zooming_in() -> None:
    voxels, _ = moved(RAMP_5, STRIPES_5, plane(5, 5), SpatialParameters(angles=(0,), scale=0.5))

    assert voxels[0, 0, 0].tolist() == [6, 6.5, 7, 7.5, 8]


def test_the_centre_of_a_transform_is_that_of_the_initial_patch() -> None:
    ramp = torch.arange(49, dtype=torch.float32).view(1, 1, 7, 7)
    labels = torch.zeros(1, 7, 7, dtype=torch.int16)

    voxels, _ = moved(ramp, labels, plane(7, 4), SpatialParameters(angles=(0,), scale=1))
    cropped = cut(ramp, needed_box(plane(7, 4), None), 0)

    assert voxels[0, 0, 0].tolist() == [12, 13, 14, 15]
    assert cropped[0, 0, 0].tolist() == [8, 9, 10, 11]


def test_slices_of_an_anisotropic_patch_stay_slices() -> None:
    geometry = PatchGeometry((2, 4, 4), (2, 7, 7), pi, 2, 3)
    volume = torch.rand(3, 2, 7, 7, generator=torch.Generator().manual_seed(0))
    labels = (volume[0] * 5).short()
    spatial = SpatialParameters(angles=(0.7,), scale=1.2)

    voxels, voted = moved(volume, labels, geometry, spatial)

    alone = [moved(volume[:, [z]], labels[[z]], plane(7, 4), spatial) for z in range(2)]
    torch.testing.assert_close(voxels, torch.cat([slice_czyx for slice_czyx, _ in alone], dim=1))
    torch.testing.assert_close(voted, torch.cat([slice_zyx for _, slice_zyx in alone]))


SPATIAL = st.builds(
    SpatialParameters,
    angles=st.tuples(*[st.floats(-radians(30), radians(30))] * 3),
    scale=st.floats(0.7, 1.4),
)


@settings(max_examples=25, deadline=None)
@given(spatial=SPATIAL, seed=st.integers(0, 1000))
def test_voxels_agree_with_interpolation_of_the_whole_initial_patch(
    spatial: SpatialParameters, seed: int
) -> None:
    geometry = geometry_of((8, 10, 7))
    sizes = geometry.initial
    volume = torch.rand(2, *sizes, generator=torch.Generator().manual_seed(seed))
    labels = torch.zeros(sizes, dtype=torch.int16)

    voxels, _ = moved(volume, labels, geometry, spatial)

    offsets = [torch.arange(edge, dtype=torch.float64) - (edge - 1) / 2 for edge in geometry.patch]
    grid = torch.stack(torch.meshgrid(*offsets, indexing="ij"), dim=-1) @ torch.from_numpy(affine(spatial)).T
    grid = (grid * 2 / torch.tensor(sizes)).flip(-1).float()
    expected = torch.nn.functional.grid_sample(volume[None], grid[None], align_corners=False)[0]
    torch.testing.assert_close(voxels, expected, atol=2e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(spatial=SPATIAL, seed=st.integers(0, 1000))
def test_a_label_wins_where_its_interpolated_share_is_largest(spatial: SpatialParameters, seed: int) -> None:
    geometry = geometry_of((8, 10, 7))
    labels = torch.randint(
        -1, 4, geometry.initial, dtype=torch.int16, generator=torch.Generator().manual_seed(seed)
    )
    indicators = torch.stack([labels == label for label in (-1, 0, 1, 2, 3)]).float()

    _, voted = moved(indicators, labels, geometry, spatial)
    shares, _ = moved(indicators, labels, geometry, spatial)

    shares[0] += 1 - shares.sum(0)
    best = shares.amax(0)
    winner = shares.gather(0, (voted.long() + 1)[None])[0]
    assert (best - winner).max().item() < 1e-3


def test_the_number_of_labels_changes_no_vote() -> None:
    geometry = geometry_of((8, 10, 7))
    spatial = SpatialParameters(angles=(0.3, 0.1, -0.2), scale=0.9)
    few = torch.randint(0, 2, geometry.initial, dtype=torch.int16, generator=torch.Generator().manual_seed(3))
    nothing = torch.zeros(1, *geometry.initial)

    _, voted = moved(nothing, few, geometry, spatial)
    _, renamed = moved(nothing, few * 117, geometry, spatial)

    assert torch.equal(voted * 117, renamed.where(renamed >= 0, voted * 117))


def test_halfway_between_two_labels_the_nearest_voxel_decides() -> None:
    labels = torch.tensor([5, 2, 5, 2], dtype=torch.int16).view(1, 1, 4).expand(1, 4, 4).contiguous()
    nothing = torch.zeros(1, 1, 4, 4)

    _, voted = moved(nothing, labels, plane(4, 3), SpatialParameters(angles=(0,), scale=1))

    # Sampled at columns 0.5, 1.5 and 2.5, halfway; even coordinates count as nearest: 0, 2 and 2.
    assert voted[0, 0].tolist() == [5, 5, 5]


@settings(max_examples=25, deadline=None)
@given(spatial=SPATIAL, seed=st.integers(0, 1000))
def test_the_nearest_label_is_that_of_nearest_interpolation(spatial: SpatialParameters, seed: int) -> None:
    geometry = geometry_of((8, 10, 7))
    labels = torch.randint(
        0, 4, geometry.initial, dtype=torch.int16, generator=torch.Generator().manual_seed(seed)
    )
    box = needed_box(geometry, spatial)

    _, taken = transformed(
        cut(labels[None].float(), box, 0), cut(labels, box, -1)[None], geometry, spatial, is_voted=False
    )

    offsets = [torch.arange(edge, dtype=torch.float64) - (edge - 1) / 2 for edge in geometry.patch]
    grid = torch.stack(torch.meshgrid(*offsets, indexing="ij"), dim=-1) @ torch.from_numpy(affine(spatial)).T
    places = grid + (torch.tensor(geometry.initial) - 1) / 2
    is_clear = ((places - places.floor() - 0.5).abs() > 1e-3).all(-1)
    grid = (grid * 2 / torch.tensor(geometry.initial)).flip(-1)
    shifted = labels[None, None].double() + 1
    expected = torch.nn.functional.grid_sample(shifted, grid[None], mode="nearest", align_corners=False)
    # Where a point lies halfway between two voxels, the rounding of its place decides.
    assert ((taken == expected[0] - 1) | ~is_clear).all()


def test_two_label_maps_of_a_patch_move_together() -> None:
    geometry = geometry_of((8, 10, 7))
    spatial = SpatialParameters(angles=(0.3, 0.1, -0.2), scale=(0.9, 1.1, 1.3))
    labels = torch.randint(0, 3, (2, *geometry.initial), generator=torch.Generator().manual_seed(3)).short()
    nothing = cut(torch.zeros(1, *geometry.initial), needed_box(geometry, spatial), 0)

    both = cut(labels, needed_box(geometry, spatial), -1)
    _, voted = transformed(nothing, both, geometry, spatial)

    for map_zyx, voted_zyx in zip(both, voted, strict=True):
        assert torch.equal(transformed(nothing, map_zyx[None], geometry, spatial)[1][0], voted_zyx)


# Recorded from the reference.
STRETCHED = [
    [0.3257, 6.3143, 4.2718, 2.2582, 1.2261],
    [5.561, 10.1784, 8.1359, 6.0934, 4.051],
    [13.5677, 14.0425, 12.0, 9.9575, 6.4708],
    [19.949, 17.9066, 15.8641, 13.8216, 4.8774],
    [7.5185, 21.4864, 19.7282, 17.6857, 0.5128],
]
STRETCHED_STRIPES = [
    [-1, 1, 1, 1, -1],
    [-1, 0, 1, 1, 1],
    [0, 0, 0, 1, 1],
    [0, 0, 0, 0, -1],
    [-1, 0, 0, 0, -1],
]


def test_a_turn_with_a_scale_of_its_own_for_each_axis_is_that_of_the_reference() -> None:
    spatial = SpatialParameters(angles=(radians(30),), scale=(0.8, 1.25))

    voxels, labels = moved(RAMP_5, STRIPES_5, plane(5, 5), spatial)

    torch.testing.assert_close(voxels[0, 0], torch.tensor(STRETCHED), atol=1e-4, rtol=0)
    assert labels[0].tolist() == STRETCHED_STRIPES
