"""Names of weights: one canonical name per tensor inside, the aliases of official checkpoints outside."""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from core.errors import ModelError

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that distributed training and compilation put before a name."""

ENCODER, DECODER_ENCODER = "encoder.", "decoder.encoder."
"""The official decoder lists its encoder's tensors once more."""

LAYER_OF_ALIAS = re.compile(r"\ball_modules\.(\d+)\.")
"""The official block lists its layers once more by number: 0 is the convolution, any other the norm,
since neither dropout nor an activation has weights."""

LAYER = re.compile(r"\.(conv|norm)\.([a-z_]+)$")
"""A tensor of a convolution block: its layer and its own name."""

OFFICIAL_NUMBER = {"conv": 0, "norm": 1}
"""Place of each layer in an official block."""


def canonical(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each tensor once, under its canonical name.

    Args:
        state_dict: Of this engine, or of an official checkpoint with its aliases.

    Raises:
        ModelError: An alias holds other values than the tensor that it stands for.

    Source:
        Engine specification A 7.5.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        own = canonical_name(name)
        known = tensors.setdefault(own, tensor)
        if known is not tensor and not _equal(known, tensor):
            raise ModelError(
                f"the weights contradict themselves: {name} and {own} must be the same tensor; "
                "export the model again",
                tensor=name,
            )
    return tensors


def canonical_name(name: str) -> str:
    """Return the one name under which this engine knows a tensor."""
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    if name.startswith(DECODER_ENCODER):
        name = ENCODER + name.removeprefix(DECODER_ENCODER)
    return LAYER_OF_ALIAS.sub(lambda match: "conv." if match[1] == "0" else "norm.", name)


def expanded(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under all names that the official network has for them, in its order.

    Args:
        state_dict: Canonical names.

    Source:
        Engine specification A 7.5; checked against recorded state dicts.
    """
    encoder = dict(_with_numbers(state_dict, prefix=ENCODER))
    again = {"decoder." + name: tensor for name, tensor in encoder.items()}
    return encoder | again | dict(_with_numbers(state_dict, prefix="decoder."))


def _with_numbers(state_dict: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield each block's tensors by layer name, then once more by layer number."""
    numbered: list[tuple[str, Tensor]] = []
    block = ""
    for name, tensor in state_dict.items():
        if not name.startswith(prefix):
            continue
        layer = LAYER.search(name)
        if numbered and (layer is None or name[: layer.start()] != block):
            yield from numbered
            numbered = []
        yield name, tensor
        if layer is not None:
            block = name[: layer.start()]
            numbered.append((f"{block}.all_modules.{OFFICIAL_NUMBER[layer[1]]}.{layer[2]}", tensor))
    yield from numbered


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Say how two sets of tensors differ, one example each; nothing where they agree.

    Args:
        expected: Of a network; without memory for values.
        found: Of a file.
    """
    faults = []
    missing, superfluous = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        faults.append(f"{len(missing)} tensors are missing, such as {missing[0]}")
    if superfluous:
        faults.append(f"{len(superfluous)} tensors are unknown, such as {superfluous[0]}")
    reshaped = [key for key in expected if key in found and expected[key].shape != found[key].shape]
    if reshaped:
        key = reshaped[0]
        faults.append(
            f"{len(reshaped)} tensors have another shape, such as {key}: "
            f"{list(found[key].shape)} instead of {list(expected[key].shape)}"
        )
    return faults


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same values; what is not a number equals itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
