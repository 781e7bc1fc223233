"""Which normalization each channel gets, from its name and from how much cropping removed."""

from collections.abc import Sequence

from core import extensions
from core.domain.names import NORMALIZATION_NAMES
from core.extensions import Group

CROPPED_MUCH = 0.75
"""Median share of the voxels left after cropping, below which statistics use the nonzero mask alone."""

SCHEMES = {
    "ct": "CTNormalization",
    "nonorm": "NoNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}
"""Scheme by channel name, without regard to case."""

DEFAULT_SCHEME = "ZScoreNormalization"
"""For channels of any other name, whose intensities have no fixed scale."""

MASKED_SCHEMES = frozenset({"ZScoreNormalization"})
"""Schemes whose statistics may be restricted to the nonzero mask."""


def normalization_schemes(channels: Sequence[str]) -> tuple[str, ...]:
    """Choose the normalization of each channel; a channel may bear the very name of a scheme that a package adds.

    Args:
        channels: Channel names as in dataset.json.

    Raises:
        ExtensionError: A package takes a name that is taken.

    Source:
        Engine specification A 5.9.
    """
    added = extensions.names(Group.NORMALIZATION, NORMALIZATION_NAMES)
    return tuple(
        channel if channel in added else SCHEMES.get(channel.casefold(), DEFAULT_SCHEME)
        for channel in channels
    )


def masked_channels(schemes: Sequence[str], relative_size: float) -> tuple[bool, ...]:
    """Say which channels are normalized within the nonzero mask alone.

    Args:
        schemes: Normalization per channel.
        relative_size: Median share of the voxels that cropping left.

    Source:
        Engine specification A 5.9.
    """
    return tuple(relative_size < CROPPED_MUCH and scheme in MASKED_SCHEMES for scheme in schemes)
