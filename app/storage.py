"""The object store: files under keys that we make, written once, each with its SHA-256."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from app.jobs import ObjectRef
from core.errors import DomainError

CHUNK_BYTES = 1024 * 1024


class StoreError(DomainError):
    """An object is missing or damaged."""

    kind = "object-store"


class Writer(Protocol):
    """What `write` hands to its caller: takes bytes, counts and hashes them."""

    def __call__(self, chunk: bytes) -> None:
        """Append bytes to the object."""


class ObjectStore(Protocol):
    """Where files live that must not be lost."""

    def put(self, key: str, source: Path) -> ObjectRef:
        """Copy a file in; the object appears whole or not at all."""

    def path(self, ref: ObjectRef) -> Path:
        """Return a local path to read the object from; never write there."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if it is not there."""


class LocalStore:
    """Objects as files below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._incoming = self._folder / ".incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def incoming(self) -> Path:
        """Return a fresh path on the store's own disk, to stream an upload to before `adopt`."""
        handle, name = tempfile.mkstemp(dir=self._incoming)
        open(handle, "wb").close()  # noqa: PTH123 - close the handle that mkstemp opened
        return Path(name)

    def adopt(self, key: str, source: Path, sha256: str) -> ObjectRef:
        """Move a file from `incoming` in; no second copy is made."""
        target = self._file(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        size = source.stat().st_size
        source.replace(target)
        return ObjectRef(key=key, sha256=sha256, size_bytes=size)

    def put(self, key: str, source: Path) -> ObjectRef:
        """Copy a file in; the object appears whole or not at all."""
        temporary = self.incoming()
        with source.open("rb") as reader, temporary.open("wb") as writer:
            digest = copy_hashing(reader.read, writer.write)
        shutil.copymode(source, temporary)
        return self.adopt(key, temporary, digest)

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

    def _file(self, key: str) -> Path:
        """Return where a key lives; keys are ours, yet a wrong one must not leave the folder."""
        file = (self._folder / key).resolve()
        if not file.is_relative_to(self._folder) or file == self._folder:
            raise StoreError(f"{key!r} is no key of this store")
        return file


def copy_hashing(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> str:
    """Copy a stream in chunks and return its SHA-256 as hex digits."""
    digest = hashlib.sha256()
    while chunk := read(CHUNK_BYTES):
        digest.update(chunk)
        write(chunk)
    return digest.hexdigest()
