"""What makes a measurement a figure: its quantiles, a table of them, and the machine that they belong to."""

import math
import os
import platform
import sqlite3
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("celery", "fastapi", "psycopg", "pydantic", "redis", "sqlalchemy", "uvicorn")
"""Whose versions the figures of the service depend on."""


def median(values: Sequence[float]) -> float:
    """Return the middle of some values, to three digits after the point."""
    return round(statistics.median(values), 3)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of all does not exceed.

    Args:
        values: At least one.
        share: Between 0 and 1.
    """
    return round(sorted(values)[max(0, math.ceil(share * len(values)) - 1)], 3)


def machine() -> dict[str, object]:
    """Describe what is measured and on what; asked before a measurement, the load is that of others."""
    return {
        "commit": _git("describe", "--always", "--dirty"),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in PACKAGES},
    }


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows that share their columns, as Markdown."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([str(row[name]) for name in columns] for row in rows)]
    for line in lines:
        print(f"| {' | '.join(line)} |")


def _git(*words: str) -> str:
    """Ask git about this checkout; an empty answer if it is none."""
    try:
        asked = subprocess.run(
            ["git", *words],  # noqa: S607 - whichever git there is
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return asked.stdout.strip()
