"""Plans that a person edited."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.domain import names
from core.domain.plan import PlanMistake, form_mistakes
from core.errors import PlanError
from core.extensions import Group
from core.planning.check import checked_plan, plan_mistakes
from core.planning.presets import PRESETS
from tests.core.packages import installed
from tests.planned import ACDC, AERIAL, BRATS, HIPPOCAMPUS, INTENSITIES, LIVER, plan

Values = dict[str, Any]


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("dataset", [HIPPOCAMPUS, ACDC, LIVER, BRATS, AERIAL])
def test_what_the_planner_writes_has_no_mistake(dataset: Any, preset: str) -> None:
    made = plan(dataset, preset=preset)

    assert checked_plan(json.dumps(made.to_json()), dataset[1]) == made


def full(values: Values) -> Values:
    entries: Values = values["configurations"]["3d_fullres"]
    return entries


def arguments(values: Values) -> Values:
    entries: Values = full(values)["architecture"]["arch_kwargs"]
    return entries


EDITS: list[tuple[Callable[[Values], Any], str, str]] = [
    (lambda v: v.update(transpose_forward=[0, 0, 1]), "transpose_forward", "no order of the axes"),
    (lambda v: v.update(transpose_backward=[2, 1, 0]), "transpose_backward", r"write \[0, 1, 2\]"),
    (lambda v: v.update(image_reader_writer="DicomIO"), "image_reader_writer", "no reader named 'DicomIO'"),
    (lambda v: v.update(configurations={}), "configurations", "plan again"),
    (lambda v: full(v).update(patch_size=[40, 56]), "spacing", "has 3 entries, but patch_size has 2"),
    (lambda v: full(v).update(patch_size=[40, 56, 41]), "patch_size.2", "multiple of 8.*write 40 or 48"),
    (lambda v: full(v).update(patch_size=[40, 56, 4]), "patch_size.2", "write 8"),
    (lambda v: full(v).update(patch_size=[8, 8, 8]), "patch_size", "single voxel"),
    (lambda v: full(v).update(patch_size=[40.5, 56, 40]), "patch_size.0", "integer"),
    (lambda v: full(v).update(spacing=[1, 1e300, 1]), "spacing.1", "less than or equal to 1000000"),
    (lambda v: full(v).update(spacing="1,1,1"), "spacing", "a list"),
    (lambda v: full(v).update(architecture=[]), "architecture", "an object, names and values in braces"),
    (lambda v: v["configurations"].update({"2d": None}), "configurations.2d", "an object"),
    (lambda v: full(v).update(median_image_size_in_voxels=[0, 1, 1]), "voxels.0", "greater than"),
    (
        lambda v: v.update(original_median_spacing_after_transp=[0, 1, 1]),
        "original_median_spacing_after_transp.0",
        "greater than",
    ),
    (lambda v: full(v).update(batch_size=10**400), "batch_size", "less than or equal to"),
    (lambda v: full(v).update(batch_size=10**9), "batch_size", "less than or equal to 100000"),
    (lambda v: full(v).update(batch_size="2"), "batch_size", "integer"),
    (lambda v: full(v).update(batch_size=-2), "batch_size", "greater than or equal to 1"),
    (lambda v: full(v).update(spacing=[1, 0, 1]), "spacing.1", "greater than or equal to 0.000000001"),
    (lambda v: full(v).update(spacing=[1, float("nan"), 1]), "spacing.1", "finite number|greater than"),
    (
        lambda v: full(v).update(normalization_schemes=["Z"]),
        "normalization_schemes",
        "no normalization scheme",
    ),
    (
        lambda v: full(v).update(normalization_schemes=["CTNormalization"]),
        "normalization_schemes",
        "fingerprint",
    ),
    (lambda v: full(v).update(use_mask_for_norm=[]), "use_mask_for_norm", "one per channel"),
    (lambda v: full(v).update(use_mask_for_norm=["no"]), "use_mask_for_norm.0", "boolean"),
    (lambda v: full(v).update(resampling_fn_seg="zoom"), "resampling_fn_seg", "no resampling function named"),
    (
        lambda v: full(v).update(resampling_fn_data_kwargs={"order": 9}),
        "resampling_fn_data_kwargs.order",
        "less than or equal to 5",
    ),
    (lambda v: full(v).update(preprocessor_name="Mine"), "preprocessor_name", "DefaultPreprocessor"),
    (lambda v: full(v).update(previous_stage="3d_lowres"), "previous_stage", "no other configuration"),
    (lambda v: full(v).update(next_stage=["2d", "3d_fullres"]), "next_stage", "'3d_fullres'"),
    (lambda v: full(v).pop("architecture"), "architecture", "required"),
    (
        lambda v: full(v)["architecture"].update(network_class_name="x.SwinUNETR"),
        "architecture.network_class_name",
        "choose one of: PlainConvUNet, ResidualEncoderUNet",
    ),
    (lambda v: arguments(v).update(n_stages=5), "architecture.arch_kwargs.strides", "5 stages need 5"),
    (lambda v: arguments(v).update(n_stages=1), "architecture.arch_kwargs.n_stages", "at least 2"),
    (
        lambda v: arguments(v).pop("n_conv_per_stage"),
        "architecture.arch_kwargs.n_conv_per_stage",
        "0 entries",
    ),
    (lambda v: arguments(v).update(conv_op="a.Conv2d"), "architecture.arch_kwargs.conv_op", "write Conv3d"),
    (lambda v: arguments(v).update(norm_op="GroupNorm"), "architecture.arch_kwargs.norm_op", "no operator"),
    (lambda v: arguments(v).update(nonlin=None), "architecture.arch_kwargs.nonlin", "no activation"),
    (lambda v: arguments(v).update(dropout_op="x.Dropout3d"), "architecture.arch_kwargs.dropout_op", "null"),
    (
        lambda v: arguments(v)["norm_op_kwargs"].update(affine=False),
        "architecture.arch_kwargs.norm_op_kwargs.affine",
        "true",
    ),
    (lambda v: arguments(v)["norm_op_kwargs"].update(eps="x"), "norm_op_kwargs.eps", "is 'x'"),
    (lambda v: arguments(v)["nonlin_kwargs"].update(negative_slope=None), "negative_slope", "is None"),
    (lambda v: arguments(v)["features_per_stage"].__setitem__(1, 60_000), "stage.1", "weights each"),
    (lambda v: arguments(v)["features_per_stage"].__setitem__(1, 2**63), "stage.1", "less than or equal"),
    (lambda v: arguments(v)["n_conv_per_stage"].__setitem__(1, 2**63), "stage.1", "less than or equal"),
    (lambda v: full(v).update(patch_size=[80_000, 80_000, 8]), "patch_size", "5.12e.10 voxels"),
    (
        lambda v: full(v).update(resampling_fn_data="no_resampling_hack"),
        "resampling_fn_seg",
        "different grids",
    ),
    (
        lambda v: full(v).update(resampling_fn_data_kwargs={"ordre": 3}),
        "resampling_fn_data_kwargs.ordre",
        "not permitted",
    ),
    (
        lambda v: (
            full(v).update(normalization_schemes=["CTNormalization"]),
            v["foreground_intensity_properties_per_channel"].update(
                {"0": INTENSITIES.to_json() | {"mean": float("nan")}}
            ),
        ),
        "normalization_schemes",
        "finite numbers",
    ),
    (lambda v: arguments(v)["kernel_sizes"].__setitem__(1, [2, 3, 3]), "kernel_sizes.1", "odd"),
    (lambda v: arguments(v)["kernel_sizes"].__setitem__(1, [3, 3]), "kernel_sizes.1", "has 2 entries"),
    (lambda v: arguments(v)["strides"].__setitem__(0, [2, 1, 1]), "strides.0", "first stage"),
    (
        lambda v: arguments(v)["strides"].__setitem__(1, [0, 1, 1]),
        "strides.1.0",
        "greater than or equal to 1",
    ),
]


@pytest.mark.parametrize(("edit", "where", "sentence"), EDITS)
def test_each_mistake_is_named_with_its_place(
    edit: Callable[[Values], Any], where: str, sentence: str
) -> None:
    values = plan(HIPPOCAMPUS).to_json()
    values["foreground_intensity_properties_per_channel"] = {}
    edit(values)

    mistakes = plan_mistakes(values)

    found = [mistake for mistake in mistakes if mistake.where.endswith(where)]
    assert any(re.search(sentence, mistake.message) for mistake in found), mistakes


def test_a_slip_of_the_pen_is_told_from_an_entry_of_another_tool() -> None:
    values = plan(HIPPOCAMPUS).to_json()
    full(values)["batchsize"] = full(values).pop("batch_size")
    full(values)["my_note"] = "larger patch"

    assert plan_mistakes(values) == [
        PlanMistake("configurations.3d_fullres.batchsize", "there is no such entry; did you mean batch_size?")
    ]


@pytest.mark.parametrize("name", ["../evil", "", "a/b", "3d__fullres", ".hidden", "a" * 101, "ä", "2d\n"])
def test_a_configuration_is_named_as_folders_can_be(name: str) -> None:
    values = plan(HIPPOCAMPUS).to_json()
    values["configurations"][name] = {"inherits_from": "3d_fullres"}

    (mistake,) = plan_mistakes(values)

    assert mistake.where == f"configurations.{name}"
    assert f"cannot be named {name!r}" in mistake.message


@pytest.mark.parametrize("name", ["3d_fullres_bs4", "2d.small", "3D-large", "7"])
def test_a_configuration_may_have_a_name_of_its_own(name: str) -> None:
    values = plan(HIPPOCAMPUS).to_json()
    values["configurations"][name] = {"inherits_from": "3d_fullres", "data_identifier": f"My__Plans_{name}"}

    assert plan_mistakes(values) == []


@pytest.mark.parametrize("identifier", ["../../x", "/x", "", "a" * 202])
def test_preprocessed_cases_lie_in_a_plain_folder(identifier: str) -> None:
    values = plan(HIPPOCAMPUS).to_json()
    full(values)["data_identifier"] = identifier

    (mistake,) = plan_mistakes(values)

    assert mistake.where == "configurations.3d_fullres.data_identifier"
    assert "cannot be the name of a folder" in mistake.message


def test_a_slip_beside_what_was_meant_is_named_too() -> None:
    values = plan(HIPPOCAMPUS).to_json()
    full(values)["pach_size"] = [8, 8, 8]
    values["transpose_foward"] = [0, 1, 2]

    assert plan_mistakes(values) == [
        PlanMistake("transpose_foward", "there is no such entry; did you mean transpose_forward?"),
        PlanMistake(
            "configurations.3d_fullres.pach_size", "there is no such entry; did you mean patch_size?"
        ),
    ]


def test_arguments_that_our_networks_do_not_take_are_named() -> None:
    values = plan(HIPPOCAMPUS).to_json()
    arguments(values)["stem_channels"] = 16

    (mistake,) = plan_mistakes(values)

    assert mistake.where == "configurations.3d_fullres.architecture.arch_kwargs.stem_channels"
    assert "PlainConvUNet takes no such argument" in mistake.message


def test_the_first_name_of_the_intensities_is_no_slip_of_the_pen() -> None:
    made = plan(LIVER)
    values = made.to_json()
    values["foreground_intensity_properties_by_modality"] = values.pop(
        "foreground_intensity_properties_per_channel"
    )

    assert checked_plan(json.dumps(values), LIVER[1]) == made


def test_mistakes_in_all_places_are_named_at_once() -> None:
    values = plan(LIVER).to_json()
    values["image_reader_writer"] = "DicomIO"
    values["configurations"]["2d"]["patch_size"] = [500, 512]
    values["configurations"]["3d_lowres"]["architecture"]["arch_kwargs"]["conv_op"] = "Conv4d"
    full(values)["spacing"] = [1, -1, 1]

    with pytest.raises(PlanError) as caught:
        checked_plan(json.dumps(values), BRATS[1])

    for mistake in ("DicomIO", "multiple of 128", "Conv4d", "4 channels (T1, T1ce, T2, FLAIR)"):
        assert mistake in caught.value.message


def test_mistakes_of_form_do_not_hide_contradictions_beside_them() -> None:
    values = plan(HIPPOCAMPUS).to_json()
    full(values).update(
        batch_size=0, patch_size=[41, 55, 40], normalization_schemes=["Foo"], resampling_fn_data="magic"
    )
    values["configurations"]["2d"]["spacing"] = [1, -1]
    values["transpose_forward"] = [0, 0, 1]

    assert {mistake.where for mistake in plan_mistakes(values)} == {
        "transpose_forward",
        "configurations.2d.spacing.1",
        "configurations.3d_fullres.batch_size",
        "configurations.3d_fullres.patch_size.0",
        "configurations.3d_fullres.patch_size.1",
        "configurations.3d_fullres.normalization_schemes",
        "configurations.3d_fullres.resampling_fn_data",
    }


def test_a_configuration_is_checked_beside_one_whose_name_begins_alike() -> None:
    values = plan(HIPPOCAMPUS).to_json()
    values["configurations"]["3d_fullres_bs4"] = {"inherits_from": "3d_fullres", "batch_size": "4"}
    full(values)["resampling_fn_seg"] = "magic"

    assert [mistake.where for mistake in plan_mistakes(values)] == [
        "configurations.3d_fullres_bs4.batch_size",
        "configurations.3d_fullres.resampling_fn_seg",
    ]


def test_both_orders_of_the_axes_are_looked_at() -> None:
    values = plan(HIPPOCAMPUS).to_json() | {"transpose_forward": [0, 0, 1], "transpose_backward": [1, 1, 1]}
    damaged = values | {"transpose_backward": "none"}

    for edited in (values, damaged):
        places = {mistake.where for mistake in plan_mistakes(edited)}
        assert places == {"transpose_forward", "transpose_backward"}


def test_what_is_wrong_with_a_network_does_not_hide_the_rest_of_it() -> None:
    values = plan(HIPPOCAMPUS).to_json()
    full(values)["patch_size"] = [41, 56, 40]
    arguments(values).update(features_per_stage="many", conv_op="Conv4d", n_conv_per_stage=[2])

    assert {
        mistake.where.removeprefix("configurations.3d_fullres.") for mistake in plan_mistakes(values)
    } == {
        "patch_size.0",
        "architecture.arch_kwargs.features_per_stage",
        "architecture.arch_kwargs.conv_op",
        "architecture.arch_kwargs.n_conv_per_stage",
    }


def test_an_entry_of_the_wrong_form_under_its_other_name_is_named() -> None:
    values = plan(HIPPOCAMPUS).to_json()
    del full(values)["architecture"]["_kw_requires_import"]
    full(values)["architecture"]["kw_requires_import"] = [5]

    (mistake,) = plan_mistakes(values)

    assert mistake.where.startswith("configurations.3d_fullres.architecture.")


def places_in(values: Any, place: str = "") -> Iterator[tuple[Values, str, str]]:
    """Every entry of an object and of the objects in it: the object, the key and the dotted path."""
    for key, entry in values.items():
        yield values, key, f"{place}.{key}".lstrip(".")
        if isinstance(entry, dict):
            yield from places_in(entry, f"{place}.{key}")


ENTRIES = [place for _, _, place in places_in(full(plan(HIPPOCAMPUS).to_json()))]


@pytest.mark.parametrize("place", ENTRIES)
@pytest.mark.parametrize("value", [object, None, -1, "odd", [], [[-1]], {}, {"strides": "x"}, True])
def test_whatever_an_entry_is_only_mistakes_of_it_are_named(place: str, value: Any) -> None:
    """Nothing that depends on a malformed entry is reported; `object` stands for an entry that is missing."""
    values = plan(HIPPOCAMPUS).to_json()
    owner, key = next((owner, key) for owner, key, path in places_in(full(values)) if path == place)
    owner[key] = value
    if value is object:
        del owner[key]
    before = {mistake.where for mistake in form_mistakes(values)}

    found = {mistake.where for mistake in plan_mistakes(values)}

    assert before <= found
    if before:
        assert all(where.startswith(f"configurations.3d_fullres.{place}") for where in found)


def test_another_number_of_channels_is_named() -> None:
    made = plan(HIPPOCAMPUS)

    with pytest.raises(PlanError, match=r"has 1 entries, but the dataset has 4 channels \(T1, T1ce"):
        checked_plan(json.dumps(made.to_json()), BRATS[1])


def test_a_cascade_may_inherit_from_its_first_stage() -> None:
    values = plan(HIPPOCAMPUS).to_json()
    full(values)["next_stage"] = "second"
    values["configurations"]["second"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_fullres"}

    assert plan_mistakes(values) == []


def test_a_reader_that_cannot_read_the_dataset_is_named() -> None:
    values = plan(HIPPOCAMPUS).to_json() | {"image_reader_writer": "NaturalImage2DIO"}

    (mistake,) = plan_mistakes(values, HIPPOCAMPUS[1])

    assert mistake.where == "image_reader_writer"
    assert "does not read .nii.gz files" in mistake.message
    assert "SimpleITKIO" in mistake.message


def test_names_that_packages_add_are_good_and_not_loaded(tmp_path: Path) -> None:
    values = plan(HIPPOCAMPUS).to_json() | {"image_reader_writer": "Added"}
    full(values).update(normalization_schemes=["Added"])
    for key in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
        full(values).update({key: "Added", f"{key}_kwargs": {"anything": 1}})
    full(values)["architecture"] = {"network_class_name": "some.where.Added", "arch_kwargs": {"width": 8}}
    groups = (Group.READER, Group.NORMALIZATION, Group.RESAMPLING, Group.ARCHITECTURE)

    with installed(
        tmp_path,
        "made_for_plans",
        "raise SystemExit",
        {key: {"Added": "made_for_plans:it"} for key in groups},
    ):
        assert plan_mistakes(values, HIPPOCAMPUS[1]) == []
    assert len(plan_mistakes(values, HIPPOCAMPUS[1])) == 6


def test_a_plan_of_endless_heirs_is_refused_at_once() -> None:
    values = plan(HIPPOCAMPUS).to_json()
    heirs = {f"heir{number}": {"inherits_from": f"heir{number - 1}"} for number in range(1, 5000)}
    values["configurations"] |= {"heir0": {"inherits_from": "3d_fullres"}} | heirs

    (mistake,) = plan_mistakes(values)

    assert "at most 200" in mistake.message


def test_the_names_are_those_of_the_registries() -> None:
    from core.io.readers import READERS
    from core.network.blocks import ACTIVATIONS, CONVOLUTIONS, NORMS
    from core.network.unet import ARCHITECTURES
    from core.preprocessing.normalize import NORMALIZATIONS
    from core.preprocessing.resample import RESAMPLINGS
    from core.training.augmentations import AUGMENTATIONS
    from core.training.loss import LOSSES

    assert {name: set(READERS.get(name).formats) for name in READERS} == {
        name: set(formats) for name, formats in names.READER_FORMATS.items()
    }
    assert set(NORMALIZATIONS) == names.NORMALIZATION_NAMES
    assert set(RESAMPLINGS) == names.RESAMPLING_NAMES
    assert set(ARCHITECTURES) == names.NETWORK_NAMES
    assert set(LOSSES) == names.loss_names()
    assert set(AUGMENTATIONS) == names.augmentation_names()
    assert {name: CONVOLUTIONS.get(name) for name in CONVOLUTIONS} == names.CONVOLUTION_NAMES
    assert set(NORMS) == set(names.NORM_NAMES)
    assert set(ACTIVATIONS) == names.ACTIVATION_NAMES
