"""The network of a topology: width and depth of its stages, and the operators it is made of."""

from core.domain.old_plans import OPERATORS, UNETS, fixed_arguments
from core.domain.plan import Architecture, ArchitectureArguments
from core.planning.topology import Topology

BASE_FEATURES = 32
"""Feature maps of the first stage; each following one doubles them."""

MOST_FEATURES = {2: 512, 3: 320}
"""Feature maps of a stage at most, by the number of dimensions."""

PLAIN_CONVOLUTIONS = 2
"""Convolutions per stage of the plain network, encoder and decoder."""

RESIDUAL_BLOCKS = (1, 3, 4)
"""Blocks of the first encoder stages of the residual network."""

DEEP_RESIDUAL_BLOCKS = 6
"""Blocks of every further encoder stage."""

RESIDUAL_DECODER_CONVOLUTIONS = 1
"""Convolutions per decoder stage of the residual network."""


def architecture(chosen: Topology, *, is_residual: bool) -> Architecture:
    """Describe the U-Net for a topology.

    Source:
        Engine specification A 1.7 (arguments), A 5.1 (constants).
    """
    dimensions = len(chosen.patch_size)
    stages = len(chosen.strides)
    widths = tuple(min(MOST_FEATURES[dimensions], BASE_FEATURES * 2**stage) for stage in range(stages))
    depth = _residual_depth(stages) if is_residual else _plain_depth(stages)
    arguments = ArchitectureArguments(
        n_stages=stages,
        features_per_stage=widths,
        conv_op=f"torch.nn.modules.conv.Conv{dimensions}d",
        kernel_sizes=chosen.kernel_sizes,
        strides=chosen.strides,
        **fixed_arguments(dimensions),
        **depth,
    )
    name = "ResidualEncoderUNet" if is_residual else "PlainConvUNet"
    return Architecture(
        network_class_name=f"{UNETS}.{name}", arch_kwargs=arguments, kw_requires_import=OPERATORS
    )


def _plain_depth(stages: int) -> dict[str, tuple[int, ...]]:
    """Return the convolutions per stage of the plain network."""
    return {
        "n_conv_per_stage": (PLAIN_CONVOLUTIONS,) * stages,
        "n_conv_per_stage_decoder": (PLAIN_CONVOLUTIONS,) * (stages - 1),
    }


def _residual_depth(stages: int) -> dict[str, tuple[int, ...]]:
    """Return the blocks per encoder stage and convolutions per decoder stage of the residual network."""
    deep = (DEEP_RESIDUAL_BLOCKS,) * max(0, stages - len(RESIDUAL_BLOCKS))
    return {
        "n_blocks_per_stage": (*RESIDUAL_BLOCKS, *deep)[:stages],
        "n_conv_per_stage_decoder": (RESIDUAL_DECODER_CONVOLUTIONS,) * (stages - 1),
    }
