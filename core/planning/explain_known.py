"""What the reasons for a plan are drawn from, and whether it was made for another dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import Fingerprint
from core.domain.geometry import permuted
from core.domain.plan import Plan
from core.planning.explain_network import Premises
from core.planning.presets import Preset
from core.planning.spacing import median_spacing, transposed_median

SAME: Final = 1e-6
"""Relative difference up to which two spacings are one."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the reasons are drawn from."""

    plan: Plan
    fingerprint: Fingerprint | None
    description: DatasetDescription | None
    preset: Preset
    is_preset_known: bool
    """Whether the plan names one of our planners; otherwise the default one is taken for comparison."""
    gpu_memory_gb: float | None
    """What the plan was made for; None where nobody recorded it."""
    is_foreign: bool
    """Whether the plan was made for another dataset."""

    @property
    def classes(self) -> int | None:
        """Entries of `labels` in dataset.json."""
        return None if self.description is None else self.description.label_set().declared

    @property
    def premises(self) -> Premises:
        """What patches and batches are compared with."""
        return Premises(self.preset, self.classes, self.gpu_memory_gb, self.is_foreign)

    @property
    def median_image(self) -> str:
        """Name the image whose size the plan has."""
        return f"the median image{' of the dataset that the plan comes from' if self.is_foreign else ''}"


def contradicts(plan: Plan, measured: Fingerprint) -> bool:
    """Whether a plan has other medians than its dataset would have, so that it was made for another one."""
    spacing, shape = plan.original_median_spacing_after_transp, plan.original_median_shape_after_transp
    forward = plan.transpose_forward
    if spacing is not None and not is_same(spacing, permuted(median_spacing(measured.spacings), forward)):
        return True
    if shape is None:
        return False
    here = transposed_median(measured.shapes_after_crop, forward)
    return any(abs(one - other) > 1 for one, other in zip(shape, here, strict=True))


def is_same(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two spacings differ by no more than rounding."""
    return all(abs(one - other) <= SAME * abs(other) for one, other in zip(first, second, strict=True))
