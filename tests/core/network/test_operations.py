import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from core.network.operations import (
    BatchNormActivation,
    Convolution,
    InstanceNormActivation,
    convolve,
    upsample,
)

EPS = 1e-5


def stock(features: Tensor, layer: InstanceNormActivation, residual: Tensor | None) -> Tensor:
    """The same in torch's own operations."""
    normalized = functional.instance_norm(features, weight=layer.weight, bias=layer.bias, eps=EPS)
    total = normalized if residual is None else normalized + residual
    return functional.leaky_relu(total, layer.slope)


def layer_of(channels: int, slope: float) -> InstanceNormActivation:
    layer = InstanceNormActivation(channels, eps=EPS, slope=slope).double()
    with torch.no_grad():
        layer.weight.uniform_(-1, 1)
        layer.bias.uniform_(-1, 1)
    return layer


@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(
        st.integers(1, 3), st.integers(1, 4), st.integers(2, 5), st.integers(1, 5), st.integers(1, 4)
    ),
    slope=st.sampled_from([0.01, 0.2, 1.0]),
    has_residual=st.booleans(),
    is_channels_last=st.booleans(),
)
def test_norm_activation_and_its_gradients_equal_the_stock_operations(
    shape: tuple[int, ...], slope: float, *, has_residual: bool, is_channels_last: bool
) -> None:
    torch.manual_seed(sum(shape))
    layout = torch.channels_last_3d if is_channels_last else torch.contiguous_format
    features = torch.randn(shape, dtype=torch.double).to(memory_format=layout).requires_grad_()
    residual = torch.randn(shape, dtype=torch.double).requires_grad_() if has_residual else None
    layer = layer_of(shape[1], slope)
    upstream = torch.randn(shape, dtype=torch.double)
    inputs = [features, layer.weight, layer.bias, *([residual] if residual is not None else [])]

    ours = layer(features, residual)
    gradients = torch.autograd.grad(ours, inputs, upstream)

    expected = stock(features, layer, residual)
    torch.testing.assert_close(ours, expected)
    for got, wanted in zip(gradients, torch.autograd.grad(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-7)


def test_statistics_are_exact_in_large_patches_with_an_offset() -> None:
    features = (torch.randn(1, 2, 64, 64, 64) + 100).to(memory_format=torch.channels_last_3d)
    layer = InstanceNormActivation(2, eps=EPS, slope=1.0)

    difference = layer(features).double() - functional.instance_norm(features.double(), eps=EPS)

    assert difference.abs().max() < 1e-4


def test_bfloat16_features_keep_float32_statistics() -> None:
    features = (torch.randn(2, 4, 16, 16) + 10).bfloat16()
    layer = InstanceNormActivation(4, eps=EPS, slope=1.0)

    result = layer(features)

    assert result.dtype == torch.bfloat16
    assert result.float().mean(dim=(2, 3)).abs().max() < 2e-3


def test_batch_norm_activation_equals_the_stock_operation_and_keeps_running_statistics() -> None:
    layer, expected = BatchNormActivation(3, eps=EPS, slope=0.1), nn.BatchNorm3d(3, eps=EPS)
    features = torch.randn(2, 3, 4, 4, 4)

    result = layer(features)

    assert torch.equal(result, functional.leaky_relu(expected(features), 0.1))
    assert list(layer.state_dict()) == list(expected.state_dict())
    assert all(
        torch.equal(layer.state_dict()[name], tensor) for name, tensor in expected.state_dict().items()
    )


@pytest.mark.parametrize("has_bias", [True, False])
def test_upsampling_and_its_gradients_equal_the_stock_operation(*, has_bias: bool) -> None:
    layer = nn.ConvTranspose3d(3, 2, (1, 2, 2), (1, 2, 2), bias=has_bias).double()
    features = torch.randn(2, 3, 2, 3, 4, dtype=torch.double).requires_grad_()

    ours, expected = upsample(layer, features), layer(features)
    inputs = [features, *layer.parameters()]
    gradients = torch.autograd.grad(ours.square().sum(), inputs)

    torch.testing.assert_close(ours, expected)
    for got, wanted in zip(gradients, torch.autograd.grad(expected.square().sum(), inputs), strict=True):
        torch.testing.assert_close(got, wanted)


def leave_garbage() -> None:
    """Fill memory that the next operations are given."""
    for exponent in (10, 12, 14, 17):
        held = [torch.full((1 << exponent,), 3e4, dtype=torch.bfloat16) for _ in range(6)]
        del held


@pytest.mark.parametrize("is_autocast", [False, True])
@pytest.mark.parametrize("stride", [(1, 2), (2, 2), (1, 1, 2), (2, 2, 2)])
def test_a_stride_that_leaves_one_voxel_is_convolved_exactly_in_bfloat16(
    stride: tuple[int, ...], *, is_autocast: bool
) -> None:
    layer: Convolution = (nn.Conv2d if len(stride) == 2 else nn.Conv3d)(8, 64, 3, stride, 1)  # type: ignore[arg-type]
    features = torch.randn(1, 8, *(16 for _ in stride[1:]), 2).bfloat16()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter.bfloat16())
        expected = layer(features.float()).bfloat16()
        if not is_autocast:
            layer.bfloat16()

        found = []
        for _ in range(4):
            leave_garbage()
            with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
                found.append(convolve(layer, features))

    assert all(torch.equal(one, expected) for one in found)


@pytest.mark.parametrize("size", [(2, 3, 2), (2, 5, 5), (2, 1, 4), (3, 4, 4)])
def test_weights_of_thin_maps_get_their_gradient_in_bfloat16(size: tuple[int, ...]) -> None:
    layer, features = nn.Conv3d(32, 32, 3, padding=1), torch.randn(2, 32, *size)
    (expected,) = torch.autograd.grad(layer(features).square().sum(), layer.weight)

    for _ in range(4):
        leave_garbage()
        with torch.autocast("cpu", torch.bfloat16):
            total = convolve(layer, features).float().square().sum()
        (found,) = torch.autograd.grad(total, layer.weight)
        assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_kernels_that_reach_further_are_convolved_exactly() -> None:
    layer, features = nn.Conv3d(4, 4, 5, padding=2), torch.randn(1, 4, 6, 6, 6)

    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = convolve(layer, features)

    torch.testing.assert_close(found, layer(features).bfloat16(), rtol=0, atol=0)


def test_a_thin_map_is_convolved_with_gradients() -> None:
    layer = nn.Conv3d(2, 4, 3, 2, 1)
    with torch.autocast("cpu", torch.bfloat16):
        total = convolve(layer, torch.randn(1, 2, 4, 4, 2)).sum()
    torch.autograd.backward(total)

    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()
