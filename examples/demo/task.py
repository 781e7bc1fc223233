"""Task: what the demo trains on, and what it predicts afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

EPOCHS = 60
"""Of 25 iterations: 1500 steps are few (nnU-Net takes 250 000), yet enough to see it learn."""

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
    epochs: int = EPOCHS
    """How long to train, unless the person at the screen decides."""
