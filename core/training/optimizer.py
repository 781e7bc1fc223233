"""The optimizers by name, their learning rate, and their state by the names of the weights."""

from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from core.domain.training import TrainingSettings

STATES: Final[Mapping[str, str]] = {
    "momentum_buffer": "momentum",
    "exp_avg": "first_moment",
    "exp_avg_sq": "second_moment",
    "max_exp_avg_sq": "largest_second_moment",
    "step": "steps",
}
"""What torch keeps per weight, and what checkpoints call it."""


def make_optimizer(
    network: nn.Module, settings: TrainingSettings, device: torch.device
) -> torch.optim.Optimizer:
    """Return an optimizer of all weights of a network that is on its device.

    Source:
        Engine specification B 1.1 (SGD with Nesterov momentum, weight decay on all parameters), B 5 (AdamW with
        AMSGrad; Adam).
    """
    rate, decay = settings.initial_learning_rate, settings.weight_decay
    fused = device.type in {"cpu", "cuda"}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            rate,
            settings.momentum,
            weight_decay=decay,
            nesterov=settings.momentum > 0,
            fused=fused,
        )
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), rate, weight_decay=decay, amsgrad=True, fused=fused)
    return torch.optim.Adam(network.parameters(), rate, weight_decay=decay, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the steps to come."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def named_state(optimizer: torch.optim.Optimizer, network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what the optimizer keeps per weight: `momentum.encoder.…`; a weight never updated has nothing."""
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                yield f"{STATES[key]}.{name}", value


def restore_state(
    optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Give an optimizer back what `named_state` yielded; other tensors are left alone."""
    for name, parameter in network.named_parameters():
        for key, prefix in STATES.items():
            found = tensors.get(f"{prefix}.{name}")
            if found is not None:
                optimizer.state[parameter][key] = found.to(parameter.device)
