"""How much memory a machine or a container says that it has."""

from pathlib import Path

import pytest

from core.preprocessing.budget import available_bytes, total_bytes

MIB = 2**20


def test_the_machine_says_what_is_available(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    2048 kB\n")

    assert available_bytes(tmp_path / "meminfo", tmp_path) == 2 * MIB


@pytest.mark.parametrize(
    ("limit", "usage", "folder", "droppable"),
    [
        ("memory.max", "memory.current", "", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory", "total_inactive_file"),
    ],
)
def test_a_container_has_less(tmp_path: Path, limit: str, usage: str, folder: str, droppable: str) -> None:
    group = tmp_path / folder
    group.mkdir(exist_ok=True)
    (tmp_path / "meminfo").write_text("MemAvailable:    204800 kB\n")
    (group / limit).write_text(f"{50 * MIB}\n")
    (group / usage).write_text(f"{30 * MIB}\n")
    (group / "memory.stat").write_text(f"anon 5\n{droppable} {10 * MIB}\n")

    assert available_bytes(tmp_path / "meminfo", tmp_path) == 30 * MIB


def test_a_container_without_limit_has_what_the_machine_has(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable:    2048 kB\n")
    (tmp_path / "memory.max").write_text("max\n")

    assert available_bytes(tmp_path / "meminfo", tmp_path) == 2 * MIB


def test_this_machine_has_some() -> None:
    assert available_bytes() > 0


def test_all_that_a_container_may_have_is_its_limit(tmp_path: Path) -> None:
    whole = total_bytes(tmp_path)
    (tmp_path / "memory.max").write_text(f"{50 * MIB}\n")

    assert total_bytes(tmp_path) == 50 * MIB
    assert whole > 50 * MIB
