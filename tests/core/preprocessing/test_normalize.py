"""Normalization schemes, by the specification's vectors."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from core.domain.fingerprint import IntensityProperties
from core.errors import ExtensionError, ImageError, PlanError, UnknownNameError
from core.extensions import Group
from core.preprocessing.crop import BoolArray
from core.preprocessing.normalize import NORMALIZATIONS, normalize_channel, require_channels
from tests.core.packages import installed

PROPERTIES = IntensityProperties(
    max=10, mean=2, median=2, min=0, percentile_00_5=0.5, percentile_99_5=5, std=1.5
)
VALUES = (0, 1, 2, 3, 10)
EVERYWHERE = None
MASK = np.array([False, True, True, True, True])


def normalized(scheme: str, values: npt.ArrayLike, mask: BoolArray | None) -> list[float]:
    voxels_zyx = np.array(values, np.float32).reshape(1, 1, -1)
    mask_zyx = None if mask is None else mask.reshape(1, 1, -1)
    found_zyx = normalize_channel(voxels_zyx, scheme, mask_zyx, PROPERTIES)
    assert found_zyx.dtype == np.float32
    return [float(value) for value in found_zyx[0, 0]]


@pytest.mark.parametrize(
    ("scheme", "mask", "expected"),
    [
        ("CTNormalization", EVERYWHERE, (-1, -0.66667, 0, 0.66667, 2)),
        ("ZScoreNormalization", EVERYWHERE, (-0.90293, -0.62077, -0.33860, -0.05643, 1.91873)),
        ("ZScoreNormalization", MASK, (0, -0.84853, -0.56569, -0.28284, 1.69706)),
        ("RescaleTo01Normalization", EVERYWHERE, (0, 0.1, 0.2, 0.3, 1)),
        ("NoNormalization", EVERYWHERE, VALUES),
        ("RGBTo01Normalization", EVERYWHERE, tuple(value / 255 for value in VALUES)),
    ],
)
def test_the_vectors_of_the_specification(
    scheme: str, mask: BoolArray | None, expected: tuple[float, ...]
) -> None:
    assert normalized(scheme, VALUES, mask) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "RescaleTo01Normalization"])
def test_a_constant_channel_becomes_zero(scheme: str) -> None:
    assert normalized(scheme, [7, 7, 7, 7, 7], EVERYWHERE) == [0] * 5


def test_an_empty_mask_leaves_the_channel_as_it_is() -> None:
    assert normalized("ZScoreNormalization", [0, 0, 0, 0, 0], np.zeros(5, bool)) == [0] * 5


def test_the_image_itself_is_not_changed() -> None:
    voxels_zyx = np.array(VALUES, np.float32).reshape(1, 1, -1)

    for scheme in NORMALIZATIONS:
        normalize_channel(voxels_zyx, scheme, np.ones((1, 1, 5), bool), PROPERTIES)

    assert voxels_zyx[0, 0].tolist() == list(VALUES)


@pytest.mark.parametrize("values", [(-1, 0, 0, 0, 0), (0, 0, 0, 0, 256)])
def test_colours_beyond_8_bits_are_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="within 0 and 255"):
        normalized("RGBTo01Normalization", values, EVERYWHERE)


def test_another_number_of_channels_is_refused() -> None:
    require_channels(1, ["NoNormalization"])

    with pytest.raises(ImageError, match="2 channels but the plan normalizes 1"):
        require_channels(2, ["NoNormalization"])


def test_ct_without_a_fingerprint_is_refused() -> None:
    with pytest.raises(PlanError, match="foreground_intensity_properties"):
        normalize_channel(np.zeros((1, 1, 1), np.float32), "CTNormalization", None, None)


def test_an_unknown_scheme_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="ZScoreNormalization"):
        normalized("Histogram", VALUES, EVERYWHERE)


def test_a_package_may_add_a_scheme(tmp_path: Path) -> None:
    code = "def halve(voxels_zyx, mask_zyx, properties): return voxels_zyx.astype('float64') / 2"

    with installed(tmp_path, "made_halves", code, {Group.NORMALIZATION: {"Halves": "made_halves:halve"}}):
        assert normalized("Halves", VALUES, EVERYWHERE) == [value / 2 for value in VALUES]


def test_a_scheme_that_changes_the_shape_is_refused(tmp_path: Path) -> None:
    code = "def cut(voxels_zyx, mask_zyx, properties): return voxels_zyx[..., :2]"

    with (
        installed(tmp_path, "made_to_cut", code, {Group.NORMALIZATION: {"Cut": "made_to_cut:cut"}}),
        pytest.raises(ExtensionError, match=r"Cut made \(1, 1, 2\) of a channel of \(1, 1, 5\) voxels"),
    ):
        normalized("Cut", VALUES, EVERYWHERE)
