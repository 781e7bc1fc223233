"""Folders that one job hands to another as a zip of our own making: packed, brought and unpacked."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from app.payloads import ObjectRef
from core.domain.progress import Observer
from worker.archive import room_in_workspace
from worker.workspace import Workspace

COMPRESSED: Final = (".npz", ".gz")
"""Endings of files that a zip makes no smaller."""


def pack(folder: Path, paths: Iterable[Path], archive: Path) -> Path:
    """Pack files of a folder into a zip; those that are not compressed yet a little: label maps shrink by a lot.

    Raises:
        StorageFullError: The disk is full.
    """
    with room_in_workspace(), zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for file in sorted(path for path in paths if path.is_file()):
            is_compressed = file.name.endswith(COMPRESSED)
            packed.write(file, file.relative_to(folder), zipfile.ZIP_STORED if is_compressed else None)
    return archive


def bring_unpacked(ref: ObjectRef, folder: Path, workspace: Workspace, observer: Observer) -> None:
    """Put what such a zip holds into a folder, whatever is there.

    Raises:
        StoreError: The zip is missing or damaged.
        StorageFullError: The disk is full.
        CancelledError: The observer asked to stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / ".packed.zip"
    with room_in_workspace():
        workspace.fetch_file(ref, archive, observer)
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        archive.unlink()
