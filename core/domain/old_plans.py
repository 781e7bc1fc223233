"""Plans as nnU-Net 2.0 to 2.2 wrote them: what is named otherwise there, and what it is called since."""

from collections.abc import Mapping
from typing import Any, Final

from core.errors import PlanError

OLD_KEYS: Final = (
    "UNet_class_name",
    "UNet_base_num_features",
    "n_conv_per_stage_encoder",
    "n_conv_per_stage_decoder",
    "num_pool_per_axis",
    "pool_op_kernel_sizes",
    "conv_kernel_sizes",
    "unet_max_num_features",
)
"""Entries of a configuration that stand in place of `architecture`; Engine specification A 1.8."""

BLOCKS_KEY: Final = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
"""Networks of that time, and what the number of their blocks per encoder stage is called now."""

UNETS: Final = "dynamic_network_architectures.architectures.unet"
"""Module path under which other tools look the networks up; ours are looked up by the last part."""

OPERATORS: Final = ("conv_op", "norm_op", "dropout_op", "nonlin")
"""Arguments that name an operator."""


def fixed_arguments(dimensions: int) -> dict[str, Any]:
    """Return the arguments that every network of the method has, for 2 or 3 dimensions.

    Source:
        Engine specification A 1.7.
    """
    return {
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def is_old(configuration: Mapping[str, Any]) -> bool:
    """Whether a configuration describes its network by the keys of old plans."""
    return "architecture" not in configuration and any(
        key in configuration for key in OLD_KEYS if key != "n_conv_per_stage_decoder"
    )


def with_architecture(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the network of an old configuration as plans do now; a new one is returned as it is.

    Args:
        configuration: With what it inherits filled in.

    Raises:
        PlanError: An old key is missing, or makes no network; all are named.

    Source:
        Engine specification A 1.8.
    """
    if not is_old(configuration):
        return dict(configuration)
    missing = [key for key in OLD_KEYS if key not in configuration]
    if missing:
        raise PlanError(
            f"plans of nnU-Net 2.0 to 2.2 also need {', '.join(missing)}; add them, or plan again",
            missing=list(missing),
        )
    modern = {key: value for key, value in configuration.items() if key not in OLD_KEYS}
    return modern | {"architecture": _architecture(configuration)}


def _architecture(old: Mapping[str, Any]) -> dict[str, Any]:
    """Put the entries of an old configuration together."""
    name = str(old["UNet_class_name"]).rpartition(".")[2]
    if name not in BLOCKS_KEY:
        raise PlanError(f"UNet_class_name is {name!r}; choose one of: {', '.join(sorted(BLOCKS_KEY))}")
    try:
        depth = tuple(old["n_conv_per_stage_encoder"])
        base, most = int(old["UNet_base_num_features"]), int(old["unet_max_num_features"])
        dimensions = len(old["patch_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(
            "the network of an old plan needs patch_size and n_conv_per_stage_encoder as lists, and "
            "UNet_base_num_features and unet_max_num_features as numbers"
        ) from error
    arguments = {
        "n_stages": len(depth),
        "features_per_stage": [min(base * 2**stage, most) for stage in range(len(depth))],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": old["conv_kernel_sizes"],
        "strides": old["pool_op_kernel_sizes"],
        BLOCKS_KEY[name]: depth,
        "n_conv_per_stage_decoder": old["n_conv_per_stage_decoder"],
        **fixed_arguments(dimensions),
    }
    return {
        "network_class_name": f"{UNETS}.{name}",
        "arch_kwargs": arguments,
        "_kw_requires_import": list(OPERATORS),
    }
