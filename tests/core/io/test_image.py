"""Two grids agree if only rounding tells them apart."""

from collections.abc import Sequence

import numpy as np
import pytest

from core.domain.geometry import Shape
from core.io.image import Geometry, Header, disagreement, orientation
from tests.factories import IDENTITY, rotation_xyz


def header(
    shape: Shape = (60, 300, 400),
    spacing_xyz: tuple[float, ...] = (0.5, 0.5, 3.0),
    origin_xyz: tuple[float, ...] = (-120.0, 80.0, 950.0),
    direction: Sequence[float] = IDENTITY,
) -> Header:
    flat = len(spacing_xyz) == 2
    x, y = spacing_xyz[:2]
    geometry = Geometry(
        spacing=(500.0 if flat else spacing_xyz[2], y, x),
        file_spacing_xyz=spacing_xyz,
        origin_xyz=origin_xyz,
        direction=tuple(direction),
    )
    return Header(shape=shape, channels=1, stored_type=np.dtype("i2"), geometry=geometry)


@pytest.mark.parametrize(
    "other",
    [
        header(),
        header(origin_xyz=(-120.000001, 80.0, 950.0)),
        header(spacing_xyz=(0.5, 0.500004, 3.0)),
        header(direction=rotation_xyz((0, 0, 1e-5))),
    ],
)
def test_rounding_is_no_difference(other: Header) -> None:
    assert disagreement(header(), other) is None


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (header(shape=(60, 301, 400)), "shapes (z, y, x) differ: (60, 300, 400) and (60, 301, 400) voxels"),
        (header(spacing_xyz=(0.5, 0.5, 3.001)), "spacings (z, y, x) differ: (3, 0.5, 0.5) and (3.001, 0.5, 0.5) mm"),
        (header(origin_xyz=(-119.0, 80.0, 950.0)), "origins (x, y, z) differ: (-120, 80, 950) and (-119, 80, 950) mm"),
        (header(origin_xyz=(-120.0, 80.06, 950.0)), "origins"),
        (header(direction=(-1.0, *IDENTITY[1:])), "directions differ: (1, 0, 0, 0, 1, 0, 0, 0, 1) and (-1, 0, 0"),
        (header(direction=rotation_xyz((0, 0, 1))), "directions"),
    ],
)  # fmt: skip
def test_differences_are_told_with_numbers(other: Header, words: str) -> None:
    assert words in (disagreement(header(), other) or "")


def test_a_picture_and_a_flat_volume_differ() -> None:
    flat = header((1, 30, 40), (0.5, 0.5), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    volume = header((1, 30, 40), (0.5, 0.5, 500.0), (0.0, 0.0, 0.0))

    assert "2D image" in (disagreement(flat, volume) or "")
    assert disagreement(flat, flat) is None


@pytest.mark.parametrize(
    ("direction", "name"),
    [
        (IDENTITY, "LPS"),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), "RAS"),
        ((0, 0, 1, 1, 0, 0, 0, -1, 0), "PIL"),
        (rotation_xyz((10, -20, 15)), "LPS"),
    ],
)
def test_orientation_is_named_by_where_axes_point(direction: Sequence[float], name: str) -> None:
    assert orientation(header(direction=direction).geometry) == name
