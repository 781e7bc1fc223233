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
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from core import __main__ as command_line
from core.conversion import convert
from core.conversion.convert import convert_dataset
from core.conversion.layouts import tell_layout
from core.conversion.legacy import convert_labels
from core.domain.conversion import Conversion, Layout, Manner
from core.domain.progress import Progress, SilentObserver
from core.errors import CancelledError, DatasetError, DomainError
from core.io.image import Header
from core.io.readers import read_header, read_image, reader_for_file
from core.verification.verify import verify_dataset
from tests.factories import Recipe, case_name, make_dataset, make_phantom, write_array
from tests.older_layouts import FOUR_AXES, OBLIQUE, make_older, older_json, write_channels

sitk: Any = SimpleITK
"""Its functions carry no types."""

OFFICIAL = shutil.which("nnUNetv2_convert_MSD_dataset")
SHARED = Path(__file__).resolve().parents[3] / "../shared"


def converted(source: Path, target: Path, manner: Manner | None = None) -> Conversion:
    return convert_dataset(source, target, SilentObserver(), manner)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of dataset.json; None takes one out."""
    path = folder / "dataset.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def kinds(done: Conversion) -> dict[str | None, str]:
    return {one.case: one.kind for one in done.problems}


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    return make_older(tmp_path / "Task99_Phantoms")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "Dataset099_Phantoms"


# --- what comes out ------------------------------------------------------------------------------------------


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


# --- which layout it is --------------------------------------------------------------------------------------


def test_each_layout_is_told_by_its_files(tmp_path: Path) -> None:
    assert tell_layout(make_older(tmp_path / "a")) is Layout.DECATHLON
    assert tell_layout(make_older(tmp_path / "b", layout=Layout.V1)) is Layout.V1
    assert tell_layout(make_dataset(tmp_path / "c", Recipe(cases=1))) is Layout.V2


def test_inverted_labels_are_enough_to_be_older(tmp_path: Path, target: Path) -> None:
    source = make_dataset(tmp_path / "made", replace(OBLIQUE, cases=2))
    edit(source, labels={"0": "background", "1": "left", "2": "right"})

    done = converted(source, target)

    assert (done.layout, done.cases, done.problems) == (Layout.V1, 2, ())
    assert verify_dataset(target, SilentObserver()).problems == ()


def test_cases_whose_names_end_like_channels_stay_the_decathlons(tmp_path: Path, target: Path) -> None:
    source = make_older(tmp_path / "made", replace(OBLIQUE, cases=2))
    for name in ("imagesTr", "labelsTr"):
        for number in range(2):
            (source / name / f"{case_name(number)}.nii.gz").rename(source / name / f"p_{number:04d}.nii.gz")
        write_array(make_phantom(OBLIQUE).labels_zyx, source / name / "p.nii.gz", OBLIQUE)
    edit(source, training=None)

    done = converted(source, target)

    assert (done.layout, done.cases, done.problems) == (Layout.DECATHLON, 3, ())
    assert sorted(path.name for path in (target / "imagesTr").iterdir()) == [
        "p_0000.nii.gz",
        "p_0000_0000.nii.gz",
        "p_0001_0000.nii.gz",
    ]


def test_images_named_in_both_ways_are_refused(decathlon: Path, target: Path) -> None:
    image = decathlon / "imagesTr" / f"{case_name(1)}.nii.gz"
    image.rename(image.with_name(f"{case_name(1)}_0000.nii.gz"))

    with pytest.raises(DatasetError, match=r"phantom_001.*name all in one way"):
        converted(decathlon, target)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"modality": None, "labels": None, "training": None}, "in no layout that is known"),
        ({"labels": {"background": 0, "left": 1}, "file_ending": ".nii.gz"}, "nothing to convert"),
        ({"labels": None}, "no labels"),
        ({"labels": []}, "no labels"),
        ({"labels": {"0": "background"}}, "labels"),
        ({"modality": None}, "channel_names"),
        ({"modality": "MRI"}, "channel_names"),
        ({"modality": {"0": 1}}, "channel_names"),
        ({"training": {"a": 1}}, "training must be a list"),
        ({"training": ["./imagesTr/a.nii.gz"]}, "entry 0 of training"),
        ({"training": [{"image": "./imagesTr/a.nii.gz"}]}, "entry 0 of training"),
        ({"training": [{"image": ["a"], "label": "b"}]}, "entry 0 of training"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(
    decathlon: Path, target: Path, changes: dict[str, Any], sentence: str
) -> None:
    edit(decathlon, **changes)

    with pytest.raises(DatasetError, match=sentence):
        converted(decathlon, target)
    assert not target.exists()


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"a": NaN}', '{"a": 1e999}'])
def test_a_broken_description_is_refused(decathlon: Path, target: Path, text: str) -> None:
    head = json.dumps(older_json())[:-1]
    (decathlon / "dataset.json").write_text(f'{head}, "x": {text}}}' if text.startswith("{") else text)

    with pytest.raises(DatasetError, match=r"dataset\.json"):
        converted(decathlon, target)


@pytest.mark.parametrize("name", ["imagesTr", "labelsTr"])
def test_a_missing_folder_is_named(decathlon: Path, target: Path, name: str) -> None:
    shutil.rmtree(decathlon / name)

    with pytest.raises(DatasetError, match=f"no folder {name}"):
        converted(decathlon, target)


def test_several_formats_are_refused(decathlon: Path, target: Path) -> None:
    write_array(make_phantom(OBLIQUE).labels_zyx, decathlon / "labelsTr" / "other.mha", OBLIQUE)

    with pytest.raises(DatasetError, match=r"6 files of \.nii\.gz, 1 files of \.mha"):
        converted(decathlon, target)


# --- labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"0": "background", "1": "a", "2": "b"}, {"background": 0, "a": 1, "b": 2}),
        ({"2": "b", "1": "a", "0": "background"}, {"b": 2, "a": 1, "background": 0}),
        ({"0": "Background", "1": "a"}, {"background": 0, "a": 1}),
        ({"0": "unlabelled", "1": "a"}, {"background": 0, "a": 1}),
        ({"1": "liver"}, {"background": 0, "liver": 1}),
        ({"background": 0, "liver": 1}, {"background": 0, "liver": 1}),
        ({"00": "background", "01": "a"}, {"background": 0, "a": 1}),
    ],
)
def test_labels_are_turned_round(labels: dict[str, Any], expected: dict[str, int]) -> None:
    found, notes = convert_labels(labels)

    assert list(found.items()) == list(expected.items())
    assert len(notes) == (0 if "background" in labels or "background" in labels.values() else 1)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"0": "background", "1": "tumor", "2": "tumor"}, "two labels have the name 'tumor'"),
        ({"0": "background", "1": "a", "01": "b"}, "two labels have the number 1"),
        ({"0": "background", "one": "a"}, "'one' is no number"),
        ({"0": "background", "1.0": "a"}, "'1.0' is no number"),
        ({"0": "background", "-1": "a"}, "'-1' is no number"),
        ({"0": "background", "9" * 5000: "a"}, "is no number"),
        ({"0": "background", "\u0661": "a"}, "is no number"),
        ({"0": "background", "1": ["a", "b"]}, "label 1 has no single name"),
        ({"0": "background", "1": ""}, "label 1 has no single name"),
        ({"0": "background", "1": 5}, "label 1 has no single name"),
        ({"0": "liver", "1": "background"}, "label 1 is named background"),
        ({"liver": 0, "background": 1}, "label 1 is named background"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(labels: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        convert_labels(labels)


def test_a_number_that_comes_twice_is_not_lost(decathlon: Path, target: Path) -> None:
    text = json.dumps(older_json()).replace('"2": "right"', '"1": "right"')
    (decathlon / "dataset.json").write_text(text)

    with pytest.raises(DatasetError, match="'1' twice"):
        converted(decathlon, target)


def test_gaps_between_label_numbers_are_a_problem_with_a_cure(decathlon: Path, target: Path) -> None:
    edit(decathlon, labels={"0": "background", "1": "left", "5": "right"})

    done = converted(decathlon, target)

    assert kinds(done) == {None: "invalid-labels"}
    assert "renumber" in done.problems[0].message
    assert not target.exists()


# --- files and the list of them ------------------------------------------------------------------------------


def test_hidden_files_are_left_out(decathlon: Path, target: Path) -> None:
    for name in ("imagesTr", "labelsTr"):
        for hidden in ("._phantom_000.nii.gz", "_copy.nii.gz", ".DS_Store"):
            (decathlon / name / hidden).write_bytes(b"\x00\x05\x16\x07")
        (decathlon / name / "read me.txt").write_text("hello")
        (decathlon / name / "folder.nii.gz").mkdir()

    done = converted(decathlon, target)

    assert (done.cases, done.problems) == (3, ())
    assert len(list((target / "imagesTr").iterdir())) == 3


def test_every_incomplete_case_is_named_at_once(decathlon: Path, target: Path) -> None:
    (decathlon / "imagesTr" / f"{case_name(0)}.nii.gz").unlink()
    (decathlon / "labelsTr" / f"{case_name(1)}.nii.gz").unlink()
    listed = older_json()["training"]
    gone = {"image": "./imagesTr/gone.nii.gz", "label": "./labelsTr/gone.nii.gz"}
    edit(decathlon, training=[*listed, gone])

    done = converted(decathlon, target)

    assert kinds(done) == {
        case_name(0): "missing-image",
        case_name(1): "missing-label",
        "gone": "missing-image",
    }
    assert "neither" in next(one.message for one in done.problems if one.case == "gone")
    assert not target.exists()


def test_the_others_are_converted_where_that_is_wanted(decathlon: Path, target: Path) -> None:
    (decathlon / "imagesTr" / f"{case_name(0)}.nii.gz").unlink()

    done = converted(decathlon, target, Manner(partly=True))

    assert (done.cases, kinds(done)) == (2, {case_name(0): "missing-image"})
    assert json.loads((target / "dataset.json").read_text())["numTraining"] == 2
    assert verify_dataset(target, SilentObserver()).problems == ()


def test_a_case_that_is_not_listed_is_converted_and_noted(decathlon: Path, target: Path) -> None:
    edit(decathlon, training=older_json()["training"][:2])

    done = converted(decathlon, target)

    assert (done.cases, done.problems) == (3, ())
    assert [note.kind for note in done.notes] == ["unlisted-case"]
    assert case_name(2) in done.notes[0].message


def test_a_label_of_another_name_is_found_by_the_list(decathlon: Path, target: Path) -> None:
    for number in range(3):
        label = decathlon / "labelsTr" / f"{case_name(number)}.nii.gz"
        label.rename(label.with_name(f"{number}_mask.nii.gz"))
    listed = [
        {"image": f"imagesTr/{case_name(number)}.nii.gz", "label": f"labelsTr/{number}_mask.nii.gz"}
        for number in range(3)
    ]
    edit(decathlon, training=listed)

    done = converted(decathlon, target)

    assert (done.cases, done.problems, done.notes) == (3, (), ())
    assert verify_dataset(target, SilentObserver()).problems == ()


@pytest.mark.parametrize(
    "entries",
    [
        [(0, 0), (1, 0), (2, 2)],
        [(0, 1), (1, 0), (2, 2)],
        [(0, 0), (1, 1), (2, 2), (0, 1)],
    ],
    ids=["one label twice", "exchanged", "two labels"],
)
def test_a_list_that_contradicts_the_names_is_a_problem(
    decathlon: Path, target: Path, entries: list[tuple[int, int]]
) -> None:
    listed = [
        {"image": f"imagesTr/{case_name(image)}.nii.gz", "label": f"labelsTr/{case_name(label)}.nii.gz"}
        for image, label in entries
    ]
    edit(decathlon, training=listed)

    done = converted(decathlon, target)

    assert set(kinds(done).values()) == {"ambiguous-case"}
    assert not target.exists()


def test_a_list_may_name_the_first_channel(tmp_path: Path, target: Path) -> None:
    source = make_older(tmp_path / "made", FOUR_AXES, Layout.V1)
    listed = [
        {"image": f"./imagesTr/{case_name(n)}_0000.nii.gz", "label": f"./labelsTr/{case_name(n)}.nii.gz"}
        for n in range(3)
    ]
    edit(source, training=listed)

    done = converted(source, target)

    assert (done.cases, done.problems, done.notes) == (3, (), ())


def test_a_list_may_name_another_ending(decathlon: Path, target: Path) -> None:
    text = json.dumps(older_json()).replace(".nii.gz", ".nii")
    (decathlon / "dataset.json").write_text(text)

    done = converted(decathlon, target)

    assert (done.cases, done.problems, done.notes) == (3, (), ())


def test_channels_of_the_older_nnunet_are_counted(tmp_path: Path, target: Path) -> None:
    source = make_older(tmp_path / "made", FOUR_AXES, Layout.V1)
    images = source / "imagesTr"
    (images / f"{case_name(0)}_0000.nii.gz").unlink()
    shutil.copyfile(images / f"{case_name(1)}_0000.nii.gz", images / f"{case_name(1)}_0002.nii.gz")
    shutil.copyfile(images / f"{case_name(1)}_0000.nii.gz", images / "stray.nii.gz")

    done = converted(source, target)

    assert kinds(done) == {
        case_name(0): "missing-channel",
        case_name(1): "channel-count",
        "stray.nii.gz": "file-name",
    }


@pytest.mark.parametrize(("named", "kind"), [(1, "channel-count"), (3, "missing-channel")])
def test_channels_of_the_decathlon_are_counted(tmp_path: Path, target: Path, named: int, kind: str) -> None:
    source = make_older(tmp_path / "made", FOUR_AXES)
    edit(source, modality={str(number): f"m{number}" for number in range(named)})

    done = converted(source, target)

    assert kinds(done) == {case_name(number): kind for number in range(3)}
    assert "holds 2 channels" in done.problems[0].message


def test_a_folder_without_a_complete_case_says_so(decathlon: Path, target: Path) -> None:
    shutil.rmtree(decathlon / "labelsTr")
    (decathlon / "labelsTr").mkdir()

    assert kinds(converted(decathlon, target))[None] == "no-cases"


# --- damage --------------------------------------------------------------------------------------------------


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


# --- safety --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["image", "label"])
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../secret.nii.gz",
        "./imagesTr/../../secret.nii.gz",
        "labelsTr/../imagesTr/../../../secret.nii.gz",
    ],
)
def test_a_listed_path_that_leaves_the_dataset_is_refused(
    decathlon: Path, target: Path, key: str, path: str
) -> None:
    write_array(make_phantom(OBLIQUE).labels_zyx, decathlon.parent / "secret.nii.gz", OBLIQUE)
    listed = older_json()["training"]
    edit(decathlon, training=[*listed, {**listed[0], key: path}])

    with pytest.raises(DatasetError, match="leads out of the dataset"):
        converted(decathlon, target)
    assert not target.parent.exists()


def test_every_listed_path_that_is_wrong_is_named_at_once(decathlon: Path, target: Path) -> None:
    listed = older_json()["training"]
    wrong = [
        {**listed[0], "image": "../a.nii.gz"},
        {**listed[0], "image": "/b.nii.gz"},
        {**listed[0], "label": "../c.nii.gz"},
        {**listed[0], "label": "other/d.nii.gz"},
        {"image": 5},
        "text",
    ]
    edit(decathlon, training=[*listed, *wrong])

    with pytest.raises(DatasetError) as raised:
        converted(decathlon, target)

    said = raised.value.message
    assert "'../a.nii.gz', '/b.nii.gz', which lead out of the dataset" in said
    assert "'../c.nii.gz', which leads out of the dataset" in said
    assert "'other/d.nii.gz', which is not in labelsTr" in said
    assert f"entries {len(listed) + 4}, {len(listed) + 5} of training" in said


@pytest.mark.parametrize(
    "path", ["secret.nii.gz", "other/a.nii.gz", "..\\secret.nii.gz", "", "imagesTr", "./imagesTr/a/b.nii.gz"]
)
def test_a_listed_path_elsewhere_in_the_dataset_is_refused(decathlon: Path, target: Path, path: str) -> None:
    listed = older_json()["training"]
    edit(decathlon, training=[*listed, {**listed[0], "image": path}])

    with pytest.raises(DatasetError, match="is not in imagesTr"):
        converted(decathlon, target)


def test_what_the_list_of_tests_says_is_never_looked_at(decathlon: Path, target: Path) -> None:
    edit(decathlon, test=["/etc/passwd", "../../x", 5, None])

    assert converted(decathlon, target).problems == ()


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["./imagesTr/phantom_000.nii.gz", "../x", "0", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["0", "1", "image", "label", "x"]) | st.text(max_size=3), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(deadline=None)  # Every example writes files.
@given(
    changes=st.dictionaries(
        st.sampled_from(
            [
                "labels",
                "modality",
                "training",
                "test",
                "channel_names",
                "file_ending",
                "numTest",
                "dataset",
                "name",
            ]
        ),
        json_values,
        max_size=4,
    )
)
def test_whatever_a_description_says_it_is_converted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = make_older(folder / "made", replace(OBLIQUE, cases=2, shape=(2, 4, 4)))
    (source / "dataset.json").write_text(json.dumps({**older_json(), **changes}))

    try:
        done = converted(source, folder / "target")
    except DomainError as error:
        message = error.message
    else:
        message = " ".join(one.message for one in done.problems)
    assert (folder / "target").exists() == (not message)
    assert {path.name for path in folder.iterdir()} <= {"made", "target"}


def test_a_volume_that_claims_a_million_channels_makes_no_million_files(
    decathlon: Path, target: Path
) -> None:
    edit(decathlon, modality={str(number): "m" for number in range(100_000)})

    with pytest.raises(DatasetError, match="at most 200000"):
        converted(decathlon, target)


def test_what_a_description_names_by_the_hundred_thousand_takes_no_time(tmp_path: Path, target: Path) -> None:
    """Whatever would go through pairs of labels, or through channels for each case, would not come to its end."""
    labels, _ = convert_labels({str(number): f"label {number}" for number in range(200_000)})
    assert len(labels) == 200_000
    source = make_older(tmp_path / "made", replace(OBLIQUE, cases=1), Layout.V1)
    for number in range(3000):
        for name in (f"imagesTr/c{number}_0000.nii.gz", f"labelsTr/c{number}.nii.gz"):
            (source / name).touch()
    edit(source, modality={str(number): "m" for number in range(200_000)})

    done = converted(source, target)

    assert len(done.problems) == 3002  # one of them that no case is left
    assert "and 199989 more" in done.problems[0].message


# --- whole or not at all -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("inside", [".", "new", "imagesTr/new"])
def test_the_command_never_converts_a_dataset_into_itself(
    decathlon: Path, inside: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = files_below(decathlon)

    assert run("convert", "--from", decathlon, "--out", decathlon / inside) == 1
    assert "within the dataset that is converted" in capfd.readouterr().err
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


# --- the command line ----------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    return command_line.main([str(argument) for argument in arguments])


def test_the_command_converts(decathlon: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", "--from", decathlon, "--out", target) == 0

    assert "3 training cases and 0 others of Medical Segmentation Decathlon" in capsys.readouterr().out
    assert run("verify", "--raw", target) == 0


def test_the_command_says_what_is_wrong(
    decathlon: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (decathlon / "labelsTr" / f"{case_name(1)}.nii.gz").unlink()

    assert run("convert", "--from", decathlon, "--out", target) == 1

    told = capsys.readouterr()
    assert "phantom_001: missing-label: labelsTr has no phantom_001.nii.gz" in told.out
    assert "1 problems found" in told.err
    assert not target.exists()


@pytest.mark.parametrize("what", ["absent", "file", "empty", "v2", "taken", "unwritable"])
def test_a_mistake_ends_in_one_sentence(
    decathlon: Path, target: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    sources = {"absent": tmp_path / "absent", "file": tmp_path / "file", "empty": tmp_path / "empty"}
    sources["v2"] = make_dataset(tmp_path / "v2", Recipe(cases=1))
    targets = {"taken": decathlon, "unwritable": tmp_path / "file" / "x"}

    status = run("convert", "--from", sources.get(what, decathlon), "--out", targets.get(what, target))

    told = capsys.readouterr()
    assert (status, told.out) == (1, "")
    assert len(" ".join(told.err.split())) > 20
    assert not target.exists()


# --- the official conversion ---------------------------------------------------------------------------------


@pytest.mark.skipif(OFFICIAL is None, reason="needs the official package on the PATH")
@pytest.mark.parametrize("recipe", [OBLIQUE, replace(FOUR_AXES, channels=3)], ids=["3 axes", "4 axes"])
def test_the_official_conversion_gives_the_same(tmp_path: Path, target: Path, recipe: Recipe) -> None:
    source = make_older(tmp_path / "Task99_Phantoms", recipe, tests=2)
    (source / "imagesTr" / "._phantom_000.nii.gz").write_bytes(b"\x00\x05\x16\x07")

    converted(source, target)

    _require_same(target, _convert_officially(source, tmp_path))


@pytest.mark.skipif(OFFICIAL is None, reason="needs the official package on the PATH")
def test_the_official_conversion_of_the_older_nnunet_gives_the_same(tmp_path: Path, target: Path) -> None:
    source = make_older(tmp_path / "Task99_Phantoms", FOUR_AXES, Layout.V1, tests=2)

    converted(source, target)

    _require_same(target, _convert_officially(source, tmp_path, "nnUNetv2_convert_old_nnUNet_dataset"))


@pytest.mark.skipif(OFFICIAL is None, reason="needs the official package on the PATH")
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real images in ../shared")
def test_real_images_become_what_the_official_conversion_makes_of_them(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "Task04_Hippocampus"
    raw = SHARED / "data" / "Dataset004_Hippocampus"
    for name in ("imagesTr", "imagesTs", "labelsTr"):
        (source / name).mkdir(parents=True)
    for image in sorted((raw / "imagesTr").iterdir())[:20]:
        shutil.copyfile(image, source / "imagesTr" / image.name.replace("_0000", ""))
        label = image.name.replace("_0000", "")
        shutil.copyfile(raw / "labelsTr" / label, source / "labelsTr" / label)
    values = {
        **older_json(),
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": 20,
    }
    (source / "dataset.json").write_text(json.dumps({**values, "training": [], "test": []}))

    converted(source, target)

    _require_same(target, _convert_officially(source, tmp_path))


def _convert_officially(source: Path, folder: Path, program: str = "nnUNetv2_convert_MSD_dataset") -> Path:
    """Run an official conversion."""
    roots = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    for root in roots.values():
        Path(root).mkdir()
    what = ["-i", str(source), "-np", "1"] if "MSD" in program else [str(source), "Dataset099_Phantoms"]
    subprocess.run(
        [Path(str(OFFICIAL)).with_name(program), *what],
        env={**os.environ, **roots},  # noqa: TID251 - the environment of a process that is started
        check=True,
        capture_output=True,
    )
    return next((folder / "raw").iterdir())


def _require_same(ours: Path, theirs: Path) -> None:
    """Compare two datasets: names, entries of dataset.json, voxels, types, places in space."""
    names = {str(path.relative_to(ours)) for path in ours.rglob("*.*")}
    assert names == {str(path.relative_to(theirs)) for path in theirs.rglob("*.*")}
    assert json.loads((ours / "dataset.json").read_text()) == json.loads(
        (theirs / "dataset.json").read_text()
    )
    for name in sorted(names - {"dataset.json"}):
        one, other = (sitk.ReadImage(str(folder / name)) for folder in (ours, theirs))
        assert one.GetPixelID() == other.GetPixelID()
        assert np.array_equal(sitk.GetArrayViewFromImage(one), sitk.GetArrayViewFromImage(other))
        assert one.GetSpacing() == other.GetSpacing()
        assert np.allclose(one.GetOrigin(), other.GetOrigin(), atol=1e-5)
        assert np.allclose(one.GetDirection(), other.GetDirection(), atol=1e-6)


# --- NIfTI files of other kinds ------------------------------------------------------------------------------


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
