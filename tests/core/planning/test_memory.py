"""The cost of a network and the batch that it allows."""

import pytest

from core.planning.architecture import architecture
from core.planning.memory import batch_size, budget, feature_maps, is_over_budget
from core.planning.presets import DEFAULT, RESENC_L
from core.planning.topology import topology


@pytest.mark.parametrize(
    ("spacing", "patch", "stages", "plain", "residual"),
    [
        ((1.0, 1.0, 1.0), (128, 128, 128), 6, 452_796_416, 557_420_544),
        ((1.0, 1.0), (512, 512), 8, 82_886_656, 129_703_936),
        ((1.0, 1.0, 1.0), (40, 56, 40), 4, 19_174_400, 23_609_600),
        ((1.0, 1.0), (56, 40), 4, 651_840, 1_001_280),
        ((5.0, 1.5625, 1.5625), (20, 256, 224), 6, 309_335_040, 426_298_880),
    ],
)
def test_feature_maps_of_reference_networks(
    spacing: tuple[float, ...], patch: tuple[int, ...], stages: int, plain: int, residual: int
) -> None:
    chosen = topology(spacing, patch)

    costs = [
        feature_maps(patch, architecture(chosen, is_residual=kind).unet, classes=3) for kind in (False, True)
    ]

    assert chosen.patch_size == patch
    assert len(chosen.strides) == stages
    assert costs == [plain, residual]


def test_more_classes_cost_one_full_map_each() -> None:
    network = architecture(topology((1.0, 1.0), (56, 40)), is_residual=False).unet

    assert feature_maps((56, 40), network, 4) - feature_maps((56, 40), network, 3) == 56 * 40


def test_the_budget_scales_with_the_memory_target() -> None:
    assert budget(DEFAULT, 3, None) == 560e6
    assert budget(DEFAULT, 2, 16) == 170e6
    assert budget(RESENC_L, 3, 12) == 1050e6


def test_a_plain_2d_patch_may_cost_six_times_the_budget() -> None:
    assert not is_over_budget(600, 100.0, 2, patch_outranks_batch=True)
    assert is_over_budget(601, 100.0, 2, patch_outranks_batch=True)
    assert is_over_budget(101, 100.0, 2, patch_outranks_batch=False)
    assert is_over_budget(101, 100.0, 3, patch_outranks_batch=True)


def test_the_batch_shows_a_twentieth_of_the_dataset_at_most() -> None:
    assert batch_size(19_174_400, 560e6, (40, 56, 40), 16_380_000, 0.05) == 9
    assert batch_size(19_174_400, 560e6, (40, 56, 40), 16_380_000, 1.0) == 58


def test_a_batch_has_at_least_two_samples() -> None:
    assert batch_size(10**9, 1e6, (40, 56, 40), 100_000, 0.05) == 2
