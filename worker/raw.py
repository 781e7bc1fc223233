"""From an uploaded archive to a dataset in nnU-Net v2's layout: unpacked, and converted where it has an older one."""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from app.errors import StorageFullError
from core.domain.conversion import Conversion, Layout, Manner
from core.domain.dataset import DatasetProblem
from core.domain.problems import counted, problem, some
from core.domain.progress import Observer
from core.domain.record import write_json
from core.io.archive import ArchiveLimits
from worker.archive import MORE_ROOM, dataset_root, unpack

RAW_VERSION = 2
"""Raised when the same archive becomes another dataset, so that one which was made before is not used."""

CONVERTED_FOLDER = "dataset"

CONVERTED_ENTRIES = frozenset({"dataset.json", "imagesTr", "labelsTr"})
"""What conversion takes from an older layout."""

NOTE_KINDS: Mapping[str, str] = {
    "converted": "The archive has an older layout; what is used is its conversion.",
    "left-out": "The archive holds more than training cases; conversion left that out.",
}
"""What is to be known of a converted dataset beside what conversion itself notes, by kind."""

CONVERSION_FILE = ".conversion.json"
"""Beside a converted dataset. No archive can bring one: names that begin with a dot are left out of it."""


def build_raw(archive: Path, folder: Path, limits: ArchiveLimits, observer: Observer) -> None:
    """Fill an empty folder with the dataset of an archive.

    The same archive gives the same files on every machine. Where it has an older layout, only the converted
    files stay; cases that could not be converted are left out, as is all that no training reads, and
    `conversion_of` tells of both.

    Raises:
        ArchiveError: The archive is refused; nothing of it may be used.
        DatasetError: Its layout is an older one, but its dataset.json cannot be used.
        CancelledError: The observer asked to stop.
        StorageFullError: The disk is full.
    """
    # Only a child that unpacks needs the engine; who supervises it must not load arrays and image formats.
    from core import pipeline

    unpack(archive, folder, limits, observer)
    root = dataset_root(folder)
    if not pipeline.is_older(root):
        return
    left_out = _entries_beside(folder, root)
    converted = folder / f".{CONVERTED_FOLDER}"
    manner = Manner(link=True, partly=True, further_cases=False)
    try:
        conversion = pipeline.convert(root, converted, observer, manner)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.strerror == os.strerror(errno.ENOSPC):
            raise
        raise StorageFullError(f"{error.strerror}; {MORE_ROOM}") from error  # It says how much is missing.
    for entry in folder.iterdir():
        if entry != converted:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    converted.rename(folder / CONVERTED_FOLDER)
    told = conversion.model_copy(update={"notes": (*_notes(conversion, left_out), *conversion.notes)})
    write_json(folder / CONVERSION_FILE, told.to_json())


def _entries_beside(folder: Path, root: Path) -> dict[str, int | None]:
    """Return what an archive holds beside the training cases, each folder with its number of files."""
    entries = [*root.iterdir(), *(entry for entry in folder.iterdir() if root not in (folder, entry))]
    return {
        entry.name: sum(one.is_file() for one in entry.rglob("*")) if entry.is_dir() else None
        for entry in sorted(entries)
        if entry.name not in CONVERTED_ENTRIES
    }


def _notes(conversion: Conversion, left_out: dict[str, int | None]) -> list[DatasetProblem]:
    """Say that a dataset is not the one that was sent, and what is missing from it."""
    message = (
        f"the archive has the layout of {conversion.layout} and was converted to that of {Layout.V2}: "
        f"{counted(conversion.cases, 'case')}; the archive is kept as it came"
    )
    notes = [problem(None, "converted", message)]
    if left_out:
        names = [
            name if files is None else f"{name} ({counted(files, 'file')})"
            for name, files in left_out.items()
        ]
        message = (
            f"of the archive, {some(names)} did not become part of the dataset: training does not read it; "
            "images that are to be segmented go to POST /predict"
        )
        notes.append(problem(None, "left-out", message))
    return notes


def conversion_of(raw: Path) -> Conversion | None:
    """Return what was said of a dataset when it was converted; None if it came in nnU-Net v2's layout.

    Args:
        raw: The folder of dataset.json below the one that `build_raw` filled.
    """
    record = raw.parent / CONVERSION_FILE
    return Conversion.model_validate_json(record.read_bytes()) if record.is_file() else None
