from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from core.domain.labels import LabelSet, label_set
from core.errors import TrainingError
from core.training.patches import batches, make_batch
from core.training.previous import PreviousParameters
from core.training.samples import SamplingSetup, draw_batch
from tests.core.training.setups import CPU, LABELS, REGIONS, case_of, setup_of

SIDES = label_set({"background": 0, "block": 1, "seed": 2}, None)


def cascade_of(
    *patch: int, labels: LabelSet = LABELS, is_training: bool = True, **settings: Any
) -> SamplingSetup:
    """A cascade whose previous stage found exactly what the reference says."""
    setup = setup_of(*patch, labels=labels, is_training=is_training, **settings)
    told = {case_id: replace(case, previous_zyx=case.labels_zyx) for case_id, case in setup.cases.items()}
    configuration = setup.configuration.model_copy(update={"previous_stage": "lower"})
    return replace(setup, cases=told, configuration=configuration)


@pytest.mark.parametrize("patch", [(12, 12, 12), (4, 16, 16), (16, 12)])
@pytest.mark.parametrize("augmentation", ["default", "strong", "none"])
def test_in_a_cascade_the_previous_stage_comes_as_channels_and_moves_with_the_labels(
    patch: tuple[int, ...], augmentation: str
) -> None:
    setup = cascade_of(*patch, augmentation=augmentation)

    made = [make_batch(setup, (0, k), CPU) for k in range(6)]

    samples = [sample for k in range(6) for sample in draw_batch(setup, (0, k))]
    voxels, targets = torch.cat([b.voxels_bczyx for b in made]), torch.cat([b.targets[0] for b in made])
    assert voxels.shape == (18, 4, *patch)
    undisturbed = [sample.previous == PreviousParameters() for sample in samples]
    assert any(undisturbed)
    assert all(undisturbed) == (augmentation == "none")
    expected = torch.cat([targets == 1, targets == 2], dim=1).float()
    assert torch.equal(voxels[undisturbed, 2:], expected[undisturbed])
    if augmentation != "none":
        assert not torch.equal(voxels[:, 2:], expected)


def test_in_a_cascade_the_image_and_the_targets_are_those_without_one() -> None:
    alone, cascade = setup_of(12, 10, 8), cascade_of(12, 10, 8)

    for k in range(4):
        one, other = make_batch(alone, (0, k), CPU), make_batch(cascade, (0, k), CPU)
        assert torch.equal(one.voxels_bczyx, other.voxels_bczyx[:, :2])
        assert torch.equal(one.targets[0], other.targets[0])


def test_validation_of_a_cascade_disturbs_nothing() -> None:
    setup = cascade_of(12, 10, 8, is_training=False)

    batch = make_batch(setup, (0, 0), CPU)

    expected = torch.cat([batch.targets[0] == 1, batch.targets[0] == 2], dim=1).float()
    assert torch.equal(batch.voxels_bczyx[:, 2:], expected)


def test_regions_of_a_cascade_see_the_labels_of_the_previous_stage() -> None:
    setup = cascade_of(12, 10, 8, labels=REGIONS, is_training=False)

    batch = make_batch(setup, (0, 2), CPU)

    whole, core = batch.targets[0][:, 0], batch.targets[0][:, 1]
    assert torch.equal(batch.voxels_bczyx[:, 2].bool(), whole & ~core)
    assert torch.equal(batch.voxels_bczyx[:, 3].bool(), core)


def test_beyond_the_image_the_previous_stage_found_nothing() -> None:
    setup = cascade_of(12, 10, 8, is_training=False)
    small = case_of(np.ones((2, 5, 6, 7), np.float32), np.ones((5, 6, 7), np.int8))
    setup = replace(setup, cases={"small": replace(small, previous_zyx=small.labels_zyx)})

    batch = make_batch(setup, (0, 0), CPU)

    assert torch.equal(batch.voxels_bczyx[:, 2], batch.voxels_bczyx[:, 0])
    assert batch.voxels_bczyx[:, 3].sum() == 0


def test_left_and_right_change_places_in_the_previous_stage_too() -> None:
    setup = cascade_of(12, 10, 8, labels=SIDES, swapped_labels=(("block", "seed"),), swap_axis=2)

    samples, batch = draw_batch(setup, (0, 0)), make_batch(setup, (0, 0), CPU)

    assert any(2 in sample.augmentation.mirrored for sample in samples)
    undisturbed = [sample.previous == PreviousParameters() for sample in samples]
    expected = torch.cat([batch.targets[0] == 1, batch.targets[0] == 2], dim=1).float()
    assert torch.equal(batch.voxels_bczyx[undisturbed, 2:], expected[undisturbed])


def test_more_labels_are_disturbed_by_the_strong_augmentation_and_with_nearest_labels() -> None:
    assert cascade_of(8, 8, 8).disturbed_labels == 0.5
    assert cascade_of(8, 8, 8, augmentation="strong").disturbed_labels == 1
    assert cascade_of(8, 8, 8, label_interpolation="nearest").disturbed_labels == 1
    assert cascade_of(8, 8, 8, augmentation="none", label_interpolation="nearest").disturbed_labels == 0


def test_a_case_that_the_previous_stage_did_not_segment_is_named() -> None:
    setup = cascade_of(8, 8, 8)
    lacking = {**setup.cases, "case_1": replace(setup.cases["case_1"], previous_zyx=None)}

    with pytest.raises(TrainingError, match=r"case case_1 has no segmentation of the previous stage"):
        batches(replace(setup, cases=lacking), 0, CPU)
