"""The U-Nets of the method, by name: plain and residual encoder, one decoder, He initialization."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from core.domain.names import last_part
from core.domain.plan import Architecture, ArchitectureArguments
from core.errors import PlanError
from core.extensions import Group
from core.network.blocks import (
    DEFAULT_SLOPE,
    ConvStack,
    Layers,
    ResidualBlock,
    ResidualStage,
    Size,
    layers,
)
from core.network.contract import Build, Network, build_added
from core.network.operations import BatchNormActivation, InstanceNormActivation, Upsampling, upsample
from core.registry import Registry

Stage = Callable[[tuple[int, int], int, Size, Size, Layers], nn.Module]
"""Makes an encoder stage of (input and output channels, count, kernel, stride, layers)."""

ARCHITECTURES: Registry[Build] = Registry("network architecture", Group.ARCHITECTURE)
"""Networks by the last part of `network_class_name`."""


def build_network(
    architecture: Architecture, input_channels: int, heads: int, *, seed: int | None = 0
) -> Network:
    """Build a network with freshly drawn weights, the same for the same seed.

    Args:
        architecture: Name and arguments, as in a plan.
        input_channels: Image channels.
        heads: Logits per voxel: regions, or labels with background.
        seed: Of the weights. None leaves the tensors without memory, for weights that are about to be
            loaded with `load_state_dict(…, assign=True)`.

    Raises:
        UnknownNameError: The plan names an architecture or an operator that is not known.
        PlanError: The arguments contradict each other.
        ExtensionError: A package adds the architecture, and it cannot be loaded.
    """
    name = last_part(architecture.network_class_name)
    build = ARCHITECTURES.get(name)
    if name not in ARCHITECTURES.own():
        return build_added(build, architecture, input_channels, heads, seed or 0)
    with torch.device("meta"):
        network = cast("UNet", build(architecture.arch_kwargs.to_json(), input_channels, heads))
    if seed is not None:
        network.to_empty(device="cpu")
        initialize(network, torch.Generator().manual_seed(seed))
    return network


class UNet(Network):
    """Encoder and decoder with skip connections; the weights of all heads exist with deep supervision or without."""

    def __init__(self, encoder: "Encoder", decoder: "Decoder") -> None:
        super().__init__()
        self.deep_supervision = True
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, voxels: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits.

        Args:
            voxels: Batch, input channels, then two or three spatial axes, each divisible by the
                network's total stride.

        Returns:
            Logits (batch, heads, spatial axes), highest resolution first; without deep supervision
            only the first.
        """
        skips = self.encoder(_channels_last(voxels))
        logits: tuple[Tensor, ...] = self.decoder(skips, every_head=self.deep_supervision)
        return logits if self.deep_supervision else logits[0]


def _channels_last(voxels: Tensor) -> Tensor:
    """Put channels innermost on a CPU, whose convolutions are up to five times faster then."""
    if voxels.device.type != "cpu":
        return voxels
    is_2d = voxels.dim() == 4  # noqa: PLR2004 - batch, channel, y, x
    return voxels.to(memory_format=torch.channels_last if is_2d else torch.channels_last_3d)


class Encoder(nn.Module):
    """Stages that each halve (by their stride) what the one before made.

    Source:
        Engine specification A 7.2 and 7.3.
    """

    def __init__(self, stages: Sequence[nn.Module], stem: nn.Module | None = None) -> None:
        super().__init__()
        if stem is not None:
            self.stem = stem
        self.has_stem = stem is not None
        self.stages = nn.Sequential(*stages)

    def forward(self, voxels: Tensor) -> list[Tensor]:
        """Return the features of every stage, highest resolution first."""
        features = self.stem(voxels) if self.has_stem else voxels
        every = []
        for stage in self.stages:
            features = stage(features)
            every.append(features)
        return every


class Decoder(nn.Module):
    """From the lowest resolution up: enlarge, join the encoder's features, convolve; a head each.

    Source:
        Engine specification A 7.2.
    """

    def __init__(self, arguments: ArchitectureArguments, heads: int, layers: Layers) -> None:
        super().__init__()
        widths, strides = arguments.features_per_stage, arguments.strides
        once = (1,) * layers.axes
        levels = range(arguments.n_stages - 2, -1, -1)
        counts = arguments.n_conv_per_stage_decoder
        stacks, upsamplings, outputs = [], [], []
        for level, count in zip(levels, counts, strict=True):
            width = widths[level]
            kernel = arguments.kernel_sizes[level]
            stacks.append(ConvStack((2 * width, width), count, kernel, once, layers))
            upsamplings.append(layers.upsampling(widths[level + 1], width, strides[level + 1]))
            outputs.append(layers.convolution(width, heads, once, once, bias=True))
        self.stages = nn.ModuleList(stacks)
        self.transpconvs = nn.ModuleList(upsamplings)
        self.seg_layers = nn.ModuleList(outputs)

    def forward(self, skips: Sequence[Tensor], *, every_head: bool) -> tuple[Tensor, ...]:
        """Return the logits of every level, or of the highest resolution, highest first."""
        *skips, features = skips
        logits: list[Tensor] = []
        last = len(self.stages) - 1
        for depth, (layer, convolve) in enumerate(zip(self.transpconvs, self.stages, strict=True)):
            enlarged = upsample(cast("Upsampling", layer), features)
            features = convolve(torch.cat((enlarged, skips.pop()), dim=1))
            if every_head or depth == last:
                logits.append(self.seg_layers[depth](features))
        return tuple(reversed(logits))


@ARCHITECTURES.register("PlainConvUNet")
def plain_unet(arch_kwargs: Mapping[str, Any], input_channels: int, heads: int) -> UNet:
    """Build a U-Net whose encoder stages are convolution blocks in a row.

    Source:
        Engine specification A 7.2.
    """
    arguments = ArchitectureArguments.model_validate(arch_kwargs)
    shared = layers(arguments)
    counts = _checked(arguments, "n_conv_per_stage")
    stages = [
        nn.Sequential(ConvStack(channels, count, kernel, stride, shared))
        for channels, count, kernel, stride in zip(
            _channels(arguments, input_channels),
            counts,
            arguments.kernel_sizes,
            arguments.strides,
            strict=True,
        )
    ]
    return UNet(Encoder(stages), Decoder(arguments, heads, shared))


@ARCHITECTURES.register("ResidualEncoderUNet")
def residual_unet(arch_kwargs: Mapping[str, Any], input_channels: int, heads: int) -> UNet:
    """Build a U-Net whose encoder is a stem and stages of residual blocks.

    Source:
        Engine specification A 7.3.
    """
    arguments = ArchitectureArguments.model_validate(arch_kwargs)
    shared = layers(arguments)
    counts = _checked(arguments, "n_blocks_per_stage")
    width = arguments.features_per_stage[0]
    stem = ConvStack((input_channels, width), 1, arguments.kernel_sizes[0], (1,) * shared.axes, shared)
    stages = [
        ResidualStage(channels, count, kernel, stride, shared)
        for channels, count, kernel, stride in zip(
            _channels(arguments, width), counts, arguments.kernel_sizes, arguments.strides, strict=True
        )
    ]
    return UNet(Encoder(stages, stem), Decoder(arguments, heads, shared))


def _channels(arguments: ArchitectureArguments, inputs: int) -> list[tuple[int, int]]:
    """Return input and output channels of every encoder stage."""
    widths = arguments.features_per_stage
    return list(zip((inputs, *widths), widths, strict=False))


def _checked(arguments: ArchitectureArguments, counts_name: str) -> tuple[int, ...]:
    """Return the blocks per encoder stage.

    Raises:
        PlanError: A list has the wrong number of entries.
    """
    stages = arguments.n_stages
    lengths = {
        "features_per_stage": stages,
        "kernel_sizes": stages,
        "strides": stages,
        counts_name: stages,
        "n_conv_per_stage_decoder": stages - 1,
    }
    wrong = [
        f"{name} needs {length} entries"
        for name, length in lengths.items()
        if _entries(arguments, name) != length
    ]
    if wrong or stages < 2:  # noqa: PLR2004 - an encoder stage and a bottleneck
        raise PlanError(f"the plan's architecture with {stages} stages is inconsistent: {'; '.join(wrong)}")
    counts: tuple[int, ...] = getattr(arguments, counts_name)
    return counts


def _entries(arguments: ArchitectureArguments, name: str) -> int:
    """Return the number of entries of a list that may be absent."""
    return len(getattr(arguments, name) or ())


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights anew.

    Convolutions are He-normal by fan-in for a leaky ReLU, biases 0, norms the identity; but the second
    norm of each residual block is 0, so that every block starts as its shortcut.

    Source:
        Engine specification A 7.4.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001 - the base of all convolutions
            nn.init.kaiming_normal_(module.weight, a=DEFAULT_SLOPE, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, InstanceNormActivation | BatchNormActivation):
            module.reset_parameters()
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            for parameter in module.conv2.norm.parameters():
                nn.init.zeros_(parameter)
