"""npz files: numpy reads them, and their arrays are where they can be mapped."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from core.io.npz import ALIGNMENT, AnyArray, map_npz, write_npz

TYPES = st.sampled_from([np.float32, np.float64, np.int8, np.int16, np.int32, np.int64, np.uint8])


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z_0-9é-]{1,12}", fullmatch=True),
        TYPES.flatmap(
            lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=5, min_side=0))
        ),
        min_size=1,
        max_size=4,
    )
)
def test_arrays_come_back_aligned_and_as_numpy_reads_them(
    tmp_path_factory: pytest.TempPathFactory, named: dict[str, AnyArray]
) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"

    write_npz(path, named, {"note.txt": b"hello"})

    found = map_npz(path)
    with np.load(path) as read:
        for name, array in named.items():
            assert found.arrays[name].dtype == array.dtype
            assert found.arrays[name].shape == read[name].shape == array.shape
            assert np.array_equal(found.arrays[name], array, equal_nan=True)
            assert np.array_equal(read[name], array, equal_nan=True)
            assert array.size == 0 or found.arrays[name].ctypes.data % ALIGNMENT == 0
            assert not found.arrays[name].flags.writeable
    assert list(found.arrays) == list(named)
    assert found.texts == {"note.txt": b"hello"}


def test_an_array_in_another_order_is_stored_in_c_order(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1)

    write_npz(tmp_path / "a.npz", {"a": array}, {})

    assert np.array_equal(map_npz(tmp_path / "a.npz").arrays["a"], array)


def test_every_way_to_cut_a_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, {"a": np.arange(5), "b": np.zeros((2, 2), np.int8)}, {"note": b"text"})
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError):  # noqa: PT011 - of every kind
            map_npz(path)


def test_a_changed_structure_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, {"a": np.arange(5)}, {"note": b"text"})
    whole = path.read_bytes()

    for old, new in (
        (b"text", b"tExt"),
        (b"(5,)", b"(6,)"),
        (b"NUMPY", b"NUMBY"),
        (b"PK\x03\x04", b"PK\x03\x05"),
    ):
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(ValueError):  # noqa: PT011 - of every kind
            map_npz(path)


def test_compressed_files_are_not_mapped(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.arange(5))

    with pytest.raises(ValueError, match="not stored as it is"):
        map_npz(tmp_path / "a.npz")


def test_an_absent_file_is_absent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        map_npz(tmp_path / "a.npz")
