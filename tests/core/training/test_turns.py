import pytest
import torch

from core.domain.labels import LabelSet, label_set
from core.domain.training import TrainingSettings
from core.errors import TrainingError
from core.training.turns import (
    QuarterTurn,
    exchanged,
    mirror_axes,
    mirrored,
    swap_axis,
    swapped_values,
    transposed,
    turned,
)

KIDNEYS = label_set({"background": 0, "left": 1, "right": 2, "spine": 3}, None)
REGIONS = label_set({"background": 0, "both": [1, 2], "left": 1, "right": 2, "ignore": 3}, [1, 1, 2])


def settings_of(*pairs: tuple[str, str], axis: int | None = 2) -> TrainingSettings:
    return TrainingSettings(swapped_labels=pairs, swap_axis=axis)


def test_every_axis_of_the_patch_is_mirrored_unless_the_settings_say_otherwise() -> None:
    assert mirror_axes(3, TrainingSettings()) == (0, 1, 2)
    assert mirror_axes(2, TrainingSettings()) == (0, 1)
    assert mirror_axes(3, TrainingSettings(mirror_axes=(1, 0))) == (0, 1)
    assert mirror_axes(3, TrainingSettings(mirror_axes=())) == ()


def test_an_axis_that_the_patch_does_not_have_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"mirror_axes names axis 2, but .* has the axes 0, 1; choose"):
        mirror_axes(2, TrainingSettings(mirror_axes=(0, 2)))
    with pytest.raises(TrainingError, match=r"mirror_axes \[0, 0\] names an axis twice"):
        mirror_axes(2, TrainingSettings(mirror_axes=(0, 0)))
    with pytest.raises(TrainingError, match="swap_axis names axis 2"):
        swap_axis(2, settings_of(("left", "right")))


def test_labels_that_change_places_need_an_axis_and_an_axis_needs_labels() -> None:
    assert swap_axis(3, TrainingSettings()) is None
    assert swap_axis(3, settings_of(("left", "right"))) == 2
    with pytest.raises(TrainingError, match="swapped_labels and swap_axis belong together"):
        swap_axis(3, settings_of(("left", "right"), axis=None))
    with pytest.raises(TrainingError, match="swapped_labels and swap_axis belong together"):
        swap_axis(3, settings_of())


@pytest.mark.parametrize("labels", [KIDNEYS, REGIONS])
def test_labels_that_change_places_are_found_by_name(labels: LabelSet) -> None:
    assert swapped_values(labels, settings_of(("left", "right"))) == ((1, 2),)


@pytest.mark.parametrize(
    ("labels", "pairs", "message"),
    [
        (
            KIDNEYS,
            [("left", "liver")],
            "'liver', but dataset.json has no such label; it has background, left",
        ),
        (KIDNEYS, [("left", "background")], "'background', which is not a single foreground label"),
        (REGIONS, [("both", "right")], "'both', which is not a single foreground label"),
        (KIDNEYS, [("left", "right"), ("right", "spine")], "name label 2 more than once"),
        (KIDNEYS, [("left", "left")], "name label 1 more than once"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(
    labels: LabelSet, pairs: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        swapped_values(labels, settings_of(*pairs))


def test_labels_change_places_where_the_sample_was_mirrored() -> None:
    labels = torch.tensor([-1, 0, 1, 2, 3], dtype=torch.int16).expand(2, 2, 5).contiguous()

    changed = exchanged(labels, [False, True], [(1, 2)], REGIONS)

    assert changed[0].tolist() == [[-1, 0, 1, 2, 3]] * 2
    assert changed[1].tolist() == [[-1, 0, 2, 1, 3]] * 2
    assert labels[1, 0].tolist() == [-1, 0, 1, 2, 3]
    assert exchanged(labels, [False, False], [(1, 2)], REGIONS) is labels


def test_each_sample_is_mirrored_along_its_own_axes() -> None:
    batch = torch.arange(48).view(2, 2, 3, 4)

    moved = mirrored(batch, [(), (0, 1)])

    assert torch.equal(moved[0], batch[0])
    assert torch.equal(moved[1], batch[1].flip(1, 2))


def test_a_quarter_turn_goes_from_the_first_axis_towards_the_second() -> None:
    batch = torch.arange(18).view(2, 1, 3, 3)

    moved = turned(batch, [None, QuarterTurn(axes=(0, 1), quarters=1)])

    assert torch.equal(moved[0], batch[0])
    assert moved[1, 0].tolist() == [[11, 14, 17], [10, 13, 16], [9, 12, 15]]


def test_axes_change_places() -> None:
    batch = torch.arange(54).view(2, 1, 3, 3, 3)

    moved = transposed(batch, [(), (2, 0, 1)])

    assert torch.equal(moved[0], batch[0])
    assert torch.equal(moved[1], batch[1].permute(0, 3, 1, 2))
