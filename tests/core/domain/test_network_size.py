"""Weights of a network, counted without building it."""

from typing import Any

import pytest

from core.domain.network_size import NetworkSize, network_size
from core.domain.plan import Architecture
from core.network.unet import build_network
from tests.core.inference.conftest import ARCHITECTURE

PLAIN: dict[str, Any] = {
    **ARCHITECTURE["arch_kwargs"],
    "n_stages": 4,
    "features_per_stage": [4, 8, 8, 12],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]],
    "n_conv_per_stage": [1, 2, 3, 2],
    "n_conv_per_stage_decoder": [2, 1, 3],
}
RESIDUAL = {key: value for key, value in PLAIN.items() if key != "n_conv_per_stage"} | {
    "n_blocks_per_stage": [1, 3, 2, 2]
}
BATCH_NORM = {"norm_op": "torch.nn.modules.batchnorm.BatchNorm3d"}


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("PlainConvUNet", PLAIN),
        ("PlainConvUNet", PLAIN | BATCH_NORM),
        ("PlainConvUNet", PLAIN | {"conv_bias": False}),
        ("ResidualEncoderUNet", RESIDUAL),
        ("ResidualEncoderUNet", RESIDUAL | BATCH_NORM),
        ("ResidualEncoderUNet", RESIDUAL | {"conv_bias": False}),
    ],
)
def test_the_count_is_that_of_the_network(kind: str, arguments: dict[str, Any]) -> None:
    architecture = Architecture(network_class_name=kind, arch_kwargs=arguments)

    network = build_network(architecture, 2, 5, seed=None)

    weights = sum(parameter.numel() for parameter in network.parameters())
    assert network_size(architecture.unet, 2, 5) == NetworkSize(weights, len(network.state_dict()))


def test_a_network_that_nobody_could_build_is_counted_at_once() -> None:
    absurd = PLAIN | {"features_per_stage": [65536] * 4, "n_conv_per_stage": [1000] * 4}
    architecture = Architecture(network_class_name="PlainConvUNet", arch_kwargs=absurd)

    assert network_size(architecture.unet, 1, 2).parameters > 10**14
