"""Datasets of older layouts become nnU-Net v2's: no voxel, type or place changes, and nothing is made up."""

import errno
import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from core.conversion import convert
from core.conversion.convert import convert_dataset
from core.conversion.layouts import tell_layout
from core.domain.conversion import Layout, Manner
from core.domain.progress import Progress, SilentObserver
from core.errors import CancelledError, DatasetError
from core.io.image import Header
from core.io.readers import read_header, read_image, reader_for_file
from core.verification.verify import verify_dataset
from tests.core.conversion.converting import converted, edit, files_below, kinds
from tests.factories import case_name, make_phantom
from tests.older_layouts import FOUR_AXES, OBLIQUE, make_older, write_channels

sitk: Any = SimpleITK
"""Its functions carry no types."""


def test_files_of_one_channel_are_copied_byte_for_byte(tmp_path: Path, target: Path) -> None:
    source = make_older(tmp_path / "Task99_Phantoms", tests=1)

    done = converted(source, target)

    assert (done.cases, done.further_cases, done.problems, done.notes) == (3, 1, (), ())
    before, after = files_below(source), files_below(target)
    assert {
        name.replace("_0000", ""): content for name, content in after.items() if name != "dataset.json"
    } == {name: content for name, content in before.items() if name != "dataset.json"}
    assert sum("_0000" in name for name in after) == 4


def test_the_description_keeps_what_it_knows_and_speaks_the_new_language(
    decathlon: Path, target: Path
) -> None:
    edit(decathlon, numTraining=77, note={"any": ["thing", None, 1.5]})

    converted(decathlon, target)

    values = json.loads((target / "dataset.json").read_text())
    assert values == {
        "name": "Phantoms",
        "description": "Ellipsoids",
        "reference": "none",
        "licence": "CC0",
        "release": "1.0",
        "tensorImageSize": "3D",
        "channel_names": {"0": "MRI0"},
        "labels": {"background": 0, "left": 1, "right": 2},
        "numTraining": 3,
        "numTest": 0,
        "file_ending": ".nii.gz",
        "note": {"any": ["thing", None, 1.5]},
    }


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("stored", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_channels_keep_voxels_type_and_place(tmp_path: Path, target: Path, ending: str, stored: str) -> None:
    recipe = replace(FOUR_AXES, cases=1, ending=ending)
    source = make_older(tmp_path / "made", recipe)
    path = source / "imagesTr" / f"{case_name(0)}{ending}"
    voxels_czyx = make_phantom(recipe).voxels_czyx.astype(stored)
    write_channels(voxels_czyx, path, recipe)
    whole = read_header(path)

    assert converted(source, target).problems == ()

    for channel in range(2):
        split = target / "imagesTr" / f"{case_name(0)}_{channel:04d}{ending}"
        header = read_header(split)
        assert (header.channels, header.stored_type, header.shape) == (1, np.dtype(stored), recipe.shape)
        if ending == ".nrrd":  # Steps of its header become spacing and direction, and steps again.
            assert np.allclose(_numbers(header), _numbers(whole), rtol=1e-14, atol=1e-15)
        else:
            assert header.geometry == whole.geometry
        read_zyx = read_image([split], reader_for_file(split)).voxels_czyx[0]
        assert np.array_equal(read_zyx, voxels_czyx[channel].astype(np.float32))


def _numbers(header: Header) -> list[float]:
    """Return all numbers that place an image."""
    place = header.geometry
    return [*place.spacing, *place.file_spacing_xyz, *place.origin_xyz, *place.direction]


@pytest.mark.parametrize("change", ["big endian", "scaled", "extended", "version 2"])
def test_a_channel_has_the_header_of_the_whole(tmp_path: Path, target: Path, change: str) -> None:
    source = make_older(tmp_path / "made", replace(FOUR_AXES, cases=1))
    path = source / "imagesTr" / f"{case_name(0)}.nii.gz"
    content = {
        "big endian": _big_endian,
        "scaled": _scaled,
        "extended": _extended,
        "version 2": _version_2,
    }[change](gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(content))
    reader = reader_for_file(path)
    whole, voxels_czyx = read_header(path, reader), read_image([path], reader).voxels_czyx

    done = converted(source, target)

    assert done.problems == ()
    for channel in range(2):
        split = target / "imagesTr" / f"{case_name(0)}_{channel:04d}.nii.gz"
        assert reader_for_file(split) == reader
        assert read_header(split, reader).geometry == whole.geometry
        assert np.array_equal(read_image([split], reader).voxels_czyx[0], voxels_czyx[channel])
        ours = gzip.decompress(split.read_bytes())
        head = len(ours) - whole.values * whole.stored_type.itemsize // 2
        differing = [at for at in range(head) if ours[at] != content[at]]
        assert set(differing) <= (set(range(16, 80)) if change == "version 2" else set(range(40, 56)))


def test_one_volume_along_the_fourth_axis_is_copied(tmp_path: Path, target: Path) -> None:
    source = make_older(tmp_path / "made", replace(OBLIQUE, cases=1))
    path = source / "imagesTr" / f"{case_name(0)}.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<8h", content, 40, 4, 8, 9, 6, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(content))

    assert converted(source, target).problems == ()

    assert (target / "imagesTr" / f"{case_name(0)}_0000.nii.gz").read_bytes() == path.read_bytes()


def test_the_older_nnunet_keeps_its_names(tmp_path: Path, target: Path) -> None:
    source = make_older(tmp_path / "Task199_Phantoms", FOUR_AXES, Layout.V1, tests=1)
    for name in ("imagesVal", "labelsVal"):
        shutil.copytree(source / name.replace("Val", "Tr"), source / name)

    done = converted(source, target)

    assert (done.layout, done.cases, done.further_cases, done.problems) == (Layout.V1, 3, 4, ())
    before, after = files_below(source), files_below(target)
    values = json.loads(after.pop("dataset.json"))
    before.pop("dataset.json")
    assert after == before
    assert not {"training", "test", "tensorImageSize", "numTest", "modality"} & set(values)
    assert values["channel_names"] == {"0": "MRI0", "1": "MRI1"}


@pytest.mark.parametrize("layout", [Layout.DECATHLON, Layout.V1])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_what_was_converted_is_a_sound_dataset(
    tmp_path: Path, target: Path, layout: Layout, ending: str
) -> None:
    source = make_older(tmp_path / "made", replace(FOUR_AXES, ending=ending), layout)

    converted(source, target)

    found = verify_dataset(target, SilentObserver())
    assert found.problems == ()
    assert [case.case_id for case in found.cases] == [case_name(number) for number in range(3)]
    assert tell_layout(target) is Layout.V2


def test_the_same_dataset_becomes_the_same_bytes(tmp_path: Path, target: Path) -> None:
    source = make_older(tmp_path / "made", FOUR_AXES)

    converted(source, target)
    os.utime(source / "imagesTr" / f"{case_name(0)}.nii.gz", (0, 0))
    converted(source, target.with_name("again"), Manner(workers=1))

    assert files_below(target) == files_below(target.with_name("again"))


def test_files_can_be_linked_and_never_by_accident(decathlon: Path, target: Path) -> None:
    converted(decathlon, target)
    converted(decathlon, target.with_name("linked"), Manner(link=True))

    names = [f"imagesTr/{case_name(0)}_0000.nii.gz", f"labelsTr/{case_name(0)}.nii.gz"]
    assert [(target / name).stat().st_nlink for name in names] == [1] * 2
    assert [(target.with_name("linked") / name).stat().st_nlink for name in names] == [2] * 2


def test_the_spacing_of_a_tiff_comes_along(tmp_path: Path, target: Path) -> None:
    recipe = replace(OBLIQUE, ending=".tif")
    source = make_older(tmp_path / "made", recipe)
    for name in ("imagesTr", "labelsTr"):
        for file in list((source / name).glob("*.tif")):
            file.with_suffix(".json").write_text(json.dumps({"spacing": recipe.spacing}))

    assert converted(source, target).problems == ()

    image = target / "imagesTr" / f"{case_name(0)}_0000.tif"
    assert read_header(image).geometry.spacing == recipe.spacing
    assert verify_dataset(target, SilentObserver()).problems == ()


@pytest.mark.parametrize("left", [0.0, 0.3, 0.99])
def test_a_file_that_was_cut_is_never_split(tmp_path: Path, target: Path, left: float) -> None:
    source = make_older(tmp_path / "made", FOUR_AXES)
    path = source / "imagesTr" / f"{case_name(1)}.nii.gz"
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])

    done = converted(source, target)

    assert kinds(done) == {case_name(1): "unreadable-image"}
    assert not target.exists()
    partly = converted(source, target, Manner(partly=True))
    assert (partly.cases, sorted(path.name for path in (target / "labelsTr").iterdir())) == (
        2,
        [f"{case_name(0)}.nii.gz", f"{case_name(2)}.nii.gz"],
    )


def test_no_flipped_bit_becomes_a_voxel(tmp_path: Path, target: Path) -> None:
    source = make_older(tmp_path / "made", replace(FOUR_AXES, cases=1))
    path = source / "imagesTr" / f"{case_name(0)}.nii.gz"
    whole, (voxels_czyx, reader) = path.read_bytes(), (make_phantom(FOUR_AXES).voxels_czyx, "SimpleITKIO")
    refused = 0
    for position in np.random.default_rng(1).integers(len(whole) // 4, len(whole), 30).tolist():
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        if converted(source, target).problems:
            refused += 1
            continue
        parts = [target / "imagesTr" / f"{case_name(0)}_{channel:04d}.nii.gz" for channel in range(2)]
        assert np.array_equal(read_image(parts, reader).voxels_czyx, voxels_czyx)
        shutil.rmtree(target)

    assert refused > 20


class StopsLater(SilentObserver):
    def __init__(self) -> None:
        self.heard: list[Progress] = []

    def report(self, progress: Progress) -> None:
        self.heard.append(progress)

    def stop_requested(self) -> bool:
        return bool(self.heard)


def test_a_conversion_that_is_stopped_leaves_nothing(decathlon: Path, target: Path) -> None:
    observer = StopsLater()

    with pytest.raises(CancelledError):
        convert_dataset(decathlon, target, observer)

    assert [(one.stage, one.done, one.total) for one in observer.heard] == [("convert", 1, 3)]
    assert list(target.parent.iterdir()) == []


def test_a_target_in_use_is_left_alone(decathlon: Path, target: Path) -> None:
    target.mkdir(parents=True)
    (target / "mine").write_text("mine")

    with pytest.raises(DatasetError, match="not empty"):
        converted(decathlon, target)

    assert files_below(target) == {"mine": b"mine"}


def test_a_file_as_target_is_called_a_file(decathlon: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    with pytest.raises(DatasetError, match="file is a file; name a new folder"):
        converted(decathlon, tmp_path / "file")


@pytest.mark.parametrize("inside", [".", "imagesTr/new", "labelsTr/../imagesTs"])
def test_a_dataset_is_never_converted_into_what_is_read(decathlon: Path, inside: str) -> None:
    before = files_below(decathlon)

    with pytest.raises(DatasetError, match="part of the dataset that is converted"):
        converted(decathlon, decathlon / inside)

    assert files_below(decathlon) == before


def test_a_new_folder_beside_what_is_read_may_be_in_the_dataset(decathlon: Path) -> None:
    assert converted(decathlon, decathlon / "new").cases == 3


def test_an_empty_target_is_filled(decathlon: Path, target: Path) -> None:
    target.mkdir(parents=True)

    assert converted(decathlon, target).cases == 3

    assert (target / "dataset.json").is_file()
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_too_little_room_is_seen_before_anything_is_written(
    decathlon: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "SPLIT_GROWTH", 1e15)
    edit(decathlon, modality={"0": "a", "1": "b"})

    with pytest.raises(OSError, match="GiB are free") as refused:
        converted(decathlon, target)

    assert refused.value.errno == errno.ENOSPC
    assert list(target.parent.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on file sizes stands in for a full disk")
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, target: Path) -> None:
    source = make_older(tmp_path / "made", replace(FOUR_AXES, shape=(20, 40, 40)))
    program = """
import resource, signal, sys
from core import __main__ as command_line
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
sys.exit(command_line.main(["convert", "--from", sys.argv[1], "--out", sys.argv[2]]))
"""

    done = subprocess.run(
        [sys.executable, "-c", program, source, target], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(target.parent.iterdir()) == []


def _big_endian(content: bytes) -> bytes:
    """Turn the bytes of every number of a little-endian NIfTI-1 file of 16-bit voxels round."""
    fields = [
        "i",
        "10s",
        "18s",
        "i",
        "h",
        "1s",
        "1s",
        "8h",
        "3f",
        "h",
        "h",
        "h",
        "h",
        "8f",
        "f",
        "f",
        "f",
        "h",
        "1s",
        "1s",
        "f",
        "f",
        "f",
        "f",
        "i",
        "i",
        "80s",
        "24s",
        "h",
        "h",
        "6f",
        "12f",
        "16s",
        "4s",
    ]
    form = "".join(fields)
    numbers = struct.unpack("<" + form, content[:348])
    voxels = np.frombuffer(content[352:], "<i2").astype(">i2").tobytes()
    return struct.pack(">" + form, *numbers) + content[348:352] + voxels


def _scaled(content: bytes) -> bytes:
    """Store a scale, as scanners do."""
    changed = bytearray(content)
    struct.pack_into("<2f", changed, 112, 0.5, -3.0)
    return bytes(changed)


def _extended(content: bytes) -> bytes:
    """Put a comment of 32 bytes between header and voxels."""
    changed = bytearray(
        content[:348] + b"\x01\0\0\0" + struct.pack("<2i24s", 32, 6, b"acquired on a Monday") + content[352:]
    )
    struct.pack_into("<f", changed, 108, 384.0)
    return bytes(changed)


def _version_2(content: bytes) -> bytes:
    """Write the same file as NIfTI-2."""
    older: Any = Nifti1Header
    newer: Any = Nifti2Header
    header = newer.from_header(older(content[:348]), check=False)
    header["sizeof_hdr"] = 540
    header["vox_offset"] = 544
    header["magic"] = b"n+2\0\r\n\x1a\n"
    return bytes(header.binaryblock) + bytes(4) + content[352:]
