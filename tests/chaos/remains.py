"""What a service leaves beside its data: processes that should be gone, and tracebacks in its log."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

BEGINNING = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ")
"""Of an entry in the log."""

FRAME = re.compile(r'File "[^"]*/((?:app|core|worker)/[\w/]+\.py)", line (\d+), in (\w+)')
"""A frame of our own."""

VARYING = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{27}|\d+")
"""What differs between two errors that are the same."""

LONGEST = 160
"""Characters of an error's sentence that are shown."""


def processes(mark: Mapping[str, str]) -> list[str]:
    """Return the command lines of all processes that inherited an environment variable.

    Args:
        mark: Its name and value.
    """
    ((name, value),) = mark.items()
    wanted = f"{name}={value}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # It ended while we looked, or is somebody else's.
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def tracebacks(log: Path) -> Counter[str]:
    """Count the tracebacks in a log, by their error and the last frame of ours that it passed."""
    return Counter(
        _signature(entry) for entry in _entries(log) if any(line.startswith("Traceback") for line in entry)
    )


def _entries(log: Path) -> Iterator[list[str]]:
    """Yield the log's entries, each with the traceback below it."""
    entry: list[str] = []
    for line in log.read_text(errors="replace").splitlines():
        if BEGINNING.match(line) and entry:
            yield entry
            entry = []
        entry.append(line)
    yield entry


def _signature(entry: list[str]) -> str:
    ours = [found for line in entry if (found := FRAME.search(line))]
    place = f"{ours[-1][1]}:{ours[-1][2]} {ours[-1][3]}" if ours else "no code of ours"
    errors = [
        line for line in entry[1:] if line and not line.startswith((" ", "Traceback", "The above", "During"))
    ]
    sentence = next((line for line in reversed(errors) if re.match(r"[\w.]+(:|$)", line)), "?")
    return f"{VARYING.sub('…', sentence)[:LONGEST]} ({place})"
