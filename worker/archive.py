"""The dataset in an uploaded zip: unpacked where there is room for it, and found in what comes out."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import StorageFullError
from app.storage import room_on_disk
from core.domain.progress import Observer
from core.errors import ArchiveError
from core.io import archive
from core.io.archive import ArchiveLimits

MORE_ROOM = (
    "free some on the disk of the worker's folder, or give it a larger one with SEG_WORKSPACE_DIR, and try the job "
    "again"
)
"""What helps where the scratch folder is full."""


def unpack(packed: Path, folder: Path, limits: ArchiveLimits, observer: Observer) -> None:
    """Unpack a zip into an empty folder.

    Raises:
        ArchiveError: Nothing of a refused archive may be used; the caller removes the folder.
        CancelledError: The observer asked to stop.
        StorageFullError: The disk is full, or would be.
    """
    with room_in_workspace():
        archive.unpack(packed, folder, limits, observer)


@contextmanager
def room_in_workspace() -> Iterator[None]:
    """Turn the system's word for a full disk into ours, with how much is missing where that is known.

    Raises:
        StorageFullError: There was no room.
    """
    try:
        with room_on_disk():
            yield
    except StorageFullError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno != errno.ENOSPC:
            raise
        if cause.strerror != os.strerror(errno.ENOSPC):  # It says how much is missing.
            raise StorageFullError(f"{cause.strerror}; {MORE_ROOM}") from error
        raise


def dataset_root(folder: Path) -> Path:
    """Find the folder of dataset.json: the top, or a single folder below it.

    Raises:
        ArchiveError: There is none, or more than one.
    """
    if (folder / "dataset.json").is_file():
        return folder
    found = sorted(file.parent for file in folder.glob("*/dataset.json"))
    if len(found) == 1:
        return found[0]
    where = "more than one dataset.json" if found else "no dataset.json"
    raise ArchiveError(f"the archive has {where} at its top; zip one dataset folder with dataset.json in it")
