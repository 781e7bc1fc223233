"""What can be said of a plan: the reason of each decision, and what predicting with it costs."""

from pydantic import JsonValue

from core.domain.geometry import Shape
from core.domain.plan import ConfigurationName
from core.domain.record import Record


class Decision(Record):
    """One thing that the planner, or a person after it, has decided."""

    configuration: ConfigurationName | None
    """None: it holds for all."""
    topic: str
    """spacing, axes, normalization, patch_size, batch_size, network …"""
    value: JsonValue
    reason: str


class PredictionMemory(Record):
    """The expected cost of segmenting one image with one configuration."""

    configuration: ConfigurationName
    grid: Shape
    """Voxels of the image on the network's grid, padded to the patch, in transposed order."""
    tiles: int
    """Forward passes per fold, mirrorings not counted."""
    cpu_bytes: int
    """Peak memory of the process where the network computes on the processor."""
    gpu_bytes: int
    """Peak memory of the GPU, if image and sums fit there; otherwise they stay in main memory."""
    reason: str
    """What takes most of it."""


class Explanation(Record):
    """Why a plan is what it is."""

    plans_name: str
    planner: str
    decisions: tuple[Decision, ...]
    prediction: tuple[PredictionMemory, ...] = ()
    """Per configuration, where the shape of an image was given."""
