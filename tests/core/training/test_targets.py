import pytest
import torch

from core.domain.labels import LabelSet, label_set
from core.domain.plan import Architecture
from core.training.targets import deep_supervision_scales, make_targets
from tests.plans import small_plan

LABELS = label_set({"background": 0, "a": 1, "b": 2, "c": 3}, None)
REGIONS = label_set({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, [1, 2, 3])
IGNORING = label_set(
    {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}, [1, 2, 3]
)


def architecture(strides: list[list[int]]) -> Architecture:
    plain = small_plan([1] * len(strides[0]))[1].architecture.to_json()
    plain["arch_kwargs"]["strides"] = strides
    return Architecture.model_validate(plain)


def test_scales_are_those_of_every_stage_but_the_last() -> None:
    strides = [[1, 1, 1], [2, 2, 2], [1, 2, 2], [2, 2, 2]]

    assert deep_supervision_scales(architecture(strides)) == ((1, 1, 1), (0.5, 0.5, 0.5), (0.5, 0.25, 0.25))


def test_targets_have_the_sizes_of_the_outputs() -> None:
    labels = torch.zeros(2, 5, 8, 12, dtype=torch.int16)

    targets = make_targets(labels, LABELS, ((1, 1, 1), (0.5, 0.5, 0.5), (0.5, 0.25, 0.25)))

    # Half of 5 rounds to even.
    assert [tuple(target.shape) for target in targets] == [(2, 1, 5, 8, 12), (2, 1, 2, 4, 6), (2, 1, 2, 2, 3)]


def test_targets_take_the_nearest_voxels() -> None:
    labels = torch.arange(40, dtype=torch.int16).view(1, 5, 8)

    _, half = make_targets(labels, LABELS, ((1, 1), (0.5, 0.5)))

    assert half[0, 0].tolist() == [[9, 11, 13, 15], [25, 27, 29, 31]]


def test_outside_the_image_is_background() -> None:
    labels = torch.tensor([[[-1, 0], [1, 3]]], dtype=torch.int16)

    (target,) = make_targets(labels, LABELS, ())

    assert target.tolist() == [[[[0, 0], [1, 3]]]]
    assert target.dtype == torch.int16


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (REGIONS, [[0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0]]),
        (IGNORING, [[0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]),
    ],
)
def test_regions_become_channels_and_the_ignore_label_the_last(
    labels: LabelSet, expected: list[list[int]]
) -> None:
    values = torch.tensor([[[-1, 0, 1, 2, 3, 4]]], dtype=torch.int16)

    (target,) = make_targets(values, labels, ((1, 1),))

    assert target.dtype == torch.bool
    assert target[0, :, 0].int().tolist() == expected


def test_regions_shrink_like_labels() -> None:
    labels = torch.randint(-1, 5, (2, 6, 7, 8), generator=torch.Generator().manual_seed(0)).short()
    scales = ((1, 1, 1), (0.5, 0.5, 0.5))

    _, small = make_targets(labels, IGNORING, scales)
    _, small_labels = make_targets(labels, LABELS, scales)

    assert torch.equal(small[:, 1:2], (small_labels == 2) | (small_labels == 3))
    assert torch.equal(small[:, 3:4], small_labels == 4)
