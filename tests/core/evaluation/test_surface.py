import numpy as np
import pytest

from core.domain.labels import label_set
from core.evaluation.evaluate import label_scores
from core.evaluation.metrics import BoolArray
from core.evaluation.surface import surface_scores
from core.io.image import Geometry, LabelMap, array_spacing


def _geometry(*spacing: float) -> Geometry:
    axes = len(spacing)
    return Geometry(
        spacing=array_spacing(spacing[::-1]),
        file_spacing_xyz=spacing[::-1],
        origin_xyz=(0,) * axes,
        direction=tuple(np.eye(axes).ravel().tolist()),
    )


def _box(shape: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]) -> BoolArray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(start, end) for start, end in zip(low, high, strict=True))] = True
    return mask


def test_a_mask_agrees_with_itself() -> None:
    mask = _box((8, 9, 10), (0, 2, 3), (8, 6, 9))

    scores = surface_scores(mask, mask, _geometry(3, 1, 0.5), 0.1)

    assert scores == {
        "surface_dice": 1,
        "hd95_mm": 0,
        "volume_difference_ml": 0,
        "volume_difference_relative": 0,
    }


@pytest.mark.parametrize(("tolerance", "expected"), [(0.5, 0.638), (1, 0.655), (3, 1)])
def test_of_a_cube_that_is_moved_the_sides_along_the_way_agree(tolerance: float, expected: float) -> None:
    # 4 of 6 faces slide along themselves; 57 of their 60 mm stay, and as much more as the tolerance allows. Of one
    # other face of each cube, the rim is near them.
    reference = _box((64, 64, 70), (2, 2, 2), (62, 62, 62))
    moved = np.roll(reference, 3, axis=2)

    scores = surface_scores(reference, moved, _geometry(1, 1, 1), tolerance)

    assert scores["surface_dice"] == pytest.approx(expected, abs=0.015)
    assert scores["hd95_mm"] == 3
    assert scores["volume_difference_relative"] == 0


@pytest.mark.parametrize(("tolerance", "low", "high"), [(0.9, 0, 0), (1, 0.68, 0.76), (3.2, 0.96, 1)])
def test_thick_slices_count_with_their_thickness(tolerance: float, low: float, high: float) -> None:
    # 30 x 20 x 20 mm within 36 x 22 x 22 mm: sides are 1 mm apart, top and bottom 3 mm, edges sqrt(10) mm. Sides
    # are 2400 of 3200 mm² inside, and 2640 to 3168 of 4136 mm² outside.
    reference = _box((14, 26, 26), (2, 3, 3), (12, 23, 23))
    grown = _box((14, 26, 26), (1, 2, 2), (13, 24, 24))

    scores = surface_scores(reference, grown, _geometry(3, 1, 1), tolerance)

    assert low <= (scores["surface_dice"] or 0) <= high
    assert scores["hd95_mm"] == pytest.approx(10**0.5, abs=1e-5)
    assert scores["volume_difference_ml"] == pytest.approx((36 * 22 * 22 - 30 * 20 * 20) / 1000)
    assert scores["volume_difference_relative"] == pytest.approx(36 * 22 * 22 / 12000 - 1)


def test_a_ball_within_a_ball_is_as_far_away_as_radii_differ() -> None:
    squared_zyx = ((np.indices((34, 60, 60)) - np.array([16.5, 29.5, 29.5])[:, None, None, None]) ** 2).T
    squared_mm = (squared_zyx * np.array([4, 1, 1])).sum(axis=-1).T
    small, large = squared_mm < 20**2, squared_mm < 26**2

    scores = surface_scores(small, large, _geometry(2, 1, 1), 4)

    assert scores["surface_dice"] == pytest.approx(0, abs=0.001)
    assert scores["hd95_mm"] == pytest.approx(6, abs=0.6)
    assert scores["volume_difference_ml"] == pytest.approx(4 / 3 * np.pi * (26**3 - 20**3) / 1000, rel=0.02)


@pytest.mark.parametrize(("tolerance", "expected"), [(0.1, 0.495), (0.5, 0.5), (1, 1)])
def test_a_2d_image_has_edges_and_no_volume(tolerance: float, expected: float) -> None:
    # 2 of 4 sides slide along themselves, by 1 of 100 mm.
    reference = _box((1, 206, 210), (0, 3, 3), (1, 203, 203))
    moved = np.roll(reference, 2, axis=2)

    scores = surface_scores(reference, moved, _geometry(0.5, 0.5), tolerance)

    assert scores["surface_dice"] == pytest.approx(expected, abs=0.005)
    assert scores["hd95_mm"] == 1
    assert scores["volume_difference_ml"] is None
    assert scores["volume_difference_relative"] == 0


def test_a_distance_of_ten_tenths_is_within_one() -> None:
    # The sides that face each other are 0.9 mm apart, the other ones 1 mm from the nearest.
    left, right = _box((3, 3, 15), (1, 1, 1), (2, 2, 2)), _box((3, 3, 15), (1, 1, 11), (2, 2, 12))

    assert surface_scores(left, right, _geometry(1, 1, 0.1), 1)["surface_dice"] == 1
    assert surface_scores(left, right, _geometry(1, 1, 0.1), 0.99)["surface_dice"] == 0.5


def test_what_touches_the_border_of_the_image_ends_there() -> None:
    inner = _box((12, 12, 16), (3, 3, 3), (9, 9, 11))
    moved = np.roll(inner, 2, axis=2)
    within = surface_scores(inner, moved, _geometry(1, 1, 1), 1)

    assert surface_scores(inner[3:9, 3:9, 3:13], moved[3:9, 3:9, 3:13], _geometry(1, 1, 1), 1) == within


def test_without_voxels_on_one_side_there_is_no_distance() -> None:
    mask = _box((4, 4, 4), (1, 1, 1), (3, 3, 3))
    nothing = mask & False

    missed = surface_scores(mask, nothing, _geometry(1, 10, 10), 1)
    invented = surface_scores(nothing, mask, _geometry(1, 10, 10), 1)
    neither = surface_scores(nothing, nothing, _geometry(1, 10, 10), 1)

    assert missed == {
        "surface_dice": 0,
        "hd95_mm": None,
        "volume_difference_ml": pytest.approx(-0.8),
        "volume_difference_relative": -1,
    }
    assert invented["volume_difference_ml"] == pytest.approx(0.8)
    assert (invented["surface_dice"], invented["volume_difference_relative"]) == (0, None)
    assert list(neither.values()) == [None, None, 0, None]


def test_voxels_that_nobody_annotated_are_background_on_both_sides() -> None:
    labels = np.zeros((3, 6, 12), dtype=np.int16)
    labels[1, 1:5, 1:5] = 1
    reference, prediction = labels.copy(), labels.copy()
    reference[:, :, 8:] = 2
    prediction[1, 2, 9:11] = 1

    scores = label_scores(
        LabelMap(reference, _geometry(1, 1, 1)),
        prediction,
        label_set({"background": 0, "a": 1, "ignore": 2}, None),
        lambda one, other, geometry: surface_scores(one, other, geometry, 1),
    )

    assert scores["1"].surface_dice == 1
    assert scores["1"].volume_difference_ml == 0
