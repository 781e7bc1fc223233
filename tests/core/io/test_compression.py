"""Deflate streams come back whole or not at all, whichever library reads them."""

import gzip
import io
import zlib
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isal import isal_zlib

from core.io import compression
from core.io.compression import (
    GZIP_WINDOW,
    ZLIB_WINDOW,
    CompressionError,
    first_bytes,
    gzipped,
    inflated,
)

PLAIN = bytes(range(256)) * 3000
CODECS = [zlib, isal_zlib]


@pytest.fixture(params=CODECS, ids=["zlib", "isal"])
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    chosen: ModuleType = request.param
    monkeypatch.setattr(compression, "_codec", chosen)
    monkeypatch.setattr(compression, "_LEVEL", 2)
    return chosen


def read(stream: bytes, window_bits: int = GZIP_WINDOW, limit: int = len(PLAIN)) -> bytes:
    return b"".join(inflated(io.BytesIO(stream), window_bits, length=None, limit=limit))


@pytest.mark.usefixtures("codec")
def test_what_was_compressed_comes_back() -> None:
    assert gzip.decompress(gzipped(PLAIN[:5], memoryview(PLAIN)[5:])) == PLAIN
    assert read(gzipped(PLAIN)) == PLAIN
    assert read(zlib.compress(PLAIN), ZLIB_WINDOW) == PLAIN
    assert read(gzip.compress(PLAIN[:999]) + gzip.compress(PLAIN[999:])) == PLAIN
    assert read(gzip.compress(b"")) == b""


@pytest.mark.usefixtures("codec")
@pytest.mark.parametrize("position", [-1, -5, 40, 500])
def test_a_changed_byte_is_noticed(position: int) -> None:
    stream = bytearray(gzip.compress(PLAIN))
    stream[position] ^= 4

    with pytest.raises(CompressionError):
        read(bytes(stream))


@pytest.mark.usefixtures("codec")
@pytest.mark.parametrize("missing", [1, 4, 8, 9, 200])
def test_a_missing_end_is_noticed(missing: int) -> None:
    with pytest.raises(CompressionError, match="end early"):
        read(gzip.compress(PLAIN)[:-missing])


@pytest.mark.usefixtures("codec")
def test_a_small_stream_does_not_fill_the_memory() -> None:
    bomb = gzip.compress(bytes(100_000_000))

    assert len(read(bomb, limit=1000)) == 1001


@pytest.mark.usefixtures("codec")
def test_bytes_after_a_stream_of_stated_length_are_left() -> None:
    stream = zlib.compress(PLAIN)
    file = io.BytesIO(stream + b"rest")

    assert b"".join(inflated(file, ZLIB_WINDOW, length=len(stream), limit=len(PLAIN))) == PLAIN
    assert file.read() == b"rest"


def test_the_beginning_of_a_stream_is_enough_for_its_first_bytes() -> None:
    assert first_bytes(gzip.compress(PLAIN)[:300], 100) == PLAIN[:100]
    with pytest.raises(CompressionError):
        first_bytes(b"\x1f\x8bnothing of the kind", 100)


@given(parts=st.lists(st.binary(max_size=300)))
def test_any_bytes_come_back(parts: list[bytes]) -> None:
    assert read(gzipped(*parts)) == b"".join(parts)
