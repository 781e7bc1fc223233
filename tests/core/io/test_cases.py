"""Cases are found by the names of their files, or by the list in dataset.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import DatasetError
from core.io.cases import find_cases, find_images, read_description
from tests.factories import Recipe, case_name, make_dataset, make_phantom, write_case


def edit(raw: Path, **changes: Any) -> None:
    path = raw / "dataset.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_an_older_description_is_told_how_to_write_it(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    edit(tmp_path, labels={"0": "background", "1": "left"})

    with pytest.raises(DatasetError, match='"background": 0, "left": 1'):
        read_description(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"labels": {}}', "[" * 100_000, '{"name": "\\ud800"}'])
def test_a_broken_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)

    with pytest.raises(DatasetError, match=r"dataset\.json"):
        read_description(tmp_path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside.nii.gz", "imagesTr/../../x.nii.gz"])
def test_listed_files_stay_within_the_dataset(tmp_path: Path, path: str) -> None:
    make_dataset(tmp_path, Recipe(cases=1))
    edit(tmp_path, dataset={"a": {"images": [path], "label": "labelsTr/a.nii.gz"}})

    with pytest.raises(DatasetError, match="outside the dataset"):
        find_cases(tmp_path, read_description(tmp_path))


def test_listed_identifiers_can_name_files(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=1))
    edit(tmp_path, dataset={"../a": {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}})

    with pytest.raises(DatasetError, match="cannot name a file"):
        find_cases(tmp_path, read_description(tmp_path))


def test_case_identifiers_may_hold_dots_and_underscores(tmp_path: Path) -> None:
    recipe = Recipe(cases=0, channels=2)
    make_dataset(tmp_path, recipe)
    write_case(tmp_path, "Tr", "p_1.2_0003", make_phantom(recipe), recipe)

    (case,) = find_cases(tmp_path, read_description(tmp_path))

    assert case.case_id == "p_1.2_0003"
    assert [path.name for path in case.images] == ["p_1.2_0003_0000.nii.gz", "p_1.2_0003_0001.nii.gz"]
    assert case.label == tmp_path / "labelsTr" / "p_1.2_0003.nii.gz"


def test_images_without_references_are_found(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=1), held_out=2)

    found = find_images(tmp_path / "imagesTs", read_description(tmp_path))

    assert [(case.case_id, case.label) for case in found] == [(case_name(1), None), (case_name(2), None)]
