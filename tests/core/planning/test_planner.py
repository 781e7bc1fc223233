"""Whole plans: published examples, properties, options and errors."""

from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from core.domain.geometry import Shape, Spacing
from core.domain.plan import Plan
from core.errors import PlanningError, UnknownNameError
from core.planning.memory import REFERENCE_BATCH, feature_maps
from core.planning.planner import PlannerSettings
from core.planning.presets import PRESETS
from tests.planned import ACDC, AERIAL, BRATS, HIPPOCAMPUS, LIVER, describe, measure, plan

PRESET_NAMES = ("default", "resenc", "resenc_m", "resenc_l", "resenc_xl")


def batches_and_patches(made: Plan) -> dict[str, tuple[int, tuple[int, ...]]]:
    chosen = {name: made.configuration(name) for name in made.configurations}
    return {name: (entry.batch_size, entry.patch_size) for name, entry in chosen.items()}


@pytest.mark.parametrize(
    ("preset", "batch_3d", "batch_2d"),
    [
        ("default", 9, 366),
        ("resenc", 9, 366),
        ("resenc_m", 58, 1618),
        ("resenc_l", 178, 4554),
        ("resenc_xl", 183, 6711),
    ],
)
def test_hippocampus(preset: str, batch_3d: int, batch_2d: int) -> None:
    assert batches_and_patches(plan(HIPPOCAMPUS, preset=preset)) == {
        "2d": (batch_2d, (56, 40)),
        "3d_fullres": (batch_3d, (40, 56, 40)),
    }


def test_hippocampus_reads_as_published() -> None:
    written = plan(HIPPOCAMPUS, dataset_name="Dataset004_Hippocampus").to_json()

    assert list(written) == [
        "dataset_name",
        "plans_name",
        "original_median_spacing_after_transp",
        "original_median_shape_after_transp",
        "image_reader_writer",
        "transpose_forward",
        "transpose_backward",
        "configurations",
        "experiment_planner_used",
        "label_manager",
        "foreground_intensity_properties_per_channel",
    ]
    assert written["original_median_shape_after_transp"] == [36, 50, 35]
    assert written["configurations"]["3d_fullres"] == {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 9,
        "patch_size": [40, 56, 40],
        "median_image_size_in_voxels": [36.0, 50.0, 35.0],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {
            "is_seg": False,
            "order": 1,
            "order_z": 0,
            "force_separate_z": None,
        },
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 4,
                "features_per_stage": [32, 64, 128, 256],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * 4,
                "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
                "n_conv_per_stage": [2, 2, 2, 2],
                "n_conv_per_stage_decoder": [2, 2, 2],
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }


@pytest.mark.parametrize(
    ("preset", "batch_3d", "batch_2d"),
    [
        ("default", 4, 57),
        ("resenc", 3, 57),
        ("resenc_m", 3, 57),
        ("resenc_l", 10, 162),
        ("resenc_xl", 17, 238),
    ],
)
def test_thick_slices_of_the_heart(preset: str, batch_3d: int, batch_2d: int) -> None:
    made = plan(ACDC, preset=preset)

    assert batches_and_patches(made) == {
        "2d": (batch_2d, (256, 224)),
        "3d_fullres": (batch_3d, (20, 256, 224)),
    }
    assert made.original_median_spacing_after_transp == (10.0, 1.5625, 1.5625)
    assert made.original_median_shape_after_transp == (10, 234, 204)
    assert made.configuration("3d_fullres").median_image_size_in_voxels == (18.0, 233.5, 204.0)


@pytest.mark.parametrize(
    ("preset", "batch_2d", "patch", "spacing", "median"),
    [
        ("default", 12, (128, 128, 128), (2.427262, 1.862924, 1.862924), (178, 211, 211)),
        ("resenc", 12, (128, 128, 128), (2.427262, 1.862924, 1.862924), (178, 211, 211)),
        ("resenc_m", 12, (128, 128, 128), (2.427262, 1.862924, 1.862924), (178, 211, 211)),
        ("resenc_l", 35, (160, 224, 192), (1.604706, 1.231612, 1.231612), (269, 319, 319)),
        ("resenc_xl", 52, (192, 256, 256), (1.343916, 1.031456, 1.031456), (321, 381, 381)),
    ],
)
def test_large_ct_gets_a_cascade(
    preset: str, batch_2d: int, patch: Shape, spacing: Spacing, median: Shape
) -> None:
    made = plan(LIVER, preset=preset)
    low = made.configuration("3d_lowres")

    assert list(made.configurations) == ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    assert batches_and_patches(made)["2d"] == (batch_2d, (512, 512))
    assert batches_and_patches(made)["3d_fullres"] == (2, patch)
    assert (low.batch_size, low.patch_size) == (2, patch)
    assert low.spacing == pytest.approx(spacing, abs=1e-6)
    assert low.median_image_size_in_voxels == median


def test_a_cascade_is_linked_in_both_directions() -> None:
    made = plan(LIVER)

    assert made.configuration("3d_lowres").next_stage == "3d_cascade_fullres"
    assert made.configurations["3d_cascade_fullres"] == {
        "inherits_from": "3d_fullres",
        "previous_stage": "3d_lowres",
    }
    assert [made.configuration(name).batch_dice for name in made.configurations] == [True, False, True, True]


def test_an_extra_large_preset_pools_the_last_stage_in_plane() -> None:
    network = plan(LIVER, preset="resenc_xl").configuration("3d_fullres").architecture.unet

    assert network.n_stages == 7
    assert network.strides[-1] == (1, 2, 2)
    assert network.n_blocks_per_stage == (1, 3, 4, 6, 6, 6, 6)


@pytest.mark.parametrize(
    ("preset", "batch_2d", "batch_3d", "patch"),
    [
        ("default", 105, 2, (128, 128, 128)),
        ("resenc", 107, 2, (128, 128, 128)),
        ("resenc_m", 107, 2, (128, 128, 128)),
        ("resenc_l", 301, 3, (160, 192, 160)),
        ("resenc_xl", 444, 5, (160, 192, 160)),
    ],
)
def test_skull_stripped_brains(preset: str, batch_2d: int, batch_3d: int, patch: Shape) -> None:
    made = plan(BRATS, preset=preset)

    assert batches_and_patches(made) == {"2d": (batch_2d, (192, 160)), "3d_fullres": (batch_3d, patch)}
    assert made.configuration("2d").use_mask_for_norm == (True,) * 4


@pytest.mark.parametrize(
    ("preset", "batch", "patch", "stages"),
    [
        ("default", 2, (1280, 1024), 9),
        ("resenc", 13, (512, 512), 8),
        ("resenc_m", 13, (512, 512), 8),
        ("resenc_l", 13, (896, 768), 8),
        ("resenc_xl", 13, (1024, 1024), 9),
    ],
)
def test_flat_images_are_planned_in_2d_only(
    preset: str, batch: int, patch: tuple[int, int], stages: int
) -> None:
    made = plan(AERIAL, preset=preset)

    assert batches_and_patches(made) == {"2d": (batch, patch)}
    assert made.configuration("2d").architecture.unet.n_stages == stages


def test_residual_presets_share_the_cases_of_the_default_plans() -> None:
    made = plan(LIVER, preset="resenc_m", plans_name="mine")

    identifiers = {name: made.configuration(name).data_identifier for name in made.configurations}
    assert made.plans_name == "mine"
    assert identifiers == {
        "2d": "nnUNetPlans_2d",
        "3d_lowres": "mine_3d_lowres",
        "3d_fullres": "nnUNetPlans_3d_fullres",
        "3d_cascade_fullres": "nnUNetPlans_3d_fullres",
    }


def test_other_resampling_keeps_its_own_cases() -> None:
    made = plan(HIPPOCAMPUS, preset="no_resampling").configuration("3d_fullres")

    assert made.data_identifier == "nnUNetResEncUNetLPlans_noResampling_3d_fullres"
    assert made.resampling_fn_data == "no_resampling_hack"
    assert made.resampling_fn_data_kwargs == {}


def test_an_overridden_spacing_decides_axes_and_shape() -> None:
    made = plan(HIPPOCAMPUS, target_spacing=(1.0, 2.0, 0.5))

    assert made.transpose_forward == (1, 0, 2)
    assert made.transpose_backward == (1, 0, 2)
    assert made.configuration("3d_fullres").spacing == (2.0, 1.0, 0.5)
    assert made.configuration("3d_fullres").median_image_size_in_voxels == (25.0, 36.0, 70.0)
    assert made.configuration("2d").spacing == (1.0, 0.5)


def test_suppressed_transposition_keeps_the_axes_of_the_files() -> None:
    made = plan(HIPPOCAMPUS, target_spacing=(1.0, 2.0, 0.5), suppress_transpose=True)

    assert made.transpose_forward == (0, 1, 2)
    assert made.configuration("3d_fullres").spacing == (1.0, 2.0, 0.5)


@given(
    st.lists(st.tuples(*[st.floats(0.3, 8.0)] * 3), min_size=1, max_size=4),
    st.tuples(*[st.integers(1, 300)] * 3),
    st.sampled_from(PRESET_NAMES),
    st.floats(2.0, 48.0),
)
@settings(max_examples=40, deadline=None)
def test_every_plan_fits_its_budget_and_divides_its_patch(
    spacings: list[Spacing], shape: Shape, preset: str, memory_gb: float
) -> None:
    dataset = (measure(spacings, [shape] * len(spacings)), describe(len(spacings)))
    chosen = PRESETS.get(preset)

    made = plan(dataset, preset=preset, gpu_memory_gb=memory_gb)

    for name in made.configurations:
        entry = made.configuration(name)
        network = entry.architecture.unet
        reference = chosen.reference_2d if entry.is_2d else chosen.reference_3d
        slack = REFERENCE_BATCH[2] / 2 if entry.is_2d and chosen.patch_outranks_batch else 1
        cost = feature_maps(entry.patch_size, network, classes=3)
        assert cost <= slack * reference * memory_gb / chosen.reference_gb * (1 + 1e-9)
        assert all(
            edge % prod(stride[axis] for stride in network.strides) == 0
            for axis, edge in enumerate(entry.patch_size)
        )
        assert entry.batch_size >= 2


def test_a_plan_survives_its_file() -> None:
    made = plan(LIVER, preset="resenc_l")

    assert Plan.model_validate(made.to_json()).to_json() == made.to_json()


def test_planning_with_hardly_any_memory_says_so() -> None:
    with pytest.raises(PlanningError, match="raise gpu_memory_gb"):
        plan(HIPPOCAMPUS, gpu_memory_gb=1e-7)


def test_a_fingerprint_of_another_dataset_is_refused() -> None:
    with pytest.raises(PlanningError, match=r"1 channels, dataset\.json 4"):
        plan((HIPPOCAMPUS[0], BRATS[1]))


def test_a_case_without_a_spacing_is_named() -> None:
    fingerprint = measure([(1.0, 1.0, 1.0), (0.0, 1.0, 1.0)], [(10, 20, 20)] * 2)

    with pytest.raises(PlanningError, match="case number 1"):
        plan((fingerprint, describe(2)))


def test_spacings_and_shapes_must_be_of_the_same_cases() -> None:
    fingerprint = measure([(1.0, 1.0, 1.0)], [(10, 20, 20)] * 2)

    with pytest.raises(PlanningError, match="1 spacings but 2 shapes"):
        plan((fingerprint, describe(2)))


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="resenc_xl"):
        plan(HIPPOCAMPUS, preset="huge")


@pytest.mark.parametrize(
    "choices", [{"gpu_memory_gb": 0}, {"target_spacing": (1.0, 0.0, 1.0)}, {"plans_name": ""}]
)
def test_impossible_settings_are_refused(choices: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PlannerSettings(reader="SimpleITKIO", **choices)


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", ".hidden", "a/b", "a\\b", "Trainer__Plans", "", " ", "a b", "n" * 101, "pläne", "a\n"],
)
def test_a_name_that_makes_no_folder_is_refused(name: str) -> None:
    with pytest.raises((PlanningError, ValidationError), match=r"cannot be named|at least 1 character"):
        plan(HIPPOCAMPUS, plans_name=name)


@pytest.mark.parametrize("name", ["x", "nnUNetResEncUNetLPlans_torchres_sepz", "v1.2-b", "9"])
def test_an_ordinary_name_is_taken(name: str) -> None:
    assert plan(HIPPOCAMPUS, plans_name=name).plans_name == name


def test_a_thin_axis_keeps_one_voxel_at_low_resolution() -> None:
    dataset = (measure([(0.4, 0.4, 0.4)], [(2, 3000, 3000)]), describe(1))

    low = plan(dataset).configuration("3d_lowres")

    assert low.median_image_size_in_voxels[0] == 1


@pytest.mark.parametrize(
    "target", [(1e-9, 1.0, 1e4), (1e-300, 1.0, 1.0), (1e4, 1e4, 1e4), (1e6, 1e-6, 1.0), (1e-6, 1e-6, 1e-6)]
)
@pytest.mark.parametrize("dataset", [HIPPOCAMPUS, ACDC, LIVER, BRATS])
def test_a_target_spacing_that_leaves_nothing_is_refused(dataset: Any, target: Spacing) -> None:
    with pytest.raises(PlanningError, match="the median image would have"):
        plan(dataset, target_spacing=target)


def test_a_coarse_target_spacing_is_taken() -> None:
    assert plan(HIPPOCAMPUS, target_spacing=(5.0, 5.0, 5.0)).configuration("2d").patch_size == (10, 7)
