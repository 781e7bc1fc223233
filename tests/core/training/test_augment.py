from collections.abc import Sequence
from itertools import chain
from math import radians
from typing import TypeVar

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from core.domain.training import TrainingSettings
from core.training.augment import augmented, draw_default
from core.training.intensity import (
    NoiseParameters,
    at_low_resolution,
    blurred,
    brightened,
    with_contrast,
    with_gamma,
    with_inverted_gamma,
    with_noise,
)
from core.training.parameters import AugmentationParameters
from core.training.patches import masked
from core.training.spatial import PatchGeometry, patch_geometry
from tests.plans import small_plan

DRAWS = 10_000
CHANNELS = 2
SETTINGS = TrainingSettings()
T = TypeVar("T")


def geometry_of(*patch: int) -> PatchGeometry:
    return patch_geometry(small_plan([1] * len(patch), entries={"patch_size": list(patch)})[1])


@pytest.fixture(scope="module")
def drawn() -> list[AugmentationParameters]:
    rng = np.random.default_rng(1)
    return [draw_default(rng, geometry_of(40, 56, 40), CHANNELS, SETTINGS) for _ in range(DRAWS)]


def assert_share(hits: Sequence[bool], probability: float) -> None:
    """Require a share within five standard deviations of the binomial distribution."""
    spread = (probability * (1 - probability) / len(hits)) ** 0.5
    assert abs(sum(hits) / len(hits) - probability) < 5 * spread


def assert_uniform(values: Sequence[float], low: float, high: float) -> None:
    assert kstest(values, "uniform", args=(low, high - low)).pvalue > 1e-3


def assert_two_sided(values: Sequence[float], low: float, high: float) -> None:
    below, above = [v for v in values if v < 1], [v for v in values if v >= 1]
    assert_share([v < 1 for v in values], 0.5)
    assert_uniform(below, low, 1)
    assert_uniform(above, 1, high)


def test_rotation_and_scaling_are_drawn_independently(drawn: list[AugmentationParameters]) -> None:
    spatial = [one.spatial for one in drawn]
    rotated = [one is not None and any(one.angles) for one in spatial]
    scaled = [one is not None and one.scale != 1 for one in spatial]

    assert_share(rotated, 0.2)
    assert_share(scaled, 0.2)
    assert_share([a and b for a, b in zip(rotated, scaled, strict=True)], 0.04)
    assert_share([one is None for one in spatial], 0.64)
    turns = [one.angles for one in spatial if one is not None and any(one.angles)]
    for axis in range(3):
        assert_uniform([angles[axis] for angles in turns], -radians(30), radians(30))
    assert np.abs(np.corrcoef(np.array(turns).T) - np.eye(3)).max() < 0.1
    scales = [one.scale for one in spatial if one is not None and one.scale != 1]
    assert_uniform([scale for scale in scales if isinstance(scale, float)], 0.7, 1.4)


def test_noise_is_drawn_as_specified(drawn: list[AugmentationParameters]) -> None:
    noises = [one.noise for one in drawn if one.noise]

    assert_share([bool(one.noise) for one in drawn], 0.1)
    assert_uniform([first.deviation for first, _ in noises], 0, 0.1)
    assert all(first.deviation == second.deviation for first, second in noises)
    assert len({noise.seed for noise in chain(*noises)}) == 2 * len(noises)


def test_blur_is_drawn_as_specified(drawn: list[AugmentationParameters]) -> None:
    channels = [values for one in drawn for values in one.blur]

    assert_share([bool(one.blur) for one in drawn], 0.2)
    assert_share([values is not None for values in channels], 0.5)
    deviations = np.array([values for values in channels if values is not None])
    assert deviations.shape[1] == 3
    assert_uniform(deviations.ravel().tolist(), 0.5, 1)
    assert np.abs(np.corrcoef(deviations.T) - np.eye(3)).max() < 0.1


def test_low_resolution_is_drawn_as_specified(drawn: list[AugmentationParameters]) -> None:
    channels = [values for one in drawn for values in one.low_resolution]

    assert_share([bool(one.low_resolution) for one in drawn], 0.25)
    assert_share([values is not None for values in channels], 0.5)
    zooms = np.array([values for values in channels if values is not None])
    assert (zooms == zooms[:, :1]).all()
    assert_uniform(zooms[:, 0].tolist(), 0.5, 1)


@pytest.mark.parametrize(
    ("name", "probability", "low", "high"),
    [
        ("brightness", 0.15, 0.75, 1.25),
        ("contrast", 0.15, 0.75, 1.25),
        ("inverted_gamma", 0.1, 0.7, 1.5),
        ("gamma", 0.3, 0.7, 1.5),
    ],
)
def test_factors_are_drawn_as_specified(
    drawn: list[AugmentationParameters], name: str, probability: float, low: float, high: float
) -> None:
    values = [getattr(one, name) for one in drawn]

    assert_share([bool(factors) for factors in values], probability)
    assert {len(factors) for factors in values} == {0, CHANNELS}
    assert_two_sided(list(chain(*values)), low, high)


def test_every_axis_is_mirrored_half_of_the_time(drawn: list[AugmentationParameters]) -> None:
    for axes in ((0,), (1,), (2,)):
        assert_share([set(axes) <= set(one.mirrored) for one in drawn], 0.5)
    assert_share([len(one.mirrored) == 3 for one in drawn], 0.125)


def test_slices_of_an_anisotropic_patch_turn_freely_and_keep_their_number() -> None:
    rng = np.random.default_rng(0)

    drawn = [draw_default(rng, geometry_of(10, 64, 64), 1, SETTINGS) for _ in range(3000)]

    angles = [one.spatial.angles for one in drawn if one.spatial is not None and any(one.spatial.angles)]
    assert {len(one) for one in angles} == {1}
    assert_uniform([angle for (angle,) in angles], -np.pi, np.pi)
    zooms = [values for one in drawn for values in one.low_resolution if values is not None]
    assert {z for z, _, _ in zooms} == {1}
    assert {len(values) for one in drawn for values in one.blur if values is not None} == {3}


def test_pictures_are_augmented_along_two_axes() -> None:
    rng = np.random.default_rng(0)

    drawn = [draw_default(rng, geometry_of(64, 64), 3, SETTINGS) for _ in range(500)]

    assert set(chain(*(one.mirrored for one in drawn))) == {0, 1}
    assert {len(values) for one in drawn for values in one.blur if values is not None} == {2}
    assert {len(values) for one in drawn for values in one.low_resolution if values is not None} == {2}
    assert {len(one.spatial.angles) for one in drawn if one.spatial is not None} == {1}


def test_parameters_can_be_recorded_and_replayed(drawn: list[AugmentationParameters]) -> None:
    for one in drawn[:200]:
        assert AugmentationParameters.model_validate_json(one.model_dump_json()) == one


def test_transforms_are_applied_in_the_order_of_the_specification() -> None:
    voxels = torch.randn(2, 1, 8, 9, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(-1, 3, (2, 2, 8, 9, 10), generator=torch.Generator().manual_seed(1)).short()
    everything = AugmentationParameters(
        noise=(NoiseParameters(deviation=0.1, seed=7),),
        blur=((0.6, 0.7, 0.8),),
        brightness=(1.2,),
        contrast=(0.8,),
        low_resolution=((0.7, 0.7, 0.7),),
        inverted_gamma=(1.4,),
        gamma=(0.9,),
        mirrored=(0, 2),
    )

    changed, moved = augmented(voxels, labels, [AugmentationParameters(), everything])

    row = with_noise(voxels[1], everything.noise)
    row = brightened(blurred(row, [(0.6, 0.7, 0.8)]), [1.2])
    row = at_low_resolution(with_contrast(row, [0.8]), [(0.7, 0.7, 0.7)])
    row = with_gamma(with_inverted_gamma(row, [1.4]), [0.9])
    torch.testing.assert_close(changed[1], row.flip(1, 3))
    assert torch.equal(moved[1], labels[1].flip(1, 3))
    assert torch.equal(changed[0], voxels[0])
    assert torch.equal(moved[0], labels[0])


def test_a_channel_without_parameter_is_left_alone() -> None:
    voxels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, 1, 8, 8, dtype=torch.int16)
    first = AugmentationParameters(blur=(None, (0.5, 1.0), None))
    second = AugmentationParameters(blur=((1.0, 0.5), None, None))

    changed, _ = augmented(voxels, labels, [first, second])

    expected = voxels.clone()
    expected[0, [1]] = blurred(voxels[0, [1]], [(0.5, 1.0)])
    expected[1, [0]] = blurred(voxels[1, [0]], [(1.0, 0.5)])
    torch.testing.assert_close(changed, expected)


def test_augmentation_leaves_its_input_as_it_is() -> None:
    voxels = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = voxels.clone()

    augmented(voxels, torch.zeros(1, 1, 8, 8, dtype=torch.int16), [AugmentationParameters(brightness=(2.0,))])

    assert torch.equal(voxels, before)


def test_channels_normalized_within_the_mask_are_empty_outside_it() -> None:
    voxels = torch.ones(1, 2, 2, 2)
    labels = torch.tensor([[[-1, 0], [1, -1]]], dtype=torch.int16)

    cleared = masked(voxels, labels, (True, False))

    assert cleared[0, 0].tolist() == [[0, 1], [1, 0]]
    assert cleared[0, 1].tolist() == [[1, 1], [1, 1]]
    assert masked(voxels, labels, (False, False)) is voxels
