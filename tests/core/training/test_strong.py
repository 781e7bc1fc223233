from itertools import pairwise

import numpy as np
import pytest
import torch

from core.domain.training import TrainingSettings
from core.training.filters import median_filtered, sharpened
from core.training.intensity import (
    NoiseParameters,
    at_low_resolution,
    blurred,
    shifted,
    with_contrast,
    with_inverted_gamma,
    with_noise,
    with_unbounded_contrast,
)
from core.training.local import (
    BumpParameters,
    GradientParameters,
    LocalGammaParameters,
    blanked,
    with_gradient,
    with_local_gamma,
)
from core.training.parameters import AugmentationParameters
from core.training.strong import draw_strong, strong_geometry, strongly_augmented
from core.training.turns import QuarterTurn
from tests.plans import small_plan

SETTINGS = TrainingSettings(augmentation="strong")
BUMP = BumpParameters(centres=(2, 3, 4), widths=(3, 4, 5))
EVERYTHING = AugmentationParameters(
    quarter_turn=QuarterTurn(axes=(1, 2), quarters=1),
    axis_order=(2, 0, 1),
    median=(3,),
    blur=((0.6, 0.6, 0.6),),
    noise=(NoiseParameters(deviation=0.1, seed=7),),
    shift=(0.3,),
    contrast=(0.8,),
    unbounded_contrast=(1.5,),
    low_resolution=((0.7, 0.7, 0.7),),
    inverted_gamma=(1.4,),
    second_inverted_gamma=(0.8,),
    mirrored=(0, 2),
    blanks=((((1, 3), (2, 5), (0, 4)),),),
    gradient=(GradientParameters(bump=BUMP, strength=-2),),
    local_gamma=(LocalGammaParameters(bump=BUMP, exponent=3),),
    sharpening=(0.4,),
)


def draws(
    *patch: int, count: int = 400, channels: int = 2, settings: TrainingSettings = SETTINGS
) -> list[AugmentationParameters]:
    _, configuration = small_plan([1] * len(patch), entries={"patch_size": list(patch)})
    geometry, rng = strong_geometry(configuration, settings), np.random.default_rng(0)
    return [draw_strong(rng, geometry, channels, settings) for _ in range(count)]


def test_transforms_are_applied_in_the_order_of_the_specification() -> None:
    voxels = torch.randn(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(-1, 3, (2, 2, 8, 8, 8), generator=torch.Generator().manual_seed(1)).short()

    changed, moved = strongly_augmented(voxels, labels, [AugmentationParameters(), EVERYTHING])

    row = torch.rot90(voxels[1], 1, [2, 3]).permute(0, 3, 1, 2)
    row = with_noise(blurred(median_filtered(row.contiguous(), [3]), [(0.6, 0.6, 0.6)]), EVERYTHING.noise)
    row = with_unbounded_contrast(with_contrast(shifted(row, [0.3]), [0.8]), [1.5])
    row = with_inverted_gamma(at_low_resolution(row, [(0.7, 0.7, 0.7)]), [1.4])
    row = with_inverted_gamma(row, [0.8]).flip(1, 3)
    row = with_gradient(
        blanked(row, [[((1, 3), (2, 5), (0, 4))]]), [GradientParameters(bump=BUMP, strength=-2)]
    )
    row = sharpened(with_local_gamma(row, [LocalGammaParameters(bump=BUMP, exponent=3)]), [0.4])
    torch.testing.assert_close(changed[1], row)
    assert torch.equal(moved[1], torch.rot90(labels[1], 1, [2, 3]).permute(0, 3, 1, 2).flip(1, 3))
    assert torch.equal(changed[0], voxels[0])
    assert torch.equal(moved[0], labels[0])


def test_augmentation_leaves_its_input_as_it_is() -> None:
    voxels = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    before = voxels.clone()

    strongly_augmented(voxels, torch.zeros(1, 1, 8, 8, 8, dtype=torch.int16), [EVERYTHING])

    assert torch.equal(voxels, before)


@pytest.mark.parametrize(
    "patch", [(1, 1, 1), (2, 3, 2), (4, 4, 4), (5, 16, 16), (1, 5), (3, 3), (2, 20), (6, 6)]
)
def test_patches_of_few_voxels_are_augmented_too(patch: tuple[int, ...]) -> None:
    voxels = torch.randn(4, 2, *patch, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(4, 1, *patch, dtype=torch.int16)
    drawn = draws(*patch, count=80)

    for first in range(0, 80, 4):
        changed, moved = strongly_augmented(voxels, labels, drawn[first : first + 4])
        assert changed.shape == voxels.shape
        assert moved.shape == labels.shape
        if min(patch) > 1:
            assert changed.isfinite().all()


def test_only_axes_of_equal_edges_change_places() -> None:
    assert {one.quarter_turn for one in draws(12, 14, 16)} == {None}
    assert {one.axis_order for one in draws(12, 14)} == {()}
    thick = draws(8, 16, 16)
    assert {one.quarter_turn.axes for one in thick if one.quarter_turn is not None} == {(1, 2)}
    assert {one.axis_order for one in thick} == {(), (0, 1, 2), (0, 2, 1)}


def test_the_axis_from_left_to_right_stays_where_labels_change_places() -> None:
    settings = TrainingSettings(swapped_labels=(("left", "right"),), swap_axis=2)

    drawn = draws(16, 16, 16, settings=settings)
    flat = draws(8, 16, 16, settings=settings)

    assert {one.quarter_turn.axes for one in drawn if one.quarter_turn is not None} == {(0, 1)}
    assert {one.axis_order for one in drawn} == {(), (0, 1, 2), (1, 0, 2)}
    assert {one.quarter_turn for one in flat} == {None}
    assert {one.axis_order for one in flat} == {()}


def test_slices_of_an_anisotropic_patch_keep_their_number() -> None:
    drawn = draws(10, 64, 64)

    zooms = [values for one in drawn for values in one.low_resolution if values is not None]
    assert {z for z, _, _ in zooms} == {1}
    scales = [one.spatial.scale for one in drawn if one.spatial is not None and one.spatial.scale != 1]
    assert {len(scale) for scale in scales if isinstance(scale, tuple)} == {2}


def test_blank_boxes_lie_within_the_patch() -> None:
    boxes = [box for one in draws(20, 31, 7) for boxes in one.blanks if boxes is not None for box in boxes]

    bounds = np.array(boxes)
    assert (bounds[..., 0] >= 0).all()
    assert (bounds[..., 1] <= (20, 31, 7)).all()
    sizes = bounds[..., 1] - bounds[..., 0]
    assert [set(sizes[:, axis]) for axis in range(3)] == [{2, 3, 4, 5}, set(range(3, 10)), {1}]


def test_median_and_blur_exclude_each_other_and_so_do_both_contrasts() -> None:
    drawn = draws(12, 12, 12, count=2000)

    assert not any(one.median and one.blur for one in drawn)
    assert not any(one.contrast and one.unbounded_contrast for one in drawn)


def test_parameters_can_be_recorded_and_replayed() -> None:
    for one in [*draws(12, 12, 12), *draws(12, 12)]:
        assert AugmentationParameters.model_validate_json(one.model_dump_json()) == one


def test_samples_differ() -> None:
    assert all(one != other for one, other in pairwise(draws(16, 16, 16, count=50)))
