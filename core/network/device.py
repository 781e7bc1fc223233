"""Which device a network computes on, and in which number format."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from core.domain.model import PrecisionName
from core.errors import DeviceError

DTYPES: dict[PrecisionName, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Type of features and of the weights that meet them; the optimiser's weights are always float32."""


OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch's errors say where they have no type of their own."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The number format in which a network computes, and why that one."""

    name: PrecisionName
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """Type of features."""
        return DTYPES[self.name]


def choose_device(wanted: str) -> torch.device:
    """Return the device of that name; `auto` takes a GPU if there is one.

    Raises:
        DeviceError: It is not there.
    """
    found = torch.cuda.device_count()
    if wanted == "auto":
        return torch.device("cuda" if found else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise DeviceError(f"there is no device named {wanted!r}; choose cpu, cuda or auto") from error
    if device.type == "cuda" and (device.index or 0) >= found:
        raise DeviceError(f"device {wanted} is not there, {found} GPUs are; choose another, or auto")
    return device


def device_reason(wanted: str, device: torch.device) -> str:
    """Say why it is that device."""
    if wanted != "auto":
        return "as asked for"
    return "a GPU is there" if device.type == "cuda" else "no GPU is there"


def choose_precision(wanted: PrecisionName | Literal["auto"], device: torch.device) -> Precision:
    """Return the number format to compute in; `auto` takes the fastest that the device has units for.

    Raises:
        DeviceError: The device has no units for the format that is asked for.

    Source:
        Engine specification B 1.4 and B 6.5: the reference trains and predicts in fp16 on GPUs. bf16 on
        CPUs, own measurements: with AMX a third of the CPU time of a training step in fp32, with AVX512-BF16
        three fifths; losses of the first steps equal to 1e-3. With AMX and two networks trained by the
        reference, 40 cases each, CPU time 3.2 → 0.66 s (3D) and 0.76 → 0.26 s (2D) per case with mirroring;
        mean Dice against the references moves by less than 0.0001, Dice between the two segmentations is
        0.999 on average, 0.996 in the worst case and class.
    """
    if wanted != "auto":
        if not is_possible(wanted, device):
            raise DeviceError(f"{wanted} is not for a {device.type}; choose fp32, bf16 or auto")
        return Precision(wanted, "as asked for")
    if device.type == "cuda":
        return Precision("fp16", "the device is a GPU")
    units = bf16_units() if device.type == "cpu" else None
    if units is not None:
        return Precision("bf16", f"the CPU has units for bf16 ({units})")
    return Precision("fp32", "the device has no units for a shorter format")


def is_possible(precision: PrecisionName, device: torch.device) -> bool:
    """Whether a device can compute in a format: float16 has fast units, and its scaled loss, only on CUDA."""
    return precision != "fp16" or device.type == "cuda"


def bf16_units() -> str | None:
    """Return what the CPU multiplies bf16 with in hardware, if it does."""
    if torch.cpu._is_amx_tile_supported():  # noqa: SLF001 - torch has no public names for them in 2.8
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None  # noqa: SLF001


def autocast(precision: PrecisionName, device: torch.device) -> torch.autocast:
    """Return the context in which the network computes in this format."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that processor or GPU have no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


@contextmanager
def computing(*, repeatable: bool) -> Iterator[None]:
    """Let the device choose its fastest kernels, or those that give the same bits each time.

    On a GPU, operations that have no such kernel are warned about.
    """
    if not repeatable:
        with torch.backends.cudnn.flags(benchmark=True, deterministic=False):
            yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    # What cuBLAS needs to be told, before it begins.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # noqa: TID251
    torch.use_deterministic_algorithms(mode=True, warn_only=torch.cuda.is_available())
    try:
        with torch.backends.cudnn.flags(benchmark=False, deterministic=True):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
