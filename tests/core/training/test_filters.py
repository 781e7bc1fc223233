import numpy as np
import pytest
import torch

from core.training.filters import median_filtered, median_of_neighbours, sharpened

DIGITS = torch.tensor([[[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9], [3, 2, 3, 8, 4]]]).float()

# Recorded from the reference, for boxes of 2 to 5 voxels.
MEDIANS = {
    2: [[3, 3, 4, 4, 5], [9, 3, 4, 5, 5], [9, 8, 8, 7, 7], [5, 5, 8, 8, 8]],
    3: [[3, 3, 2, 4, 5], [5, 5, 5, 5, 5], [5, 5, 6, 6, 5], [3, 3, 7, 7, 7]],
    4: [[3, 4, 4, 4, 5], [3, 4, 4, 5, 5], [3, 4, 5, 5, 5], [3, 3, 5, 5, 5]],
    5: [[4, 5, 5, 5, 5], [3, 3, 4, 4, 5], [3, 3, 4, 4, 5], [5, 5, 5, 6, 7]],
}
MEDIAN_OF_TWO_SLICES = [[[3, 4, 4, 5, 5], [3, 3, 4, 5, 4]], [[5, 5, 7, 7, 7], [3, 3, 5, 5, 5]]]
SHARPENED = [[1, -2, 6, -4.5, 8], [17.5, -6, 8, 6.5, -2], [2.5, 15, 15, 5.5, 15.5], [2.5, -2, -2, 13, -0.5]]
SHARPENED_SLICES = [
    [[0, -5.5, 3.5, -7.5, 6], [18.5, -3, 11, 6, 0.5]],
    [[5.5, 15.5, 16, 7.5, 14.5], [-0.5, -2, -3.5, 14.5, 0]],
]


@pytest.mark.parametrize(("edge", "expected"), MEDIANS.items())
def test_medians_are_those_of_the_reference(edge: int, expected: list[list[float]]) -> None:
    assert median_filtered(DIGITS, [edge])[0].tolist() == expected
    assert median_of_neighbours(DIGITS[0], edge).tolist() == expected


def test_medians_of_a_volume_are_those_of_the_reference() -> None:
    assert median_filtered(DIGITS.view(1, 2, 2, 5), [3])[0].tolist() == MEDIAN_OF_TWO_SLICES


@pytest.mark.parametrize("edge", [2, 3, 6, 7])
@pytest.mark.parametrize("shape", [(9, 8, 11), (2, 1, 3), (13, 10)])
def test_medians_are_the_same_on_every_device(
    edge: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("core.training.filters.VALUES_AT_ONCE", 3 * edge**3 * 88)

    assert torch.equal(median_of_neighbours(rows[0], edge), median_filtered(rows, [edge])[0])


def test_rows_have_their_own_boxes() -> None:
    rows = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(0))

    filtered = median_filtered(rows, [2, 5])

    assert torch.equal(filtered[0], median_filtered(rows[:1], [2])[0])
    assert torch.equal(filtered[1], median_filtered(rows[1:], [5])[0])


def test_sharpening_is_that_of_the_reference() -> None:
    assert sharpened(DIGITS, [0.5])[0].tolist() == SHARPENED
    assert sharpened(DIGITS.view(1, 2, 2, 5), [0.5])[0].tolist() == SHARPENED_SLICES


def test_sharpening_keeps_the_sum_and_leaves_its_input_alone() -> None:
    rows = torch.randn(2, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    before = rows.clone()

    changed = sharpened(rows, [0.1, 1.0])

    np.testing.assert_allclose(changed.sum((1, 2, 3)), rows.sum((1, 2, 3)), atol=1e-5)
    assert torch.equal(rows, before)
