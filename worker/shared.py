"""Folders that the processes of a machine share: built once, held while they are used, removed when nobody does."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from app.storage import flush_folder
from core.domain.progress import Observer
from core.errors import CancelledError

PARTIAL_SUFFIX = ".partial"
"""Of a folder that is being built, or was left by a build that was interrupted."""

LOCK_SUFFIX = ".lock"
"""Of the file beside a folder that is locked: shared by all who use the folder, alone by who builds or removes it.
Its time of change says when the folder was last used."""

REMOVED_SUFFIX = ".removed"
"""Of a folder that is just being removed; nobody looks into it any more."""

LOCK_POLL_SECONDS = 0.1
"""Between two tries to get a lock; a process that waits can still be asked to stop."""


@contextmanager
def held(
    target: Path, build: Callable[[Path], object], observer: Observer, *, goes_on: bool = False
) -> Iterator[Path]:
    """Make a folder unless it is there, and keep it from being removed while the block runs.

    The hold ends with this process, however it ends. Arguments and errors are those of `build_once`.
    """
    lock = lock_of(target)
    while True:
        with locked(lock, observer, shared=True):
            if target.is_dir():
                _mark_used(lock)
                try:
                    yield target
                finally:
                    _mark_used(lock)
                return
        build_once(target, build, observer, goes_on=goes_on)


def build_once(
    target: Path, build: Callable[[Path], object], observer: Observer, *, goes_on: bool = False
) -> None:
    """Make a folder unless it is there; processes that want the same one wait for each other.

    Args:
        target: Appears whole or not at all.
        build: Fills the folder that it is given; it is empty, unless the build goes on.
        observer: Asked whether to go on waiting.
        goes_on: Whether the build takes up what an interrupted one left, which therefore stays.

    Raises:
        CancelledError: The observer asked to stop while another process was building.
    """
    with locked(lock_of(target), observer):
        if target.is_dir():
            return
        partial = partial_of(target)
        if not goes_on:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(exist_ok=goes_on)
        try:
            build(partial)
            _flush(partial)
            partial.rename(target)
            flush_folder(target.parent)
        finally:
            if not goes_on:
                shutil.rmtree(partial, ignore_errors=True)


def remove_unused(folder: Path) -> bool:
    """Remove a folder or a partial one, unless a process uses or builds it; return whether it is gone.

    Whoever wants it next builds it anew; its lock goes along where nothing else needs it.
    """
    target = folder.with_name(folder.name.removesuffix(PARTIAL_SUFFIX))
    lock, trash = lock_of(target), folder.with_name(f".{folder.name}{REMOVED_SUFFIX}")
    with lock.open("ab") as handle:
        if not _try_lock(handle, fcntl.LOCK_EX) or not _is_at(handle, lock):
            return False
        shutil.rmtree(trash, ignore_errors=True)
        with suppress(FileNotFoundError):
            folder.rename(trash)
        if not target.exists() and not partial_of(target).exists():
            lock.unlink()
    shutil.rmtree(trash, ignore_errors=True)
    return True


def last_used(target: Path) -> float:
    """Return when a folder was last used or written to, in seconds since the epoch; 0 if it is gone."""
    found = [0.0]
    for path in (target, lock_of(target.with_name(target.name.removesuffix(PARTIAL_SUFFIX)))):
        with suppress(FileNotFoundError):
            found.append(path.stat().st_mtime)
    return max(found)


def lock_of(target: Path) -> Path:
    """Return the file that is locked for a folder."""
    return target.with_name(target.name + LOCK_SUFFIX)


def partial_of(target: Path) -> Path:
    """Return where a folder is built."""
    return target.with_name(target.name + PARTIAL_SUFFIX)


@contextmanager
def locked(file: Path, observer: Observer, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends.

    Args:
        file: What is locked; made if it is not there.
        observer: Asked whether to go on waiting.
        shared: Whether others may share it.

    Raises:
        CancelledError: The observer asked to stop while another process held the lock.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with file.open("ab") as handle:  # Closing it lets go.
            while not _try_lock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
                if observer.stop_requested():
                    raise CancelledError("stopped while another process did the same work")
                time.sleep(LOCK_POLL_SECONDS)
            if _is_at(handle, file):
                yield
                return


def _try_lock(handle: BinaryIO, kind: int) -> bool:
    """Take the lock if nobody has it, or all who have it share it."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(handle: BinaryIO, file: Path) -> bool:
    """Whether an open file is still the one of that name: it may have been removed before it was locked."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle.fileno()), file.stat())
    return False


def _mark_used(lock: Path) -> None:
    with suppress(FileNotFoundError):
        os.utime(lock)


def _flush(folder: Path) -> None:
    """Bring a whole folder to the disk: whoever finds it after a power cut takes it for complete."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with Path(parent, name).open("rb") as file:
                os.fsync(file.fileno())
        flush_folder(Path(parent))
