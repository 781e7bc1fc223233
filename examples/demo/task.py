"""Task: what the demo trains on, and what it predicts afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Label = int | list[int]
"""A value, or the values of a region, as in dataset.json."""


@dataclass(frozen=True, slots=True)
class Task:
    """A zipped dataset, and a case that is not in it."""

    name: str
    dataset: Path
    """Zip for POST /datasets."""
    images: tuple[Path, ...]
    """The held-out case, one file per channel."""
    reference: Path
    file_ending: str
    """Of image, reference and segmentation."""
    labels: Mapping[str, Label]
    story: str
    """One sentence for the person at the screen."""
