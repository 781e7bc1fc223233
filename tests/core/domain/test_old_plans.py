"""Plans of nnU-Net 2.0 to 2.2."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from core.domain.old_plans import OLD_KEYS
from core.domain.plan import Plan, form_mistakes
from core.errors import PlanError
from tests.planned import LIVER, plan


def aged(values: Mapping[str, Any]) -> dict[str, Any]:
    """Write a plan as nnU-Net 2.0 would have."""
    old = {key: entry for key, entry in values.items() if key != "label_manager"}
    intensities = old.pop("foreground_intensity_properties_per_channel")
    configurations = {name: _aged(entries) for name, entries in values["configurations"].items()}
    return old | {
        "configurations": configurations,
        "foreground_intensity_properties_by_modality": intensities,
    }


def _aged(entries: Mapping[str, Any]) -> dict[str, Any]:
    if "architecture" not in entries:
        return dict(entries)
    arguments = entries["architecture"]["arch_kwargs"]
    is_plain = arguments.get("n_conv_per_stage") is not None
    return {key: entry for key, entry in entries.items() if key != "architecture"} | {
        "UNet_class_name": "PlainConvUNet" if is_plain else "ResidualEncoderUNet",
        "UNet_base_num_features": 32,
        "n_conv_per_stage_encoder": arguments["n_conv_per_stage" if is_plain else "n_blocks_per_stage"],
        "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [5] * len(entries["patch_size"]),
        "pool_op_kernel_sizes": arguments["strides"],
        "conv_kernel_sizes": arguments["kernel_sizes"],
        "unet_max_num_features": max(arguments["features_per_stage"]),
    }


@pytest.mark.parametrize("preset", ["default", "resenc_m"])
def test_an_old_plan_means_what_the_new_one_does(preset: str) -> None:
    new = plan(LIVER, preset=preset)

    old = Plan.parse(json.dumps(aged(new.to_json())))

    assert list(old.configurations) == ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    for name in new.configurations:
        assert old.configuration(name) == new.configuration(name)
    assert old.foreground_intensity_properties_per_channel == new.foreground_intensity_properties_per_channel


@pytest.mark.parametrize("key", OLD_KEYS)
def test_a_missing_old_key_is_named(key: str) -> None:
    values = aged(plan(LIVER).to_json())
    del values["configurations"]["2d"][key]

    with pytest.raises(PlanError, match=rf"configurations\.2d.*{key}"):
        Plan.parse(json.dumps(values))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("UNet_class_name", "SwinUNETR", "'SwinUNETR'; choose one of: PlainConvUNet"),
        ("UNet_base_num_features", "many", "UNet_base_num_features"),
        ("n_conv_per_stage_encoder", 2, "n_conv_per_stage_encoder as lists"),
        ("conv_kernel_sizes", [[3, 3]], "kernel_sizes"),
    ],
)
def test_nonsense_in_an_old_plan_is_named(key: str, value: object, sentence: str) -> None:
    from core.planning.check import checked_plan

    values = aged(plan(LIVER).to_json())
    values["configurations"]["2d"][key] = value

    with pytest.raises(PlanError, match=sentence):
        checked_plan(json.dumps(values))


def test_what_is_missing_of_an_old_network_does_not_hide_other_mistakes() -> None:
    values = aged(plan(LIVER).to_json())
    del values["configurations"]["2d"]["conv_kernel_sizes"]
    values["configurations"]["2d"]["batch_size"] = 0

    places = [mistake.where for mistake in form_mistakes(values)]

    assert places == ["configurations.2d", "configurations.2d.batch_size"]


def test_nonsense_in_an_old_entry_of_an_heir_is_its_mistake() -> None:
    values = aged(plan(LIVER).to_json())
    values["configurations"]["heir"] = {"inherits_from": "2d", "conv_kernel_sizes": "wide"}

    (mistake,) = form_mistakes(values)

    assert mistake.where == "configurations.heir.architecture.arch_kwargs.kernel_sizes"
