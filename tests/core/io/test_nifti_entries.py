"""Entries of a NIfTI header lie where nibabel finds them, in either byte order."""

from typing import Any, Literal

import nibabel
import numpy as np
import pytest

from core.io.nifti_entries import NIFTI_1, NIFTI_2, is_big_endian, parse_entries

nib: Any = nibabel
KINDS = [(nib.Nifti1Header, NIFTI_1), (nib.Nifti2Header, NIFTI_2)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "layout"), KINDS)
def test_entries_lie_where_nibabel_finds_them(
    kind: Any, layout: np.dtype[np.void], order: Literal["<", ">"]
) -> None:
    rng = np.random.default_rng(5)
    block = bytearray(rng.integers(0, 256, layout.itemsize, np.uint8).tobytes())
    block[:4] = layout.itemsize.to_bytes(4, "little" if order == "<" else "big")
    header = kind(bytes(block), endianness=order, check=False)

    entries = parse_entries(bytes(block) + b"voxels")

    assert entries is not None
    assert entries.dtype.names is not None
    assert is_big_endian(entries) == (order == ">")
    for name in entries.dtype.names:
        if name not in {
            "magic",
            "unused_str",
        }:  # In NIfTI-2 nibabel splits one, and names the other differently.
            assert entries[name].tobytes() == header[name].tobytes(), name
            assert entries[name].dtype == header[name].dtype, name


def test_a_copy_is_written_as_it_was_read() -> None:
    block = nib.Nifti1Header(endianness=">").binaryblock
    entries = parse_entries(block)
    assert entries is not None

    changed = entries.copy()
    changed["dim"] = (2, 7, 5, 1, 1, 1, 1, 1)

    assert nib.Nifti1Header(changed.tobytes()).get_data_shape() == (7, 5)
    assert nib.Nifti1Header(changed.tobytes()).endianness == ">"


@pytest.mark.parametrize("block", [bytes(540), b"\x5d\x01\0\0" * 135, b"nifti" * 108])
def test_other_bytes_are_no_header(block: bytes) -> None:
    assert parse_entries(block) is None
