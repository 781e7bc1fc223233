"""From an uploaded archive to a dataset in nnU-Net v2's layout: unpacked, and converted where it has an older one."""

import shutil
from pathlib import Path

from core.domain.conversion import Conversion, Manner
from core.domain.progress import Observer
from core.domain.record import write_json
from worker.archive import ArchiveLimits, dataset_root, unpack

RAW_VERSION = 2
"""Raised when the same archive becomes another dataset, so that one which was made before is not used."""

CONVERTED_FOLDER = "dataset"

CONVERSION_FILE = ".conversion.json"
"""Beside a converted dataset. No archive can bring one: names that begin with a dot are left out of it."""


def build_raw(archive: Path, folder: Path, limits: ArchiveLimits, observer: Observer) -> None:
    """Fill an empty folder with the dataset of an archive.

    The same archive gives the same files on every machine. Where it has an older layout, only the converted
    files stay; cases that could not be converted are left out, and `conversion_of` tells of them.

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
    converted = folder / f".{CONVERTED_FOLDER}"
    manner = Manner(link=True, partly=True, further_cases=False)
    conversion = pipeline.convert(root, converted, observer, manner)
    for entry in folder.iterdir():
        if entry != converted:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    converted.rename(folder / CONVERTED_FOLDER)
    write_json(folder / CONVERSION_FILE, conversion.to_json())


def conversion_of(raw: Path) -> Conversion | None:
    """Return what was said of a dataset when it was converted; None if it came in nnU-Net v2's layout.

    Args:
        raw: The folder of dataset.json below the one that `build_raw` filled.
    """
    record = raw.parent / CONVERSION_FILE
    return Conversion.model_validate_json(record.read_bytes()) if record.is_file() else None
