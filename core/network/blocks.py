"""The pieces that U-Nets are built from: convolution blocks, stacks of them, residual blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from core.domain.names import last_part
from core.domain.plan import ArchitectureArguments
from core.errors import PlanError
from core.network.operations import (
    IDENTITY_SLOPE,
    BatchNormActivation,
    Convolution,
    InstanceNormActivation,
    Upsampling,
    convolve,
)
from core.registry import Registry

DEFAULT_EPS = 1e-5
"""Added to the variance when a plan gives none, as torch does."""

DEFAULT_SLOPE = 0.01
"""Negative slope of a leaky ReLU when a plan gives none, as torch does."""

NormActivation = Callable[..., nn.Module]
"""Makes norm + activation of (channels, eps=, slope=), called with (features, residual or None)."""

Size = tuple[int, ...]
"""Kernel size or stride, one entry per spatial axis."""

CONVOLUTIONS: Registry[int] = Registry("convolution")
"""Spatial axes of a convolution operator, by the last part of its name."""
CONVOLUTIONS.register("Conv2d")(2)
CONVOLUTIONS.register("Conv3d")(3)

NORMS: Registry[NormActivation] = Registry("normalization operator")
"""Norm + activation operations, by the last part of the norm's name."""
NORMS.register("InstanceNorm2d", "InstanceNorm3d")(InstanceNormActivation)
NORMS.register("BatchNorm2d", "BatchNorm3d")(BatchNormActivation)

ACTIVATIONS: Registry[float] = Registry("activation")
"""Negative slope of an activation, where the plan gives none, by the last part of its name."""
ACTIVATIONS.register("LeakyReLU")(DEFAULT_SLOPE)
ACTIVATIONS.register("ReLU")(0.0)


@dataclass(frozen=True, slots=True)
class Layers:
    """What all blocks of one network have in common."""

    axes: int
    """Spatial axes, 2 or 3."""
    bias: bool
    """Whether convolutions add a bias."""
    norm: NormActivation
    eps: float
    slope: float
    """Negative slope of the leaky ReLU."""

    def convolution(
        self, inputs: int, outputs: int, kernel: Size, stride: Size, *, bias: bool
    ) -> Convolution:
        """Return a convolution that keeps the size where the stride is 1 and the kernel odd."""
        kind = nn.Conv2d if self.axes == 2 else nn.Conv3d  # noqa: PLR2004 - the two of 2D
        padding = tuple((edge - 1) // 2 for edge in kernel)
        return kind(inputs, outputs, kernel, stride, padding, bias=bias)  # type: ignore[arg-type]

    def upsampling(self, inputs: int, outputs: int, stride: Size) -> Upsampling:
        """Return a transposed convolution that enlarges each axis by its stride."""
        kind = nn.ConvTranspose2d if self.axes == 2 else nn.ConvTranspose3d  # noqa: PLR2004 - the two of 2D
        return kind(inputs, outputs, stride, stride, bias=self.bias)  # type: ignore[arg-type]


def layers(arguments: ArchitectureArguments) -> Layers:
    """Look up the operators that a plan names.

    Raises:
        UnknownNameError: An operator is not known.
        PlanError: An operator is missing, or is one that this engine leaves out.
    """
    if arguments.dropout_op is not None:
        raise PlanError(
            f"the plan's architecture asks for dropout ({arguments.dropout_op}), which is not supported; "
            "set dropout_op to null"
        )
    if arguments.norm_op is None or arguments.nonlin is None:
        raise PlanError("the plan's architecture must name norm_op and nonlin")
    norm_arguments = arguments.norm_op_kwargs or {}
    if not norm_arguments.get("affine", True):
        raise PlanError("the plan's architecture must leave norm_op_kwargs.affine true")
    slope = ACTIVATIONS.get(last_part(arguments.nonlin))
    return Layers(
        axes=CONVOLUTIONS.get(last_part(arguments.conv_op)),
        bias=arguments.conv_bias,
        norm=NORMS.get(last_part(arguments.norm_op)),
        eps=float(norm_arguments.get("eps", DEFAULT_EPS)),
        slope=float((arguments.nonlin_kwargs or {}).get("negative_slope", slope)),
    )


class ConvBlock(nn.Module):
    """Convolution, then norm + activation.

    Source:
        Engine specification A 7.1.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        kernel: Size,
        stride: Size,
        layers: Layers,
        *,
        bias: bool | None = None,
        is_activated: bool = True,
    ) -> None:
        super().__init__()
        bias = layers.bias if bias is None else bias
        self.conv = layers.convolution(*channels, kernel, stride, bias=bias)
        slope = layers.slope if is_activated else IDENTITY_SLOPE
        self.norm = layers.norm(channels[1], eps=layers.eps, slope=slope)

    def forward(self, features: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return activation(norm(conv(features)) + residual)."""
        result: Tensor = self.norm(convolve(self.conv, features), residual)
        return result


class ConvStack(nn.Module):
    """Convolution blocks in a row; only the first changes channels and size.

    Source:
        Engine specification A 7.1.
    """

    def __init__(
        self, channels: tuple[int, int], count: int, kernel: Size, stride: Size, layers: Layers
    ) -> None:
        super().__init__()
        inputs, outputs = channels
        once = (1,) * layers.axes
        first = ConvBlock((inputs, outputs), kernel, stride, layers)
        others = (ConvBlock((outputs, outputs), kernel, once, layers) for _ in range(count - 1))
        self.convs = nn.Sequential(first, *others)

    def forward(self, features: Tensor) -> Tensor:
        """Return the last block's features."""
        result: Tensor = self.convs(features)
        return result


class ResidualBlock(nn.Module):
    """Two convolution blocks whose result is added to a shortcut before the last activation.

    Source:
        Engine specification A 7.3; doi:10.48550/arXiv.1812.01187 (the pooled shortcut).
    """

    def __init__(self, channels: tuple[int, int], kernel: Size, stride: Size, layers: Layers) -> None:
        super().__init__()
        inputs, outputs = channels
        once = (1,) * layers.axes
        self.conv1 = ConvBlock((inputs, outputs), kernel, stride, layers)
        self.conv2 = ConvBlock((outputs, outputs), kernel, once, layers)
        self.skip = _shortcut((inputs, outputs), stride, layers)

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's features."""
        result: Tensor = self.conv2(self.conv1(features), self.skip(features))
        return result


def _shortcut(channels: tuple[int, int], stride: Size, layers: Layers) -> nn.Sequential:
    """Return what brings a residual block's input to its result's size and channels.

    Pooling, where there is any, is number 0 and the projection number 1, as in official names.
    """
    inputs, outputs = channels
    is_pooled, is_projected = any(step != 1 for step in stride), inputs != outputs
    if is_pooled and is_projected:
        return nn.Sequential(nn.Identity(), PooledProjection((inputs, outputs), stride, layers))
    if is_pooled:
        return nn.Sequential(AveragePool(stride))
    if is_projected:
        once = (1,) * layers.axes
        return nn.Sequential(ConvBlock((inputs, outputs), once, once, layers, bias=False, is_activated=False))
    return nn.Sequential()


class PooledProjection(ConvBlock):
    """Average pooling, convolution with a kernel of one voxel, and norm.

    Both are linear, so one strided convolution does them: 1.2 instead of 38 ms where pooling alone has no
    fast kernel (bfloat16 on a CPU, own measurement).
    """

    def __init__(self, channels: tuple[int, int], stride: Size, layers: Layers) -> None:
        once = (1,) * layers.axes
        super().__init__(channels, once, once, layers, bias=False, is_activated=False)
        self.stride = stride

    def forward(self, features: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return norm(conv(pool(features))) + residual, at the coarser size."""
        pooled: Any = functional.conv2d if len(self.stride) == 2 else functional.conv3d  # noqa: PLR2004
        weight = self.conv.weight / prod(self.stride)
        spread = weight.expand(*weight.shape[:2], *self.stride)
        result: Tensor = self.norm(pooled(features, spread, stride=self.stride), residual)
        return result


class AveragePool(nn.Module):
    """Mean over blocks of voxels, computed in float32 and handed on in the precision of the features.

    Autocast would hand on float32, and has no kernel for bfloat16 in 3D on a CPU. Only deep, small stages
    pool without a projection.
    """

    def __init__(self, stride: Size) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """Return the features at the coarser size."""
        pool: Any = functional.avg_pool2d if len(self.stride) == 2 else functional.avg_pool3d  # noqa: PLR2004
        result: Tensor = pool(features.float(), self.stride, self.stride)
        return result.to(features.dtype)


class ResidualStage(nn.Module):
    """Residual blocks in a row; only the first changes channels and size."""

    def __init__(
        self, channels: tuple[int, int], count: int, kernel: Size, stride: Size, layers: Layers
    ) -> None:
        super().__init__()
        inputs, outputs = channels
        once = (1,) * layers.axes
        first = ResidualBlock((inputs, outputs), kernel, stride, layers)
        others = (ResidualBlock((outputs, outputs), kernel, once, layers) for _ in range(count - 1))
        self.blocks = nn.Sequential(first, *others)

    def forward(self, features: Tensor) -> Tensor:
        """Return the last block's features."""
        result: Tensor = self.blocks(features)
        return result
