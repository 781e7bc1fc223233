import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.training.local import (
    BumpParameters,
    GradientParameters,
    LocalGammaParameters,
    blanked,
    bumps,
    with_gradient,
    with_local_gamma,
)

DIGITS = torch.tensor([[[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9], [3, 2, 3, 8, 4]]]).float()
BUMP = BumpParameters(centres=(0.25 * 4, 0.5 * 5), widths=(1.5, 2))

# Recorded from the reference, as what follows.
BLANKED = [[3, 3.25, 3.25, 1, 5], [9, 3.25, 6.0625, 6.0625, 3], [5, 8, 6.0625, 6.0625, 9], [3, 2, 3, 8, 4]]
GRADIENT = [
    [3.69158, 2.61338, 6.27384, 3.27384, 6.61338],
    [10.03993, 4.18185, 9.0, 8.0, 5.18185],
    [5.69158, 9.61338, 11.27384, 9.27384, 10.61338],
    [3.0, 2.48483, 3.8322, 8.8322, 4.48483],
]
LOCAL_GAMMA = [
    [2.59658, 1.0, 2.24833, 1.0, 3.60938],
    [9.0, 1.30486, 3.47053, 2.41421, 1.72726],
    [4.40391, 7.31668, 9.0, 5.40613, 9.0],
    [3.0, 1.84553, 2.51455, 7.64754, 3.6265],
]


def test_blank_boxes_are_those_of_the_reference() -> None:
    boxes = (((0, 2), (1, 3)), ((1, 3), (2, 4)))

    assert blanked(DIGITS, [boxes])[0].tolist() == BLANKED
    assert DIGITS[0, 0].tolist() == [3, 1, 4, 1, 5]


def test_brightness_gradients_are_those_of_the_reference() -> None:
    changed = with_gradient(DIGITS, [GradientParameters(bump=BUMP, strength=3)])

    torch.testing.assert_close(changed[0], torch.tensor(GRADIENT), atol=2e-5, rtol=0)


def test_local_gamma_is_that_of_the_reference() -> None:
    changed = with_local_gamma(DIGITS, [LocalGammaParameters(bump=BUMP, exponent=2.5)])

    torch.testing.assert_close(changed[0], torch.tensor(LOCAL_GAMMA), atol=2e-5, rtol=0)


def test_rows_have_their_own_bumps() -> None:
    rows = torch.zeros(2, 6, 7, 8)
    one = BumpParameters(centres=(1, 2, 3), widths=(4, 3, 2))
    other = BumpParameters(centres=(7, -2, 3), widths=(2, 5, 1))

    both = bumps(rows, [one, other])

    assert torch.equal(both[0], bumps(rows[:1], [one])[0])
    assert torch.equal(both[1], bumps(rows[1:], [other])[0])


@given(
    edges=st.tuples(*[st.integers(1, 40)] * 3),
    centres=st.tuples(*[st.floats(-0.5, 1.5)] * 3),
    shares=st.tuples(*[st.floats(0, 1)] * 3),
)
def test_a_bump_reaches_from_0_to_1(
    edges: tuple[int, int, int], centres: tuple[float, ...], shares: tuple[float, ...]
) -> None:
    tops = tuple(centre * edge for centre, edge in zip(centres, edges, strict=True))
    widths = tuple(max(1, edge // 6) ** (1 - s) * edge**s for edge, s in zip(edges, shares, strict=True))

    (hill,) = bumps(torch.zeros(1, *edges), [BumpParameters(centres=tops, widths=widths)])

    assert hill.isfinite().all()
    assert hill.amin().item() == pytest.approx(0, abs=1e-5)
    assert hill.amax().item() == pytest.approx(1 if max(edges) > 1 else 0, abs=1e-5)


def test_a_bump_far_above_the_patch_looks_like_one_far_below() -> None:
    rows = torch.zeros(1, 30)

    above = bumps(rows, [BumpParameters(centres=(44.0,), widths=(5,))])
    below = bumps(rows, [BumpParameters(centres=(29.0 - 44.0,), widths=(5,))])

    np.testing.assert_allclose(above[0], below[0].flip(0), rtol=1e-5)


def test_local_gamma_leaves_a_constant_channel_alone() -> None:
    rows = torch.full((1, 4, 5), 2.5)

    assert torch.equal(with_local_gamma(rows, [LocalGammaParameters(bump=BUMP, exponent=0.5)]), rows)
