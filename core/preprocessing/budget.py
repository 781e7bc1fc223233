"""How much memory there is to work with."""

from os import sysconf
from pathlib import Path
from typing import Final

SHARE_OF_AVAILABLE: Final = 0.5
"""Of the memory that is available, what preprocessing may fill; the rest is left to caches and others."""

MACHINE_FILE: Final = Path("/proc/meminfo")
GROUP_FOLDER: Final = Path("/sys/fs/cgroup")

GROUP_FILES: Final = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
"""Where Linux says what a container may use, what it uses, and what of that can be dropped; versions 2 and 1."""

KIBI: Final = 1024


def available_bytes(machine: Path = MACHINE_FILE, group: Path = GROUP_FOLDER) -> int:
    """Return how much memory can be filled before something has to go: of the machine, or of the container.

    Args:
        machine: Where Linux says what the machine has; on another system all of its memory counts.
        group: Where Linux says what the container may have.
    """
    amounts = [sysconf("SC_PHYS_PAGES") * sysconf("SC_PAGE_SIZE")]
    if machine.is_file():
        amounts.append(_entry(machine.read_text(), "MemAvailable:") * KIBI)
    for limit, usage, details, droppable in GROUP_FILES:
        if (group / limit).is_file() and (group / limit).read_text().strip().isdecimal():
            used = int((group / usage).read_text()) - _entry((group / details).read_text(), droppable)
            amounts.append(int((group / limit).read_text()) - used)
    return max(0, min(amounts))


def total_bytes(group: Path = GROUP_FOLDER) -> int:
    """Return how much memory the machine has, or the container may have, whoever uses it now."""
    amounts = [sysconf("SC_PHYS_PAGES") * sysconf("SC_PAGE_SIZE")]
    limits = [(group / limit) for limit, *_ in GROUP_FILES]
    texts = [limit.read_text().strip() for limit in limits if limit.is_file()]
    return min(amounts + [int(text) for text in texts if text.isdecimal()])


def _entry(text: str, name: str) -> int:
    """Return the number that follows a name at the start of a line."""
    numbers = [line.split()[1] for line in text.splitlines() if line.split()[:1] == [name]]
    return int(numbers[0]) if numbers else 0
