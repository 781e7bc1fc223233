"""What a training took over from a network that was trained before: which tensors, which not, and why."""

from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import Field

from core.domain.problems import counted
from core.domain.record import Record

PRETRAINED_FILE = "pretrained.json"
"""The record's name, beside a fold's weights."""

Reason = Literal["head", "shape", "missing"]
"""A head, which belongs to the labels; another shape; not among the weights."""


class TensorLeft(Record):
    """A tensor of the network that keeps its fresh values."""

    name: str
    reason: Reason
    shape: tuple[int, ...]
    """In the network."""
    source_shape: tuple[int, ...] | None = None
    """Among the weights, where it is there."""


class WeightsSource(Record):
    """Which weights a training began with."""

    name: str
    """Model folder, fold and file."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the file, by which it is known wherever it lies."""


class PretrainedRecord(Record):
    """pretrained.json: where the weights that a training began with come from."""

    version: Literal[1] = 1
    source: WeightsSource
    taken: tuple[str, ...]
    """Tensors that have the values of the source."""
    left: tuple[TensorLeft, ...]
    """All others of the network."""
    unused: tuple[str, ...]
    """Tensors of the source that the network has no use for."""

    def summary(self) -> tuple[str, str]:
        """Say in two lines what was taken, and what not."""
        groups: dict[Reason, list[TensorLeft]] = {}
        for tensor in self.left:
            groups.setdefault(tensor.reason, []).append(tensor)
        parts = [_said(reason, groups[reason]) for reason in get_args(Reason) if reason in groups]
        return (
            f"pretrained: {len(self.taken)} of {len(self.taken) + len(self.left)} tensors come from {self.source.name}",
            f"not taken: {'; '.join(parts) or 'none'}",
        )


def _said(reason: Reason, left: Sequence[TensorLeft]) -> str:
    """Say how many tensors keep their fresh values for one reason, with an example."""
    first = left[0]
    if reason == "head":
        return f"{counted(len(left), 'tensor')} of heads, which belong to the labels"
    if first.source_shape is None:
        return f"{len(left)} missing there, such as {first.name}"
    return (
        f"{len(left)} of another shape, such as {first.name} ({_shape(first.shape)}, there "
        f"{_shape(first.source_shape)})"
    )


def _shape(sizes: Sequence[int]) -> str:
    """Write a shape."""
    return "x".join(map(str, sizes)) or "one number"
