"""Odd files are read and label maps written as the reference does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ImageError
from core.io.image import LabelMap
from core.io.readers import READERS, read_header, read_image, read_labels, reader_for_file, write_labels

RECORDED = Path(__file__).resolve().parents[3] / "../shared/goldens/io_goldens"
ENTRIES: list[dict[str, Any]] = json.loads((RECORDED / "io.json").read_text()) if RECORDED.is_dir() else []
MORE_THAN_THE_REFERENCE = {
    (
        "fourd_0000.nii.gz",
        "NibabelIO",
    ): "NIfTI series and planes are no matter of the library that reads them",
    ("twod_0000.nii.gz", "NibabelIO"): "NIfTI series and planes are no matter of the library that reads them",
    ("fourd_0000.nii.gz", "SimpleITKIOWithReorient"): "the volumes of a series are turned like any other",
    ("fourd_0000.nii.gz", "NibabelIOWithReorient"): "the volumes of a series are turned like any other",
}
"""Files that the reference's reader refuses and ours reads as SimpleITKIO does, each with the reason."""

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not ENTRIES, reason="the recorded results are not beside the repository"),
]


def name(entry: dict[str, Any]) -> str:
    return f"{entry['file']}-{entry['reader']}"


@pytest.mark.parametrize("entry", [e for e in ENTRIES if "error" not in e], ids=name)
def test_arrays_and_spacings_are_equal(entry: dict[str, Any]) -> None:
    with np.load(RECORDED / f"{entry['file']}__{entry['reader']}.npz") as recorded:
        (expected_czyx,) = recorded.values()

    image = read_image([RECORDED / "files" / entry["file"]], entry["reader"])

    assert np.array_equal(image.voxels_czyx, expected_czyx)
    assert list(image.geometry.spacing) == entry["spacing"]


@pytest.mark.parametrize("entry", [e for e in ENTRIES if "written" in e], ids=name)
def test_written_label_maps_are_equal(tmp_path: Path, entry: dict[str, Any]) -> None:
    reader, reference = entry["reader"], RECORDED / "written" / entry["written"]
    plain = reader_for_file(reference)
    source = read_header(RECORDED / "files" / entry["file"], reader)
    expected = read_labels(reference, plain)
    path = tmp_path / entry["written"]

    write_labels(LabelMap(read_labels(reference, reader).labels_zyx, source.geometry), path, reader)

    found = read_header(path, plain)
    assert np.array_equal(read_labels(path, plain).labels_zyx, expected.labels_zyx)
    assert found.stored_type == read_header(reference, plain).stored_type
    assert found.geometry.spacing == pytest.approx(expected.geometry.spacing, rel=1e-6)
    assert found.geometry.origin_xyz == pytest.approx(expected.geometry.origin_xyz, abs=1e-5)
    assert found.geometry.direction == pytest.approx(expected.geometry.direction, abs=1e-6)


def test_every_reader_is_among_the_recorded_ones() -> None:
    assert {entry["reader"] for entry in ENTRIES} == set(READERS)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if "error" in e], ids=name)
def test_what_the_reference_refuses_is_refused(entry: dict[str, Any]) -> None:
    path = RECORDED / "files" / entry["file"]
    if (entry["file"], entry["reader"]) in MORE_THAN_THE_REFERENCE:
        expected_czyx = read_image([path], "SimpleITKIO").voxels_czyx
        found = read_image([path], entry["reader"])
        assert found.geometry.turn is None or found.geometry.turn.axes == (0, 1, 2)
        flips = (False,) * 3 if found.geometry.turn is None else found.geometry.turn.reversed_axes
        assert np.array_equal(
            np.flip(found.voxels_czyx, tuple(axis + 1 for axis in range(3) if flips[axis])), expected_czyx
        )
        return
    with pytest.raises(ImageError, match=entry["file"]):
        read_image([path], entry["reader"])
