"""The choice of a normalization per channel."""

from pathlib import Path

import pytest

from core.extensions import Group
from core.planning.normalization import masked_channels, normalization_schemes
from tests.core.packages import installed


@pytest.mark.parametrize(
    ("channel", "scheme"),
    [
        ("CT", "CTNormalization"),
        ("ct", "CTNormalization"),
        ("noNorm", "NoNormalization"),
        ("zscore", "ZScoreNormalization"),
        ("rescale_to_0_1", "RescaleTo01Normalization"),
        ("RGB_to_0_1", "RGBTo01Normalization"),
        ("CT1", "ZScoreNormalization"),
        ("PET", "ZScoreNormalization"),
    ],
)
def test_the_channel_name_decides(channel: str, scheme: str) -> None:
    assert normalization_schemes([channel]) == (scheme,)


def test_only_z_scores_use_the_mask_and_only_after_much_cropping() -> None:
    schemes = ("CTNormalization", "ZScoreNormalization", "NoNormalization")

    assert masked_channels(schemes, 0.74) == (False, True, False)
    assert masked_channels(schemes, 0.75) == (False, False, False)


def test_a_channel_may_bear_the_name_of_a_scheme_of_a_package(tmp_path: Path) -> None:
    with installed(tmp_path, "made_to_plan", "", {Group.NORMALIZATION: {"Halves": "made_to_plan:it"}}):
        assert normalization_schemes(["Halves", "halves", "CT"]) == (
            "Halves",
            "ZScoreNormalization",
            "CTNormalization",
        )
