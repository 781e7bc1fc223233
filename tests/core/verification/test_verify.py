"""Everything that is wrong with a dataset is said at once, with its cure."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.domain.dataset import DatasetProblem
from core.domain.problems import NOTE_KINDS, PROBLEM_KINDS
from core.domain.progress import Progress, SilentObserver
from core.errors import CancelledError, DatasetError
from core.verification.case_checks import label_voxels
from core.verification.verify import Verification, verify_dataset
from tests.factories import (
    Recipe,
    case_name,
    make_dataset,
    make_phantom,
    rotation_xyz,
    write_array,
    write_case,
)

SHARED = Path(__file__).resolve().parents[3] / "../shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real images are not beside the repository")


def verified(raw: Path) -> Verification:
    found = verify_dataset(raw, SilentObserver())
    assert {problem.kind for problem in found.problems} <= set(PROBLEM_KINDS)
    assert {note.kind for note in found.notes} <= set(NOTE_KINDS)
    return found


def one(problems: tuple[DatasetProblem, ...], kind: str) -> DatasetProblem:
    (found,) = (problem for problem in problems if problem.kind == kind)
    return found


def edit(raw: Path, **changes: Any) -> None:
    path = raw / "dataset.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(channels=2, ending=".nrrd", direction=rotation_xyz((5, 9, -3)), vary_shape=True),
        Recipe(ending=".mha", labels={"background": 0, "a": 1, "b": 2, "ignore": 3}),
        Recipe(ending=".nii", labels={"background": 0, "all": [1, 2], "core": 2}, region_order=[1, 2]),
        Recipe(ending=".tif", spacing=(3.0, 1.0, 1.0)),
        Recipe(ending=".tif", shape=(1, 40, 50)),
        Recipe(ending=".png", shape=(1, 40, 50), channels=3),
    ],
)
def test_a_sound_dataset_has_no_problem(tmp_path: Path, recipe: Recipe) -> None:
    found = verified(make_dataset(tmp_path, recipe))

    assert found.problems == ()
    assert found.notes == ()
    assert [case.case_id for case in found.cases] == [case_name(number) for number in range(5)]
    assert found.cases[0].shape == recipe.shape
    assert found.cases[0].spacing[1:] == (1.0, 1.0)


def test_a_summary_counts_the_labels_of_each_case(tmp_path: Path) -> None:
    found = verified(make_dataset(tmp_path, Recipe(cases=1)))

    labels_zyx = make_phantom().labels_zyx
    assert found.cases[0].label_voxels == {value: int((labels_zyx == value).sum()) for value in (0, 1, 2)}


def test_the_verification_is_json_and_back(tmp_path: Path) -> None:
    found = verified(make_dataset(tmp_path))

    assert Verification.model_validate_json(found.model_dump_json(by_alias=True)) == found


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    recipe = Recipe(cases=9, channels=2)
    make_dataset(tmp_path, recipe)
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"
    (images / f"{case_name(0)}_0001.nii.gz").unlink()
    (labels / f"{case_name(1)}.nii.gz").unlink()
    (images / f"{case_name(2)}_0000.nii.gz").write_bytes(b"cut")
    write_array(make_phantom(recipe, 3).labels_zyx + 1, labels / f"{case_name(3)}.nii.gz")
    write_array(
        make_phantom(recipe, 4).labels_zyx, labels / f"{case_name(4)}.nii.gz", Recipe(origin_xyz=(1, 0, 0))
    )
    write_array(make_phantom(recipe, 5).voxels_czyx[1][:-1], images / f"{case_name(5)}_0001.nii.gz")
    (images / f"{case_name(6)}_0000.nii.gz").unlink()
    (images / f"{case_name(6)}_0001.nii.gz").unlink()
    (labels / f"{case_name(7)}.nii.gz").write_bytes(b"")

    found = verified(tmp_path)

    assert {(problem.case, problem.kind) for problem in found.problems} == {
        (None, "case-count"),
        (case_name(0), "missing-channel"),
        (case_name(1), "missing-label"),
        (case_name(2), "unreadable-image"),
        (case_name(3), "undeclared-label"),
        (case_name(4), "label-geometry"),
        (case_name(5), "channel-geometry"),
        (case_name(6), "missing-image"),
        (case_name(7), "unreadable-label"),
    }
    assert len(found.cases) == 8


def test_geometry_differences_are_told_with_numbers(tmp_path: Path) -> None:
    recipe = Recipe(cases=2)
    make_dataset(tmp_path, recipe)
    path = tmp_path / "labelsTr" / f"{case_name(1)}.nii.gz"
    write_array(make_phantom(recipe, 1).labels_zyx, path, Recipe(origin_xyz=(0.0, 1.0, 0.0)))

    problem = one(verified(tmp_path).problems, "label-geometry")

    assert "(0, 0, 0) and (0, 1, 0) mm" in problem.message


def test_noise_in_a_header_is_no_difference(tmp_path: Path) -> None:
    recipe = Recipe(cases=2, ending=".mha")
    make_dataset(tmp_path, recipe)
    path = tmp_path / "labelsTr" / f"{case_name(1)}.mha"
    write_array(make_phantom(recipe, 1).labels_zyx, path, Recipe(origin_xyz=(1e-6, 0.0, 0.0)))

    assert verified(tmp_path).problems == ()


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        ([0, 255], "write 1 instead of 255"),
        ([0, 1, 7], "declare them under labels"),
        ([0, -1], "count from 0"),
        (list(range(60)), "smoothed"),
    ],
)
def test_undeclared_values_come_with_a_guess(tmp_path: Path, values: list[int], cure: str) -> None:
    recipe = Recipe(cases=1)
    make_dataset(tmp_path, recipe)
    labels_zyx = np.resize(np.array(values, np.int16), recipe.shape)
    write_array(labels_zyx, tmp_path / "labelsTr" / f"{case_name(0)}.nii.gz")

    assert cure in one(verified(tmp_path).problems, "undeclared-label").message


def test_ignored_voxels_are_declared(tmp_path: Path) -> None:
    recipe = Recipe(cases=2, labels={"background": 0, "a": 1, "ignore": 2})

    assert verified(make_dataset(tmp_path, recipe)).problems == ()


@pytest.mark.parametrize(
    ("name", "kind", "cure"),
    [
        ("imagesTr/extra.nii.gz", "file-name", "rename it to extra_0000.nii.gz"),
        ("imagesTr/extra_000.nii.gz", "file-name", "rename it to extra_000_0000.nii.gz"),
        ("imagesTr/extra_0000.nii", "file-ending", "convert and rename it"),
        ("imagesTr/extra_0000.NII.GZ", "file-ending", "rename it to extra_0000.nii.gz"),
        ("labelsTr/extra.mha", "file-ending", "correct file_ending"),
        ("labelsTr/phantom_000_0000.nii.gz", "missing-image", "rename it to phantom_000.nii.gz"),
        ("labelsTr/extra.nii.gz", "missing-image", "add extra_0000.nii.gz to imagesTr"),
    ],
)
def test_misnamed_files_come_with_their_cure(tmp_path: Path, name: str, kind: str, cure: str) -> None:
    make_dataset(tmp_path)
    (tmp_path / name).write_bytes(b"")

    (problem,) = verified(tmp_path).problems

    assert problem.kind == kind
    assert cure in problem.message


@pytest.mark.parametrize("name", [".DS_Store", "._phantom_000_0000.nii.gz", "Thumbs.db", "notes.txt"])
def test_what_systems_leave_behind_is_ignored(tmp_path: Path, name: str) -> None:
    make_dataset(tmp_path)
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder / name).write_bytes(b"x")

    assert verified(tmp_path).problems == ()


def test_a_gap_between_channels_is_named(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(channels=2))
    path = tmp_path / "imagesTr" / f"{case_name(0)}_0001.nii.gz"
    path.rename(path.with_name(f"{case_name(0)}_0002.nii.gz"))

    assert f"lacks {case_name(0)}_0001.nii.gz" in one(verified(tmp_path).problems, "missing-channel").message


def test_too_many_channels_are_counted(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=1, shape=(1, 30, 40), channels=4, ending=".png"))
    edit(tmp_path, channel_names={"0": "R", "1": "G", "2": "B"})

    assert "the files hold 4" in one(verified(tmp_path).problems, "channel-count").message


def test_names_that_differ_only_in_case_are_reported(tmp_path: Path) -> None:
    recipe = Recipe(cases=1)
    make_dataset(tmp_path, recipe)
    write_case(tmp_path, "Tr", case_name(0).upper(), make_phantom(recipe, 1), recipe)
    edit(tmp_path, numTraining=2)

    assert one(verified(tmp_path).problems, "ambiguous-case").case == case_name(0)


def test_a_dataset_that_marks_nothing_is_a_problem(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=2, labels={"background": 0}))
    edit(tmp_path, labels={"background": 0, "tumor": 1})

    found = verified(tmp_path)

    assert one(found.problems, "no-foreground").case is None
    assert [note.kind for note in found.notes] == [
        "few-cases",
        "unused-label",
        "empty-reference",
        "empty-reference",
    ]


def test_labels_that_contradict_each_other_are_one_problem_among_others(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    edit(tmp_path, labels={"background": 0, "a": 1, "b": 3}, numTraining=7)

    assert {problem.kind for problem in verified(tmp_path).problems} == {"invalid-labels", "case-count"}


def test_a_reader_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    edit(tmp_path, overwrite_image_reader_writer="evil.module.Class")

    assert "SimpleITKIO" in one(verified(tmp_path).problems, "unknown-name").message


def test_a_damaged_first_image_does_not_hide_the_others(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    (tmp_path / "imagesTr" / f"{case_name(0)}_0000.nii.gz").write_bytes(b"")

    found = verified(tmp_path)

    assert one(found.problems, "unreadable-image").case == case_name(0)
    assert len(found.cases) == 4


def test_a_folder_without_readable_image_names_each(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=2))
    for path in (tmp_path / "imagesTr").iterdir():
        path.write_bytes(b"")

    found = verified(tmp_path)

    assert [problem.case for problem in found.problems] == [case_name(0), case_name(1)]
    assert found.reader is None


def test_an_empty_folder_is_a_problem(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=1))
    (tmp_path / "imagesTr" / f"{case_name(0)}_0000.nii.gz").unlink()

    assert "no-cases" in {problem.kind for problem in verified(tmp_path).problems}


def test_notes_point_at_what_deserves_a_look(tmp_path: Path) -> None:
    recipe = Recipe(cases=3)
    make_dataset(tmp_path, recipe)
    turned = replace(recipe, direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    write_case(tmp_path, "Tr", case_name(1), make_phantom(recipe, 0), turned)
    edit(tmp_path, labels={"background": 0, "left": 1, "right": 2, "never": 3})

    found = verified(tmp_path)

    assert found.problems == ()
    assert {(note.case, note.kind) for note in found.notes} == {
        (case_name(1), "duplicate-image"),
        (None, "mixed-orientation"),
        (None, "unused-label"),
        (None, "few-cases"),
    }


def test_regions_that_paint_over_each_other_are_noted(tmp_path: Path) -> None:
    recipe = Recipe(cases=1, labels={"background": 0, "core": 2, "all": [1, 2]}, region_order=[2, 1])

    assert (
        "turns label 2 into 1" in one(verified(make_dataset(tmp_path, recipe)).notes, "region-order").message
    )


def test_a_stack_without_spacing_is_noted(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=1, ending=".tif"))
    for path in tmp_path.rglob(f"{case_name(0)}.json"):
        path.unlink()

    assert one(verified(tmp_path).notes, "default-spacing").case == case_name(0)


def test_missing_parts_of_the_folder_are_named_at_once(tmp_path: Path) -> None:
    found = verified(tmp_path)

    assert found.description is None
    assert [(problem.kind, problem.message.split(";")[0]) for problem in found.problems] == [
        ("invalid-dataset", "the dataset has no dataset.json in its top folder"),
        ("invalid-dataset", "the dataset has no folder imagesTr beside dataset.json"),
        ("invalid-dataset", "the dataset has no folder labelsTr beside dataset.json"),
        ("no-cases", "imagesTr holds no image named CASE_0000.nii.gz"),
    ]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere does not exist; give the folder of a dataset"):
        verify_dataset(tmp_path / "nowhere", SilentObserver())


def test_dataset_json_may_list_the_cases(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=2))
    (tmp_path / "imagesTr").rename(tmp_path / "store")
    listed = {
        "b": {"images": [f"store/{case_name(1)}_0000.nii.gz"], "label": f"labelsTr/{case_name(1)}.nii.gz"},
        "a": {"images": [f"store/{case_name(0)}_0000.nii.gz"], "label": f"labelsTr/{case_name(0)}.nii.gz"},
    }
    edit(tmp_path, dataset=listed)

    found = verified(tmp_path)

    assert found.problems == ()
    assert [case.case_id for case in found.cases] == ["b", "a"]


class StopsAtOnce(SilentObserver):
    def stop_requested(self) -> bool:
        return True


class Remembers(SilentObserver):
    def __init__(self) -> None:
        self.seen: list[Progress] = []

    def report(self, progress: Progress) -> None:
        self.seen.append(progress)


def test_checking_tells_how_far_it_is_and_stops_when_asked(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    observer = Remembers()

    verify_dataset(tmp_path, observer)

    assert [(p.stage, p.done, p.total) for p in observer.seen] == [("verify", n, 5) for n in range(1, 6)]
    with pytest.raises(CancelledError):
        verify_dataset(tmp_path, StopsAtOnce())


@pytest.mark.parametrize("values", [[0, 1, 5], [-3, 0, 2], [0, 100_000]])
def test_label_values_are_counted(values: list[int]) -> None:
    labels_zyx = np.resize(np.array(values, np.int32), (3, 5, 7))

    assert label_voxels(labels_zyx) == {value: int((labels_zyx == value).sum()) for value in values}


@needs_shared
def test_real_mistakes_are_found(tmp_path: Path) -> None:
    bad = SHARED / "data/bad_inputs"
    make_dataset(tmp_path, Recipe(cases=1))
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"
    (images / "a_0000.nii.gz").write_bytes((bad / "hippocampus_118_image_without_label.nii.gz").read_bytes())
    (labels / "b.nii.gz").write_bytes((bad / "hippocampus_010_label_without_image.nii.gz").read_bytes())
    write_case(tmp_path, "Tr", "c", make_phantom(), Recipe())
    other = (bad / "hippocampus_281_label_of_other_anatomy_94x512x512.nii.gz").read_bytes()
    (labels / "c.nii.gz").write_bytes(other)

    found = {(problem.case, problem.kind): problem.message for problem in verified(tmp_path).problems}

    assert {("a", "missing-label"), ("b", "missing-image"), ("c", "label-geometry")} <= set(found)
    assert "(20, 28, 24) and (94, 512, 512) voxels" in found["c", "label-geometry"]


@needs_shared
def test_two_hundred_real_cases_have_no_problem() -> None:
    found = verified(SHARED / "data/Dataset004_Hippocampus")

    assert found.problems == ()
    assert len(found.cases) == 200


def test_classes_are_counted_by_case_and_voxel(tmp_path: Path) -> None:
    recipe = Recipe(cases=5, labels={"background": 0, "whole": [1, 2], "core": 2}, region_order=[1, 2])
    make_dataset(tmp_path, recipe)
    extra = make_phantom(recipe, 0).labels_zyx.copy()
    extra[0, 0, :3] = 9
    write_array(extra.astype(np.uint8), tmp_path / "labelsTr" / f"{case_name(0)}.nii.gz", recipe)

    classes = {one.label: one for one in verified(tmp_path).classes}

    drawn = [make_phantom(recipe, number).labels_zyx for number in range(5)]
    assert classes[1].voxels == sum(int((labels_zyx == 1).sum()) for labels_zyx in drawn)
    assert (classes[1].names, classes[1].cases) == (("whole",), 5)
    assert classes[2].names == ("whole", "core")
    assert (classes[9].names, classes[9].cases, classes[9].voxels) == ((), 1, 3)


def test_a_declared_label_that_never_occurs_is_counted_as_nothing(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    edit(tmp_path, labels={"background": 0, "left": 1, "right": 2, "never": 3})

    (never,) = (one for one in verified(tmp_path).classes if one.label == 3)

    assert (never.cases, never.voxels) == (0, 0)


def test_test_images_are_summarized_apart(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=5), held_out=2)

    found = verified(tmp_path)

    assert found.problems == ()
    assert [case.case_id for case in found.test_cases] == [case_name(5), case_name(6)]
    assert len(found.cases) == 5


def test_one_odd_image_does_not_decide_how_all_are_read(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=5, ending=".tif"))
    write_array(np.zeros((1, 30, 31), np.uint8), tmp_path / "imagesTr" / f"{case_name(0)}_0000.tif")

    found = verified(tmp_path)

    assert found.reader == "Tiff3DIO"
    assert {problem.case for problem in found.problems} == {case_name(0)}
