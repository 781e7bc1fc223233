"""`python -m tests.odd_inputs`: the table of damaged and odd inputs with the sentence each gets, as markdown."""

import re
import sys
import tempfile
from pathlib import Path

from tests.odd_inputs.every import EVERY
from tests.odd_inputs.table import Kitchen, OddInput, meant, verified

UNMADE = "(cannot be made by root, who may read everything)"


def rows(folder: Path) -> list[str]:
    """Make every odd input, and return one row for each."""
    kitchen = Kitchen(folder)
    return [_row(entry, kitchen) for entry in EVERY]


def _row(entry: OddInput, kitchen: Kitchen) -> str:
    """Return name, kind and sentence of an odd input."""
    raw = kitchen.dataset(entry)
    found = verified(raw)
    said = next(meant(entry, found), None)
    if said is None:
        kind, sentence = "", "as good as any" if not entry.kinds else UNMADE
    else:
        kind = f"{said.kind} ({'problem' if said in found.problems else 'note'})"
        sentence = f"{said.case or 'dataset'}: {said.message}"
    return f"| {_cell(entry.name)} | {kind} | {_cell(sentence)} |"


def _cell(text: str) -> str:
    """Return a text that cannot break a table."""
    short = re.sub(r"(.)\1{40,}", r"\1\1\1…", text)
    return short.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        head = f"{len(EVERY)} kinds\n\n| what | kind | sentence |\n|---|---|---|"
        sys.stdout.write("\n".join([head, *rows(Path(folder)), ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
