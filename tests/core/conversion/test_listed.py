"""What dataset.json lists comes from anybody: it leads nowhere else, and costs neither time nor files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.conversion.legacy import convert_labels
from core.domain.conversion import Layout
from core.errors import DatasetError, DomainError
from tests.core.conversion.converting import converted, edit
from tests.factories import make_phantom, write_array
from tests.older_layouts import OBLIQUE, make_older, older_json


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
