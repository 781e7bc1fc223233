"""What training and prediction expect of a network, and how one that a package adds is made to keep to it."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from core.domain.model import PrecisionName
from core.domain.plan import Architecture
from core.errors import ExtensionError, PlanError
from core.network.device import autocast


class Network(nn.Module):
    """A network as everybody knows it; which class it is does not matter.

    It is called with voxels (batch, channels, two or three spatial axes) and returns logits (batch, heads,
    spatial axes), nothing applied to them: with deep supervision a tuple, one entry per output and the highest
    resolution first, else the highest resolution alone. Its `state_dict` holds every tensor once, so that
    weights can be kept by name.
    """

    deep_supervision: bool
    """Set by whoever calls it: True to train with all outputs, False for the highest resolution alone."""


Build = Callable[[Mapping[str, Any], int, int], nn.Module]
"""Makes a network of (`arch_kwargs` as they stand in the plan, input channels, heads)."""


def build_added(
    build: Build, architecture: Architecture, input_channels: int, heads: int, seed: int
) -> Network:
    """Build the network of a package, with the weights that its own code draws.

    Args:
        build: Of the package.
        architecture: Name and arguments, as in a plan.
        input_channels: Image channels.
        heads: Logits per voxel.
        seed: Of torch's generator while it is built; whatever it was before, it is again afterwards.

    Raises:
        PlanError: The network cannot be built of these arguments; the sentence says why.
        ExtensionError: What is built is no torch module.
    """
    name = architecture.network_class_name
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            network: object = build(architecture.arch_kwargs.to_json(), input_channels, heads)
        except Exception as error:  # Whatever the code of others raises.
            raise PlanError(
                f"the network {name} cannot be built of its arch_kwargs: {type(error).__name__}: {error}; correct "
                "them in the plan, or update the package that adds the network"
            ) from error
    if not isinstance(network, nn.Module):
        raise ExtensionError(
            f"the network {name} is a {type(network).__name__} instead of a torch module; update the package that "
            "adds it"
        )
    return cast("Network", network)


class InFormat(nn.Module):
    """A network of a package for prediction: torch chooses where to compute in a shorter number format.

    Ours know for themselves which of their weights may be shortened.
    """

    def __init__(self, network: nn.Module, precision: PrecisionName, device: torch.device) -> None:
        super().__init__()
        self.network, self.precision, self.device = network, precision, device

    def forward(self, voxels: Tensor) -> Tensor:
        """Return logits."""
        with autocast(self.precision, self.device):
            logits: Tensor = self.network(voxels.float())
        return logits
