"""Two recipes agree exactly where the arrays do."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core.domain.fingerprint import IntensityProperties
from core.domain.labels import label_set
from core.domain.plan import Configuration, Plan
from core.extensions import Group
from core.preprocessing.recipe import case_digest, recipe_digest
from tests.core.packages import installed
from tests.factories import Recipe, case_name, make_dataset
from tests.plans import small_plan

LABELS = label_set({"background": 0, "a": 1, "b": 2}, None)


def digest(plan: Plan, configuration: Configuration) -> str:
    return recipe_digest(plan, configuration, LABELS)


def with_intensities(plan: Plan, mean: float) -> Plan:
    known = IntensityProperties(
        max=10, mean=mean, median=2, min=0, percentile_00_5=0.5, percentile_99_5=5, std=1.5
    )
    return plan.model_copy(update={"foreground_intensity_properties_per_channel": {"0": known}})


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": (2.0, 1.0, 1.0)},
        {"normalization_schemes": ("NoNormalization",)},
        {"use_mask_for_norm": (True,)},
        {"resampling_fn_data": "no_resampling_hack"},
        {"resampling_fn_data_kwargs": {"order": 1}},
        {"resampling_fn_seg": "no_resampling_hack"},
        {"resampling_fn_seg_kwargs": {"order": 0}},
        {"patch_size": (8, 8)},
    ],
)
def test_what_shapes_the_arrays_counts(change: Mapping[str, Any]) -> None:
    plan, configuration = small_plan((1.0, 1.0, 1.0))

    assert digest(plan, configuration) != digest(plan, configuration.model_copy(update=change))


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 7},
        {"patch_size": (16, 16, 16)},
        {"data_identifier": "elsewhere"},
        {"resampling_fn_probabilities": "no_resampling_hack"},
        {"previous_stage": "3d_lowres"},
        {"batch_dice": True},
    ],
)
def test_what_only_training_and_prediction_need_does_not_count(change: Mapping[str, Any]) -> None:
    plan, configuration = small_plan((1.0, 1.0, 1.0))

    assert digest(plan, configuration) == digest(plan, configuration.model_copy(update=change))


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"transpose_forward": (1, 0, 2)}, True),
        ({"image_reader_writer": "NibabelIO"}, True),
        ({"plans_name": "other"}, False),
        ({"dataset_name": "Dataset009_Other"}, False),
    ],
)
def test_the_plan_counts_as_far_as_it_shapes_the_arrays(change: Mapping[str, Any], counts: bool) -> None:  # noqa: FBT001
    plan, configuration = small_plan((1.0, 1.0, 1.0))

    assert (digest(plan, configuration) != digest(plan.model_copy(update=change), configuration)) is counts


@pytest.mark.parametrize(
    ("scheme", "counts"),
    [("CTNormalization", True), ("ZScoreNormalization", False), ("NoNormalization", False)],
)
def test_intensities_of_the_dataset_count_where_a_scheme_uses_them(scheme: str, counts: bool) -> None:  # noqa: FBT001
    plan, configuration = small_plan((1.0, 1.0, 1.0), schemes=(scheme,))

    one, other = (digest(with_intensities(plan, mean), configuration) for mean in (2, 3))

    assert (one != other) is counts


def test_labels_count_because_classes_are_drawn_of_them() -> None:
    plan, configuration = small_plan((1.0, 1.0, 1.0))
    declared: list[tuple[dict[str, Any], list[int] | None]] = [
        ({"background": 0, "a": 1, "b": 2}, None),
        ({"background": 0, "whole": [1, 2], "b": 2}, [1, 2]),
        ({"background": 0, "a": 1, "ignore": 2}, None),
    ]

    digests = [recipe_digest(plan, configuration, label_set(labels, order)) for labels, order in declared]

    assert len(set(digests)) == 3


def test_names_of_labels_do_not_count() -> None:
    plan, configuration = small_plan((1.0, 1.0, 1.0))
    renamed = label_set({"background": 0, "x": 1, "y": 2}, None)

    assert digest(plan, configuration) == recipe_digest(plan, configuration, renamed)


def test_a_cascade_shares_what_it_inherits() -> None:
    plan, _ = small_plan((1.0, 1.0, 1.0))
    names = {
        **plan.configurations,
        "3d_cascade_fullres": {"inherits_from": "small", "previous_stage": "3d_lowres"},
    }
    plan = plan.model_copy(update={"configurations": names})

    assert digest(plan, plan.configuration("3d_cascade_fullres")) == digest(plan, plan.configuration("small"))


def test_every_byte_of_the_files_counts_and_so_does_their_order(tmp_path: Path) -> None:
    first, second, label = tmp_path / "a_0000.nrrd", tmp_path / "a_0001.nrrd", tmp_path / "a.nrrd"
    for path, content in ((first, b"one"), (second, b"two"), (label, b"label")):
        path.write_bytes(content)

    before = case_digest("recipe", [first, second], label)

    assert case_digest("recipe", [first, second], label) == before
    assert case_digest("other", [first, second], label) != before
    assert case_digest("recipe", [second, first], label) != before
    assert case_digest("recipe", [first], second) != case_digest("recipe", [first, second], None)
    label.write_bytes(b"lable")
    assert case_digest("recipe", [first, second], label) != before


def test_the_name_of_a_file_does_not_count(tmp_path: Path) -> None:
    one, other = tmp_path / "a_0000.nii.gz", tmp_path / "b_0000.nii.gz"
    one.write_bytes(b"content")
    other.write_bytes(b"content")

    assert case_digest("recipe", [one], None) == case_digest("recipe", [other], None)


def test_the_spacing_beside_a_tiff_counts(tmp_path: Path) -> None:
    make_dataset(tmp_path, Recipe(cases=1, ending=".tif"))
    image = tmp_path / f"imagesTr/{case_name(0)}_0000.tif"
    before = case_digest("recipe", [image], None)
    side_car = tmp_path / f"imagesTr/{case_name(0)}.json"

    side_car.write_text(json.dumps({"spacing": [3, 1, 1]}))

    assert case_digest("recipe", [image], None) != before


def test_the_version_of_a_package_counts_where_it_is_used(tmp_path: Path) -> None:
    plan, configuration = small_plan((1.0, 1.0, 1.0), schemes=("Added",))
    other, unconcerned = small_plan((1.0, 1.0, 1.0))
    without = digest(plan, configuration), digest(other, unconcerned)

    with installed(tmp_path, "made_to_count", "", {Group.NORMALIZATION: {"Added": "made_to_count:it"}}):
        assert digest(plan, configuration) != without[0]
        assert digest(other, unconcerned) == without[1]
