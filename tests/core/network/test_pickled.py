"""Pickles as data: what is admitted, and what none of them can do."""

import io
import os
import pickle
import resource
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.network.pickled import Call, Name, PickleError, read_pickle

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(-(2**64), 2**64), inner, max_size=4)
    ),
    max_leaves=20,
)


def read(content: bytes, *admitted: str) -> Any:
    return read_pickle(io.BytesIO(content), admitted)


@given(value=PLAIN, protocol=st.integers(3, 5))
def test_plain_data_comes_out_as_it_went_in(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


def test_an_ordered_dictionary_is_a_dictionary() -> None:
    assert read(pickle.dumps(OrderedDict(a=1, b=2), 2), "collections.OrderedDict") == {"a": 1, "b": 2}


@pytest.mark.parametrize("protocol", range(6))
def test_a_call_is_kept_and_not_made(tmp_path: Path, protocol: int) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "trace"),))

    said = pickle.dumps(Hostile(), protocol)

    with pytest.raises(PickleError) as refused:
        read(said)
    made = read(said, "posix.mkdir", "nt.mkdir")

    assert refused.value.name == f"{os.name}.mkdir".replace("posix", os.mkdir.__module__)
    assert isinstance(made, Call)
    assert made.arguments == (str(tmp_path / "trace"),)
    assert not (tmp_path / "trace").exists()


def test_a_name_is_never_looked_up() -> None:
    made = read(b"cnowhere.at.all\nthing\n.", "nowhere.at.all.thing")

    assert isinstance(made, Name)
    assert made.dotted == "nowhere.at.all.thing"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged"),
        (b"]", "damaged"),
        (b"junk", "damaged"),
        (b".", "damaged"),
        (b"]a.", "damaged"),
        (b"(.", "damaged"),
        (b"g5\n.", "damaged"),
        (b"\x8f.", "EMPTY_SET"),
        (b"\x82\x01.", "EXT1"),
        (b"I1\nI2\nb.", "completes something"),
        (b"I1\n(tR.", "calls something"),
        (b"}I1\nI2\nu.", "damaged"),
        (b"}]I2\ns.", "neither text nor whole numbers"),
        (b"})I1\ns.", "neither text nor whole numbers"),
        (b"\x8b\xff\xff\xff\x7f.", "damaged"),
        (b"B\xff\xff\xff\x7fx.", "damaged"),
        (b"\x8e" + b"\xff" * 8 + b".", "damaged"),
        (b"\x8b\x40\x00\x00\x00" + b"\x7f" * 64 + b".", "absurd size"),
        (b"I" + b"9" * 5000 + b"\n.", "damaged"),
    ],
)
def test_what_is_no_plain_data_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(PickleError, match=said):
        read(content)


def test_a_small_pickle_cannot_ask_for_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for content in (
        pickle.dumps((1,), 2).replace(b"q\x00", b"r\xff\xff\xff\x7f"),  # A place far out in the memo.
        b"\x8a\x04\xff\xff\xff\x7f.",
        b"c__builtin__\nbytearray\n(I10000000000\ntR.",
    ):
        try:
            read(content, "__builtin__.bytearray")
        except PickleError:
            continue

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
