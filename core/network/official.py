"""Checkpoints of the official tools: pickled files, of which nothing but weights and plain values is made."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from core.errors import ModelError
from core.network.weights import canonical

WEIGHTS = "network_weights"
"""Where a checkpoint has its weights."""


class Skipped:
    """Stands for a score of numpy's in a checkpoint: whatever it is, it is not made."""

    def __init__(self, *parts: object) -> None:
        """Ignore what it would be made of."""

    def __setstate__(self, state: object) -> None:
        """Ignore what would be in it."""


ALLOWED = tuple(
    (Skipped, name)
    for name in (
        "numpy.dtype",
        "numpy.ndarray",
        "numpy._core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
    )
)
"""What a checkpoint may name beside what torch itself allows: tensors, ordered dictionaries, devices."""

NAMED = re.compile(r"GLOBAL ([\w.]+)")
"""The name that torch refuses, in what it says."""


def read_official_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, each once under its canonical name; on the CPU, wherever they were trained.

    Tensors stay in the file until they are used.

    Args:
        path: A checkpoint_final.pth, or another one that holds `network_weights`.

    Raises:
        ModelError: It cannot be read, names something that is not a tensor or a plain value, or holds no weights.

    Source:
        Engine specification A 1.12, B 1.12.
    """
    try:
        with torch.serialization.safe_globals(list(ALLOWED)):
            contents = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise ModelError(
            f"{path.name} cannot be read: {error.strerror}; check the path", file=path.name
        ) from error
    except Exception as error:  # A damaged or hostile pickle can fail in every way.
        raise ModelError(_refusal(path, str(error)), file=path.name) from error
    weights = contents.get(WEIGHTS) if isinstance(contents, dict) else None
    if not isinstance(weights, Mapping) or not weights:
        raise ModelError(
            f"{path.name} holds no {WEIGHTS}; give a checkpoint of nnU-Net v2, such as checkpoint_final.pth",
            file=path.name,
        )
    for name, tensor in weights.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise ModelError(f"{path.name} holds something else than a tensor as {name!r}", file=path.name)
    return canonical(weights)


def _is_plain(tensor: object) -> bool:
    """Return whether this is a tensor whose every value is in the file: a small file could claim an endless one."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _refusal(path: Path, said: str) -> str:
    """Say why a file is not read."""
    named = NAMED.search(said)
    if named is None:
        return (
            f"{path.name} is no checkpoint that can be read: it is damaged, or of another kind; copy it again"
        )
    return (
        f"{path.name} names {named[1]}, which could run code and is never loaded; a checkpoint may hold only tensors "
        "and plain values: get it from elsewhere, or have it exported again by the tool that made it"
    )
