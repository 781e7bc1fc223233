"""How much memory there is, and who may begin while others work."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import sysconf
from pathlib import Path
from threading import Condition
from typing import Final

from core.errors import CancelledError

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


@dataclass
class Budget:
    """Memory that several threads share: each takes what its case will need, or waits until it is there.

    A case that needs more than there is runs all the same, alone.
    """

    total_bytes: int
    _taken_bytes: int = 0
    _is_closed: bool = False
    _changed: Condition = field(default_factory=Condition)

    @contextmanager
    def holding(self, needed_bytes: int) -> Iterator[None]:
        """Hold memory, once there is room.

        Raises:
            CancelledError: The budget was closed meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_room(needed_bytes))
            if self._is_closed:
                raise CancelledError("stopped while a case waited for memory")
            self._taken_bytes += needed_bytes
        try:
            yield
        finally:
            with self._changed:
                self._taken_bytes -= needed_bytes
                self._changed.notify_all()

    def close(self) -> None:
        """Send away those who wait, and those who come."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _has_room(self, needed_bytes: int) -> bool:
        return self._taken_bytes == 0 or self._taken_bytes + needed_bytes <= self.total_bytes


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


def _entry(text: str, name: str) -> int:
    """Return the number that follows a name at the start of a line."""
    numbers = [line.split()[1] for line in text.splitlines() if line.split()[:1] == [name]]
    return int(numbers[0]) if numbers else 0
