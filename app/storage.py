"""The object store: files under keys that we make, written once, each with its SHA-256."""

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from app.errors import StorageFullError, TooLargeError
from app.payloads import ObjectRef
from core.errors import DomainError

CHUNK_BYTES = 1024 * 1024

HEAD_BYTES = 4096
"""So much of an upload is kept in memory, to tell its format by content."""

STALE_INCOMING_SECONDS = 24 * 3600
"""An upload that was cut off by the end of its process is removed after this time."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a full disk, an exhausted quota, a file too large for the file system."""


class StoreError(DomainError):
    """An object is missing or damaged."""

    kind = "object-store"


class Incoming:
    """A file on the store's disk that is still being received: written, counted and hashed at once.

    Args:
        path: An empty file.
        limit_bytes: More than this is refused.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self.head = b""
        self.size_bytes = 0
        self._limit = limit_bytes
        self._digest = hashlib.sha256()
        self._file = path.open("wb")

    def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            TooLargeError: The limit is exceeded.
            StorageFullError: The disk is full.
        """
        self.size_bytes += len(chunk)
        if self.size_bytes > self._limit:
            raise TooLargeError(
                f"the upload is larger than the limit of {self._limit} bytes", limit_bytes=self._limit
            )
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
        self._digest.update(chunk)
        with room_on_disk():
            self._file.write(chunk)

    def close(self) -> None:
        """Bring everything to the disk; nothing more can be written."""
        if self._file.closed:
            return
        with room_on_disk():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def discard(self) -> None:
        """Remove the file, unless it was adopted."""
        with room_on_disk(silently=True):
            self._file.close()
        self.path.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """Hex digits of what was written so far."""
        return self._digest.hexdigest()


class ObjectStore(Protocol):
    """Where files live that must not be lost."""

    def receive(self, limit_bytes: int) -> Incoming:
        """Open a file for an upload, on the store's own disk."""

    def adopt(self, key: str, incoming: Incoming) -> ObjectRef:
        """Make a received file an object; no second copy is made."""

    def put(self, key: str, source: Path) -> ObjectRef:
        """Take a file in that nobody writes to any more; the object appears whole or not at all."""

    def path(self, ref: ObjectRef) -> Path:
        """Return a local path to read the object from; never write there."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if it is not there."""

    def keys(self, prefix: str, older_than_seconds: float = 0.0) -> list[str]:
        """Return the keys of all objects below a prefix that ends with a slash, or all, sorted."""

    def require_writable(self) -> None:
        """Raise StorageFullError or OSError if nothing can be written."""


class LocalStore:
    """Objects as files below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._incoming = self._folder / ".incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def receive(self, limit_bytes: int) -> Incoming:
        """Open a file for an upload, on the store's own disk."""
        return Incoming(self._temporary(), limit_bytes)

    def adopt(self, key: str, incoming: Incoming) -> ObjectRef:
        """Make a received file an object; no second copy is made."""
        incoming.close()
        return self._move_in(key, incoming.path, incoming.sha256)

    def put(self, key: str, source: Path) -> ObjectRef:
        """Take a file in that nobody writes to any more; the object appears whole or not at all.

        On the store's own disk no second copy is made: the file gets a second name.
        """
        temporary = self._temporary()
        try:
            with room_on_disk():
                digest = _link(source, temporary) or _copy(source, temporary)
            return self._move_in(key, temporary, digest)
        finally:
            temporary.unlink(missing_ok=True)

    def path(self, ref: ObjectRef) -> Path:
        """Return the object's file.

        Raises:
            StoreError: It is not there, or not of the size that was written.
        """
        file = self._file(ref.key)
        if not file.is_file() or file.stat().st_size != ref.size_bytes:
            raise StoreError(f"the stored object {ref.key} is missing or damaged; restore it from a backup")
        return file

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if it is not there."""
        self._file(key).unlink(missing_ok=True)

    def keys(self, prefix: str, older_than_seconds: float = 0.0) -> list[str]:
        """Return the keys of all objects below a prefix that ends with a slash, or all, sorted.

        Args:
            prefix: Empty for the whole store.
            older_than_seconds: Younger objects are left out.
        """
        start = self._file(prefix) if prefix else self._folder
        latest = time.time() - older_than_seconds
        found = []
        for folder, folders, files in os.walk(start):
            if Path(folder) == self._folder and self._incoming.name in folders:
                folders.remove(self._incoming.name)
            found += [path for path in (Path(folder, name) for name in files) if _changed_at(path) <= latest]
        return sorted(path.relative_to(self._folder).as_posix() for path in found)

    def require_writable(self) -> None:
        """Raise StorageFullError or OSError if nothing can be written."""
        probe = self._temporary()
        try:
            with room_on_disk():
                probe.write_bytes(b"writable")
        finally:
            probe.unlink(missing_ok=True)

    def clean_incoming(self) -> None:
        """Remove what uploads left behind whose process was killed long ago."""
        oldest = time.time() - STALE_INCOMING_SECONDS
        for file in self._incoming.iterdir():
            if file.stat().st_mtime < oldest:
                file.unlink(missing_ok=True)

    def _temporary(self) -> Path:
        """Return a fresh file on the store's own disk."""
        with room_on_disk():
            handle, name = tempfile.mkstemp(dir=self._incoming)
            os.close(handle)
        return Path(name)

    def _move_in(self, key: str, source: Path, sha256: str) -> ObjectRef:
        target = self._file(key)
        with room_on_disk():
            target.parent.mkdir(parents=True, exist_ok=True)
        size = source.stat().st_size
        source.replace(target)
        flush_folder(target.parent)
        return ObjectRef(key=key, sha256=sha256, size_bytes=size)

    def _file(self, key: str) -> Path:
        """Return where a key lives; keys are ours, yet a wrong one must not leave the folder."""
        file = (self._folder / key).resolve()
        if not file.is_relative_to(self._folder) or file == self._folder:
            raise StoreError(f"{key!r} is no key of this store")
        return file


def flush_folder(folder: Path) -> None:
    """Make sure that the entries of a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def room_on_disk(*, silently: bool = False) -> Iterator[None]:
    """Turn the system's word for a full disk into ours.

    Raises:
        StorageFullError: There was no room, and it matters.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        if not silently:
            raise StorageFullError(
                "the disk of the service is full; free some space and try again"
            ) from error


def _changed_at(path: Path) -> float:
    """Return when a file came here, or never for one that is gone: linking keeps the time of its content."""
    try:
        return path.stat().st_ctime
    except FileNotFoundError:
        return float("inf")


def _link(source: Path, target: Path) -> str | None:
    """Give a file a second name, and return its SHA-256; None where the disk does not allow it."""
    name = target.with_name(f"{target.name}.link")
    try:
        os.link(source, name)
    except OSError:
        return None
    name.replace(target)
    with target.open("rb") as reader:
        digest = copy_hashing(reader.read, len)
        os.fsync(reader.fileno())
    return digest


def _copy(source: Path, target: Path) -> str:
    """Copy a file, and return its SHA-256."""
    with source.open("rb") as reader, target.open("wb") as writer:
        digest = copy_hashing(reader.read, writer.write)
        writer.flush()
        os.fsync(writer.fileno())
    shutil.copymode(source, target)
    return digest


def copy_hashing(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> str:
    """Copy a stream in chunks and return its SHA-256 as hex digits."""
    digest = hashlib.sha256()
    while chunk := read(CHUNK_BYTES):
        digest.update(chunk)
        write(chunk)
    return digest.hexdigest()
