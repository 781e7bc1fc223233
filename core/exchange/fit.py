"""Weights from elsewhere against the network that a plan describes: figures first, then shapes, then values."""

from collections.abc import Mapping

import torch
from torch import Tensor

from core.domain.network_size import network_size
from core.domain.stages import input_channels
from core.errors import ModelError
from core.exchange.model_files import Described
from core.network.unet import build_network
from core.network.weights import differences

HEADS = "decoder.seg_layers."
"""Begins the names of what makes logits."""


def require_fit(weights: Mapping[str, Tensor], model: Described, file: str) -> None:
    """Refuse weights that are not those of the network.

    How much the network would be is computed before anything of it is made, even without memory for its weights.

    Args:
        weights: Canonical names.
        model: What it says of itself; its network is one of ours.
        file: Where the weights are from, for sentences.

    Raises:
        ModelError: They do not fit; the sentence says what is different.
    """
    channels, heads = input_channels(model.configuration, model.labels), len(model.labels.heads)
    architecture = model.configuration.architecture
    size = network_size(architecture.unet, channels, heads)
    held = sum(tensor.nbytes for tensor in weights.values())
    if size.parameters > held or size.tensors > 2 * len(weights):
        raise ModelError(
            f"plans.json describes a network of {size.parameters:.3g} weights in {size.tensors} tensors, but {file} "
            f"holds {held:.3g} bytes in {len(weights)}; they belong to different models",
            file=file,
        )
    _require_same_labels(weights, model, file)
    expected = build_network(architecture, channels, heads, seed=None).state_dict()
    faults = (
        differences(expected, weights)
        or [
            f"{name} holds {tensor.dtype} instead of {expected[name].dtype}"
            for name, tensor in weights.items()
            if tensor.is_floating_point() != expected[name].is_floating_point()
        ][:1]
    )
    if faults:
        raise ModelError(f"{file} does not fit the network in plans.json: {'; '.join(faults)}", file=file)


def _require_same_labels(weights: Mapping[str, Tensor], model: Described, file: str) -> None:
    """Refuse a dataset.json that has more or fewer labels than the network.

    Raises:
        ModelError: It has.
    """
    heads = len(model.labels.heads)
    found = {
        tensor.shape[0]
        for name, tensor in weights.items()
        if name.startswith(HEADS) and name.endswith(".weight") and tensor.dim()
    }
    if len(found) == 1 and found != {heads}:
        what = "regions" if model.labels.has_regions else "labels, background among them"
        raise ModelError(
            f"dataset.json has {heads} {what}, but the network in {file} tells {found.pop()} apart; give the "
            "dataset.json that the model was trained with",
            file=file,
        )


def own_weights(weights: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """Return weights in memory of their own, as ours are kept: float32, each tensor in one piece.

    Raises:
        ModelError: They hold what is no number.
    """
    kept = {}
    for name, tensor in weights.items():
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        kept[name] = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
        if not kept[name].isfinite().all():
            raise ModelError(
                f"the weights in {file} are not finite in {name}: that training diverged; export another checkpoint",
                file=file,
                tensor=name,
            )
    return kept
