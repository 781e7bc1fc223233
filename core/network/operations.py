"""Operations that have kernels of their own: norm with activation, upsampling, and convolutions of thin maps."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

IDENTITY_SLOPE = 1.0
"""Negative slope of a leaky ReLU that changes nothing: the layer has no activation of its own."""

VOXELS_PER_SUM = 8192
"""Voxels whose statistics are taken at once on a CPU.

The kernel adds voxel after voxel in float32. Over a patch of 128³ that is off by 1.3e-3 standard
deviations; in parts of this size, joined in float64, by 2e-6, at nearly the same speed (own measurement).
"""

SAFE_EDGE = 4
SAFE_KERNEL = 3
"""Voxels along an axis, and of the kernel there, with which the CPU's bfloat16 convolutions are right."""

Convolution = nn.Conv2d | nn.Conv3d
"""A convolution that keeps the size where its stride is 1."""

Upsampling = nn.ConvTranspose2d | nn.ConvTranspose3d
"""A transposed convolution whose kernel is its stride."""


class InstanceNormActivation(nn.Module):
    """Instance norm with learnt scale and shift, then leaky ReLU."""

    def __init__(self, channels: int, *, eps: float, slope: float) -> None:
        super().__init__()
        self.eps = eps
        self.slope = slope
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make scale and shift the identity."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return activation(norm(features) + residual), shape and layout of the features."""
        if features.device.type == "cpu":
            result: Tensor = _InstanceNormActivation.apply(  # type: ignore[no-untyped-call]
                features, self.weight, self.bias, residual, self.eps, self.slope
            )
            return result
        normalized = functional.instance_norm(features, weight=self.weight, bias=self.bias, eps=self.eps)
        return _activate(normalized, residual, self.slope)


class BatchNormActivation(nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the one for 2D and 3D alike
    """Batch norm with running statistics, then leaky ReLU."""

    def __init__(self, channels: int, *, eps: float, slope: float) -> None:
        super().__init__(channels, eps=eps)
        self.slope = slope

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        """Take any number of axes."""

    def forward(self, features: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return activation(norm(features) + residual), shape and layout of the features."""
        return _activate(super().forward(features), residual, self.slope)


def _activate(normalized: Tensor, residual: Tensor | None, slope: float) -> Tensor:
    """Add the residual, then apply the leaky ReLU in place."""
    if residual is not None:
        normalized = normalized + residual
    return normalized if slope == IDENTITY_SLOPE else functional.leaky_relu_(normalized, slope)


class _InstanceNormActivation(torch.autograd.Function):
    """Instance norm, optional addition and leaky ReLU on the CPU, in any memory layout and precision.

    The stock operation copies channels-last tensors into the contiguous layout and back, and adds a
    tensor for each step. Here each sample is a batch of its own for the batch norm kernels, which know
    both layouts and keep float32 statistics of bfloat16 features. (The group norm kernel would take
    all samples at once; but it subtracts the squared mean from the mean square, which loses everything
    where features have a large offset, and its backward pass is slow.) The activation runs in place,
    and its backward pass needs only the sign of its result, which the next layer keeps anyhow.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd takes no keywords
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        eps: float,
        slope: float,
    ) -> Tensor:
        """Return activation(norm(features) + residual)."""
        if features.dtype.itemsize < torch.float32.itemsize:
            weight, bias = weight.float(), bias.float()
        result = torch.empty_like(features)
        samples, unused = range(len(features)), weight.new_empty(0)
        statistics = [_mean_and_variance(features[i : i + 1], like=weight) for i in samples]
        for i, (mean, variance) in zip(samples, statistics, strict=True):
            sample, out = features[i : i + 1], (result[i : i + 1], unused, unused)
            torch.native_batch_norm(sample, weight, bias, mean, variance, False, 0.0, eps, out=out)  # noqa: FBT003
        if residual is not None:
            result += residual
        if slope != IDENTITY_SLOPE:
            functional.leaky_relu_(result, slope)
        means, variances = (torch.stack(values) for values in zip(*statistics, strict=True))
        ctx.save_for_backward(features, result, weight, means, torch.rsqrt(variances + eps))
        ctx.eps, ctx.slope, ctx.has_residual = eps, slope, residual is not None
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of features, weight, bias and residual."""
        features, result, weight, means, inverse_deviations = ctx.saved_tensors
        if ctx.slope != IDENTITY_SLOPE:
            gradient = torch.ops.aten.leaky_relu_backward(gradient, result, ctx.slope, True)  # noqa: FBT003
        parts = []
        for i in range(len(features)):
            sample = (gradient[i : i + 1], features[i : i + 1], weight, None, None)
            statistics = (means[i], inverse_deviations[i], True, ctx.eps)
            parts.append(torch.ops.aten.native_batch_norm_backward(*sample, *statistics, [True, True, True]))
        of_features, of_weight, of_bias = zip(*parts, strict=True)
        return (
            of_features[0] if len(parts) == 1 else torch.cat(of_features),
            torch.stack(of_weight).sum(0),
            torch.stack(of_bias).sum(0),
            gradient if ctx.has_residual else None,
            None,
            None,
        )


def _mean_and_variance(sample: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (biased) statistics of each channel of one sample, exactly enough for any patch size."""
    voxels = sample[0, 0].numel()
    parts = sample.chunk(-(-voxels // VOXELS_PER_SUM), dim=2)
    unused = like.new_zeros(2, sample.shape[1])
    statistics = [torch.batch_norm_update_stats(part, unused[0], unused[1], 0.0) for part in parts]
    if len(parts) == 1:
        return statistics[0]
    shares = like.new_tensor([[part[0, 0].numel() / voxels] for part in parts], dtype=torch.float64)
    means, variances = (torch.stack(values).double() for values in zip(*statistics, strict=True))
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return mean.to(like.dtype), variance.to(like.dtype)


def convolve(layer: Convolution, features: Tensor) -> Tensor:
    """Convolve; where the CPU's bfloat16 kernels go wrong, in float32.

    oneDNN's kernels (torch 2.8 to 2.13) read memory that nobody wrote, so that results are right, wrong or NaN, by
    chance: with matrix units (AMX) where a stride leaves one voxel of the last axis; without them (AVX512-BF16) the
    gradient of the weights where a map is two voxels thick, and thin maps with strides, some of which end the
    process. With four voxels and more along every axis on which the kernel has three, 4127 combinations of size,
    stride and channels were right, one was not, which the first rule knows (own measurement). Feature maps that thin
    are small, so float32 costs nothing.

    Args:
        layer: Holds the weights.
        features: Batch, channels, two or three spatial axes.
    """
    is_safe = all(
        kernel == 1 or (size >= SAFE_EDGE and kernel <= SAFE_KERNEL)
        for size, kernel in zip(features.shape[2:], layer.kernel_size, strict=True)
    )
    is_thin = not is_safe or features.shape[-1] <= layer.stride[-1] > 1
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else features.dtype
    if not is_thin or features.device.type != "cpu" or dtype == torch.float32:
        plain: Tensor = layer(features)
        return plain
    with torch.autocast("cpu", enabled=False):
        bias = None if layer.bias is None else layer.bias.float()
        exact: Tensor = layer._conv_forward(features.float(), layer.weight.float(), bias)  # noqa: SLF001 - any padding
        return exact.to(dtype)


class _Upsample(torch.autograd.Function):
    """Transposed convolution on the CPU, whose stock backward pass spends most of its time on the bias."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int]) -> Tensor:
        """Return the features at the finer size."""
        ctx.save_for_backward(features, weight)
        ctx.stride, ctx.has_bias = stride, bias is not None
        return torch.convolution(features, weight, bias, *_transposed(stride))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of features, weight and bias."""
        features, weight = ctx.saved_tensors
        mask = [True, True, False]
        of_features, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient, features, weight, None, *_transposed(ctx.stride), mask
        )
        of_bias = gradient.movedim(1, -1).flatten(0, -2).sum(0) if ctx.has_bias else None
        return of_features, of_weight, of_bias, None


def _transposed(stride: list[int]) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
    """Return stride, padding, dilation, transposition, output padding and groups for torch."""
    zeros, ones = [0] * len(stride), [1] * len(stride)
    return stride, zeros, ones, True, zeros, 1


def upsample(layer: Upsampling, features: Tensor) -> Tensor:
    """Enlarge each axis by the layer's stride, which is also its kernel.

    Args:
        layer: Holds the weights.
        features: Batch, channels, two or three spatial axes.
    """
    if features.device.type != "cpu" or not torch.is_grad_enabled():
        plain: Tensor = layer(features)
        return plain
    weight = layer.weight.to(features.dtype)
    bias = None if layer.bias is None else layer.bias.to(features.dtype)
    result: Tensor = _Upsample.apply(features, weight, bias, list(layer.stride))  # type: ignore[no-untyped-call]
    return result
