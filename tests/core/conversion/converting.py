"""Converting datasets in tests, and changing what their dataset.json says."""

import json
from pathlib import Path
from typing import Any

from core.conversion.convert import convert_dataset
from core.domain.conversion import Conversion, Manner
from core.domain.progress import SilentObserver


def converted(source: Path, target: Path, manner: Manner | None = None) -> Conversion:
    return convert_dataset(source, target, SilentObserver(), manner)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of dataset.json; None takes one out."""
    path = folder / "dataset.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def kinds(done: Conversion) -> dict[str | None, str]:
    return {one.case: one.kind for one in done.problems}
