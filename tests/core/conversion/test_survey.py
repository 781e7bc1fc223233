import json
import shutil
from pathlib import Path

import pytest

from core.domain.conversion import Layout, Manner
from core.domain.progress import SilentObserver
from core.verification.verify import verify_dataset
from tests.core.conversion.converting import converted, edit, kinds
from tests.factories import case_name
from tests.older_layouts import FOUR_AXES, make_older, older_json


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
