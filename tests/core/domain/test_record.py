"""Records on their way to a file: whole or not at all, and refused before work is done for nothing."""

import json
from pathlib import Path

import pytest

from core.domain.record import require_writable, write_json


def test_what_is_written_is_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1})

    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_in_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()

    with pytest.raises(IsADirectoryError):
        write_json(tmp_path / "a.json", {"b": 1})

    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_path_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("before")

    for path in ("old.json", "new.json", "deep/er/new.json"):
        require_writable(tmp_path / path)

    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "before"


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "folder")

    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    for path in ("loop/a.json", "folder", "file/a.json", "file/deeper/a.json", "dangling", "n" * 254, "\0"):
        with pytest.raises(OSError, match=r"\w") as raised:
            require_writable(tmp_path / path)
        assert raised.value.filename == str(tmp_path / path)
        assert raised.value.strerror


def test_a_device_is_never_replaced() -> None:
    with pytest.raises(OSError, match="no ordinary file"):
        require_writable(Path("/dev/null"))
    with pytest.raises(OSError, match="no ordinary file"):
        write_json(Path("/dev/null"), {})

    assert Path("/dev/null").is_char_device()
