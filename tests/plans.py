"""Small plans made for tests: one configuration, as few entries as a plans.json needs."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.domain.plan import Configuration, Plan

SPLINES = "resample_data_or_seg_to_shape"
UNCHANGED_AXES = (0, 1, 2)


def small_plan(
    spacing: Sequence[float],
    *,
    axes: Sequence[int] = UNCHANGED_AXES,
    schemes: Sequence[str] = ("ZScoreNormalization",),
    masked: bool = False,
    entries: Mapping[str, Any] | None = None,
) -> tuple[Plan, Configuration]:
    """Make a plan of one configuration with the given target spacing (two entries for 2D)."""
    dimensions = len(spacing)
    configuration = {
        "patch_size": [8] * dimensions,
        "spacing": list(spacing),
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": [masked] * len(schemes),
        "resampling_fn_data": SPLINES,
        "resampling_fn_data_kwargs": arguments(order=3),
        "resampling_fn_seg": SPLINES,
        "resampling_fn_seg_kwargs": arguments(order=1) | {"is_seg": True},
        "resampling_fn_probabilities": SPLINES,
        "resampling_fn_probabilities_kwargs": arguments(order=1),
        "architecture": {
            "network_class_name": "PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 1,
                "features_per_stage": [8],
                "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
                "kernel_sizes": [[3] * dimensions],
                "strides": [[1] * dimensions],
                "n_conv_per_stage_decoder": [],
            },
        },
    }
    plan = Plan.model_validate(
        {
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": list(axes),
            "transpose_backward": [list(axes).index(axis) for axis in range(3)],
            "configurations": {"small": configuration | dict(entries or {})},
            "foreground_intensity_properties_per_channel": {},
        }
    )
    return plan, plan.configuration("small")


def arguments(*, order: int, order_z: int = 0, force_separate_z: bool | None = None) -> dict[str, Any]:
    """Return a resampling function's keyword arguments."""
    return {"is_seg": False, "order": order, "order_z": order_z, "force_separate_z": force_separate_z}
