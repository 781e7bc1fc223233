import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.conversion.layouts import tell_layout
from core.domain.conversion import Layout
from core.domain.progress import SilentObserver
from core.errors import DatasetError
from core.verification.verify import verify_dataset
from tests.core.conversion.converting import converted, edit
from tests.factories import Recipe, case_name, make_dataset, make_phantom, write_array
from tests.older_layouts import OBLIQUE, make_older, older_json


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
