"""Layouts of dataset folders, how one is turned into nnU-Net v2's, and what came of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from core.domain.dataset import DatasetProblem
from core.domain.record import Record


class Layout(StrEnum):
    """How a dataset folder is arranged."""

    V2 = "nnU-Net v2"
    V1 = "nnU-Net v1"
    DECATHLON = "Medical Segmentation Decathlon"


OLDER_LAYOUTS: Final = (Layout.V1, Layout.DECATHLON)
"""What can be converted."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How to convert."""

    link: bool = False
    """Whether a file that stays as it is gets a second name where the disk allows it, instead of a copy. Who
    then changes the one in place changes the other."""
    partly: bool = False
    """Whether to convert the other cases if some cannot be."""
    further_cases: bool = True
    """Whether to convert test images too; no training reads them."""
    workers: int | None = None
    """Files at a time; None: up to four."""


class Conversion(Record):
    """What a conversion did, or why it did nothing."""

    version: Literal[1] = 1
    layout: Layout
    """What the dataset was."""
    cases: int
    """Training cases that could be converted."""
    further_cases: int
    problems: tuple[DatasetProblem, ...]
    """Why cases are missing."""
    notes: tuple[DatasetProblem, ...]
    """What deserves a look."""
