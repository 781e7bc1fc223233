"""The object store on a local folder."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from app.errors import TooLargeError
from app.storage import STALE_INCOMING_SECONDS, LocalStore, StoreError


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_what_is_put_is_found_with_its_hash(store: LocalStore, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"x" * 3_000_000)

    ref = store.put("train/1/weights", source)

    assert (ref.sha256, ref.size_bytes) == (hashlib.sha256(b"x" * 3_000_000).hexdigest(), 3_000_000)
    assert store.path(ref).read_bytes() == source.read_bytes()
    assert list((tmp_path / "store" / ".incoming").iterdir()) == []


def test_a_received_file_is_moved_not_copied(store: LocalStore) -> None:
    incoming = store.receive(100)
    incoming.write(b"abc")
    inode = incoming.path.stat().st_ino

    ref = store.adopt("a/b", incoming)
    incoming.discard()

    assert store.path(ref).stat().st_ino == inode
    assert (ref.sha256, ref.size_bytes) == (hashlib.sha256(b"abc").hexdigest(), 3)


def test_a_received_file_has_its_limit(store: LocalStore) -> None:
    incoming = store.receive(5)
    incoming.write(b"12345")

    with pytest.raises(TooLargeError, match="5 bytes"):
        incoming.write(b"6")

    incoming.discard()
    assert not incoming.path.exists()


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", "", ".", "a/.."])
def test_no_key_leaves_the_folder(store: LocalStore, key: str) -> None:
    with pytest.raises(StoreError, match="no key"):
        store.delete(key)


def test_a_lost_or_shortened_object_is_noticed(store: LocalStore, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"abc")
    ref = store.put("a", source)

    (tmp_path / "store" / "a").write_bytes(b"ab")

    with pytest.raises(StoreError, match="missing or damaged"):
        store.path(ref)
    store.delete("a")
    store.delete("a")


def test_uploads_that_were_cut_off_long_ago_are_removed(store: LocalStore) -> None:
    old, new = store.receive(10), store.receive(10)
    for incoming in (old, new):
        incoming.write(b"x")
        incoming.close()
    stale = time.time() - STALE_INCOMING_SECONDS - 60
    os.utime(old.path, (stale, stale))

    store.clean_incoming()

    assert (old.path.exists(), new.path.exists()) == (False, True)
