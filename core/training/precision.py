"""Which device a network is trained on, and in which number format."""

from typing import Literal

import torch

from core.domain.model import PrecisionName
from core.errors import TrainingError

DTYPES: dict[PrecisionName, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Type of features and of the weights that meet them; the optimiser's weights are always float32."""


def choose_device(wanted: str) -> torch.device:
    """Return the device of that name; `auto` takes a GPU if there is one.

    Raises:
        TrainingError: It is not there.
    """
    found = torch.cuda.device_count()
    if wanted == "auto":
        return torch.device("cuda" if found else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise TrainingError(f"there is no device named {wanted!r}; choose cpu, cuda or auto") from error
    if device.type == "cuda" and (device.index or 0) >= found:
        raise TrainingError(f"device {wanted} is not there, {found} GPUs are; choose another, or auto")
    return device


def choose_precision(wanted: PrecisionName | Literal["auto"], device: torch.device) -> PrecisionName:
    """Return the number format to train in; `auto` takes the fastest that learns as well as float32.

    That is float16 with a scaled loss on CUDA, bfloat16 on CPUs with matrix instructions for it (AMX),
    and float32 elsewhere.

    Raises:
        TrainingError: The device cannot train in the format that is asked for.

    Source:
        Engine specification B 1.4 (CUDA); own measurement (AMX): a third of the CPU time of float32,
        losses of the first steps equal to 1e-3.
    """
    if wanted != "auto":
        if not is_possible(wanted, device):
            raise TrainingError(f"{wanted} cannot be trained on {device.type}; choose fp32, bf16 or auto")
        return wanted
    if device.type == "cuda":
        return "fp16"
    if device.type == "cpu" and torch.cpu._is_amx_tile_supported():  # noqa: SLF001 - torch has no public name
        return "bf16"
    return "fp32"


def is_possible(precision: PrecisionName, device: torch.device) -> bool:
    """Whether a device can train in a format: float16 needs the scaled loss, which only CUDA has."""
    return precision != "fp16" or device.type == "cuda"


def autocast(precision: PrecisionName, device: torch.device) -> torch.autocast:
    """Return the context in which the network computes in this format."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")
