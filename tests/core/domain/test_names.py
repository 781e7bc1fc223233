import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core.domain import names
from core.errors import ExtensionError
from core.extensions import Group
from tests.core.packages import installed


@pytest.mark.parametrize(
    ("group", "known", "own"),
    [
        (Group.READER, names.reader_names, "SimpleITKIO"),
        (Group.NORMALIZATION, names.normalization_names, "ZScoreNormalization"),
        (Group.RESAMPLING, names.resampling_names, "no_resampling_hack"),
        (Group.ARCHITECTURE, names.network_names, "PlainConvUNet"),
        (Group.LOSS, names.loss_names, "dice_ce"),
        (Group.AUGMENTATION, names.augmentation_names, "strong"),
    ],
)
def test_names_of_packages_count_without_their_code(
    tmp_path: Path, group: Group, known: Callable[[], frozenset[str]], own: str
) -> None:
    before = known()

    with installed(tmp_path / "1", "made_unseen", "raise SystemExit", {group: {"Added": "made_unseen:it"}}):
        assert known() == before | {"Added"}
        assert "made_unseen" not in sys.modules
    assert known() == before
    with (
        installed(tmp_path / "2", "made_to_replace", "", {group: {own: "made_to_replace:it"}}),
        pytest.raises(ExtensionError, match="made_to_replace"),
    ):
        known()
