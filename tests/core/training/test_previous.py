from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor

from core.training.morphology import closed, dilated, eroded, opened
from core.training.previous import (
    OPERATIONS,
    OperationName,
    OperationParameters,
    PreviousParameters,
    RemovalParameters,
    draw_previous,
    with_previous,
)

DRAWS = 10_000


def operation(label: int, name: OperationName, radius: float) -> PreviousParameters:
    return PreviousParameters(operations=(OperationParameters(label=label, operation=name, radius=radius),))


def removal(place: float) -> PreviousParameters:
    return PreviousParameters(removals=(RemovalParameters(label=0, place=place),))


def disturbed(
    labels: Tensor, parameters: PreviousParameters, foreground: tuple[int, ...] = (1, 2, 3)
) -> Tensor:
    """Return the channels that one sample gets."""
    return with_previous(torch.zeros(1, 1, *labels.shape), labels[None], foreground, [parameters])[0, 1:]


def mixed(*shape: int) -> Tensor:
    """Blocks of the labels -1 to 3."""
    small = torch.randint(-1, 4, shape, generator=torch.Generator().manual_seed(0))
    for axis in range(len(shape)):
        small = small.repeat_interleave(3, axis)
    return small.short()


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 5)])
def test_every_foreground_label_becomes_a_channel_behind_those_of_the_image(shape: tuple[int, ...]) -> None:
    labels = torch.stack([mixed(*shape), mixed(*shape).flip(0)])
    voxels = torch.randn(2, 2, *labels.shape[1:], generator=torch.Generator().manual_seed(1))

    batch = with_previous(voxels, labels, (1, 2, 3), [PreviousParameters(), PreviousParameters()])

    assert batch.dtype == torch.float32
    assert torch.equal(batch[:, :2], voxels)
    assert torch.equal(batch[:, 2:], torch.stack([labels == value for value in (1, 2, 3)], dim=1).float())


@pytest.mark.parametrize("shape", [(4, 3, 5), (6, 5)])
@pytest.mark.parametrize(
    ("name", "change"), [("dilate", dilated), ("erode", eroded), ("close", closed), ("open", opened)]
)
def test_what_one_label_gains_the_others_lose(
    shape: tuple[int, ...], name: OperationName, change: object
) -> None:
    labels = mixed(*shape)
    assert callable(change)

    one, two, three = disturbed(labels, operation(1, name, 1.7)).bool()

    expected = change(labels == 2, 1.7)
    assert torch.equal(two, expected)
    gained = expected & (labels != 2)
    assert torch.equal(one, (labels == 1) & ~gained)
    assert torch.equal(three, (labels == 3) & ~gained)


def test_labels_are_changed_one_after_the_other() -> None:
    labels = mixed(4, 4, 4)
    first, second = operation(2, "dilate", 1.2), operation(0, "dilate", 2.2)

    both = disturbed(labels, PreviousParameters(operations=first.operations + second.operations))

    after = disturbed(labels, first).bool()
    grown = dilated(after[0], 2.2)
    assert torch.equal(both[0].bool(), grown)
    assert torch.equal(both[2].bool(), after[2] & ~(grown & ~after[0]))
    assert not torch.equal(both, disturbed(labels, second))


def test_a_sample_is_disturbed_alone() -> None:
    labels = torch.stack([mixed(4, 4, 4)] * 2)

    batch = with_previous(
        torch.zeros(2, 1, 12, 12, 12), labels, (1, 2, 3), [PreviousParameters(), operation(0, "dilate", 3)]
    )

    assert torch.equal(batch[0, 1], (labels[0] == 1).float())
    assert torch.equal(batch[1, 1].bool(), dilated(labels[1] == 1, 3))


@pytest.mark.parametrize(
    ("rows", "place", "expected"),
    [
        # Diagonal neighbours belong together.
        (["10000", "01000", "00000", "00001"], 0.0, ["00000", "00000", "00000", "00001"]),
        (["10000", "01000", "00000", "00001"], 0.9, ["10000", "01000", "00000", "00000"]),
        # Two of twenty voxels are less than 15 %, three are not.
        (["11000", "00000", "11110", "00000"], 0.7, ["00000", "00000", "11110", "00000"]),
        (["11100", "00000", "00000", "00000"], 0.5, ["11100", "00000", "00000", "00000"]),
        (["00000", "00000", "00000", "00000"], 0.5, ["00000", "00000", "00000", "00000"]),
    ],
)
def test_a_small_component_is_removed(rows: list[str], place: float, expected: list[str]) -> None:
    labels = torch.tensor([[int(one) for one in row] for row in rows], dtype=torch.int16)

    (mask,) = disturbed(labels, removal(place), (1,))

    assert ["".join(str(int(one)) for one in row) for row in mask] == expected


def test_components_of_a_volume_touch_at_corners() -> None:
    labels = torch.zeros(4, 4, 4, dtype=torch.int16)
    labels[0, 0, 0] = labels[1, 1, 1] = 1

    assert not disturbed(labels, removal(0), (1,)).any()


@pytest.mark.parametrize("label_probability", [0.5, 1.0])
def test_labels_are_disturbed_as_often_and_as_far_as_specified(label_probability: float) -> None:
    rng = np.random.default_rng(2)

    drawn = [draw_previous(rng, 3, label_probability) for _ in range(DRAWS)]

    none = (1 - label_probability) ** 3
    for share, lists in (
        (0.4 * (1 - none), [one.operations for one in drawn]),
        (0.2 * (1 - none), [one.removals for one in drawn]),
    ):
        assert abs(sum(map(bool, lists)) - DRAWS * share) < 5 * (DRAWS * share * (1 - share)) ** 0.5
        labels = Counter(entry.label for entries in lists for entry in entries)
        assert chisquare([labels[label] for label in range(3)]).pvalue > 1e-3
    operations = [entry for one in drawn for entry in one.operations]
    assert abs(len(operations) - DRAWS * 0.4 * 3 * label_probability) < 5 * (DRAWS * 3) ** 0.5
    names = Counter(entry.operation for entry in operations)
    assert chisquare([names[name] for name in OPERATIONS]).pvalue > 1e-3
    assert kstest([entry.radius for entry in operations], "uniform", args=(1, 7)).pvalue > 1e-3
    assert kstest([e.place for one in drawn for e in one.removals], "uniform").pvalue > 1e-3
    orders = Counter(tuple(e.label for e in one.operations) for one in drawn if len(one.operations) == 3)
    assert chisquare([orders[order] for order in permutations(range(3))]).pvalue > 1e-3


def test_parameters_can_be_recorded_and_replayed() -> None:
    rng = np.random.default_rng(0)

    for one in (draw_previous(rng, 4, 0.5) for _ in range(100)):
        assert PreviousParameters.model_validate_json(one.model_dump_json()) == one
