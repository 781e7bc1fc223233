"""What the network is to predict: one target per output, as labels or as overlapping regions."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from core.domain.labels import BACKGROUND, LabelSet, Region
from core.domain.plan import Architecture
from core.training.intensity import nearest_indices

Scales = tuple[tuple[float, ...], ...]
"""Size of each output of the network relative to the patch, per axis, highest resolution first."""


def deep_supervision_scales(architecture: Architecture) -> Scales:
    """Derive the outputs' sizes from the encoder's strides; the bottleneck has no output. Without strides: none.

    Source:
        Engine specification B 1.7.
    """
    strides = architecture.arch_kwargs.strides
    return tuple(
        tuple(1 / prod(axis_strides) for axis_strides in zip(*strides[: stage + 1], strict=True))
        for stage in range(len(strides) - 1)
    )


def make_targets(labels_bzyx: Tensor, labels: LabelSet, scales: Scales) -> tuple[Tensor, ...]:
    """Turn the label maps of a batch into one target per output.

    Voxels outside the image count as background, also where a dataset has an ignore label.

    Args:
        labels_bzyx: Label values, -1 outside; (b, y, x) in 2D.
        labels: What the network tells apart.
        scales: One row per output; none: a single output of the size of the patch.

    Returns:
        Per output, labels (b, 1, z, y, x); with regions booleans (b, r, z, y, x), one channel per region
        and a last one that marks the ignore label if there is one.

    Source:
        Engine specification B 2.4 (13, 15, 16), B 2.4.16, B 2.4.17, B 2.5.
    """
    annotated_bzyx = labels_bzyx.clamp(min=BACKGROUND)
    full_size = (1.0,) * (labels_bzyx.dim() - 1)
    shrunken = [_shrunken(annotated_bzyx, scale) for scale in scales or (full_size,)]
    if not labels.has_regions:
        return tuple(target_bzyx.unsqueeze(1) for target_bzyx in shrunken)
    channels: list[Region] = [*labels.heads, *([] if labels.ignore is None else [labels.ignore])]
    return tuple(
        torch.stack([_is_in(target_bzyx, region) for region in channels], dim=1) for target_bzyx in shrunken
    )


def _shrunken(labels_bzyx: Tensor, scale: Sequence[float]) -> Tensor:
    """Take the nearest voxels of a coarser grid."""
    for axis, factor in enumerate(scale, start=1):
        size = labels_bzyx.shape[axis]
        small = round(size * factor)
        if small != size:
            kept = torch.from_numpy(nearest_indices(size, small)).to(labels_bzyx.device)
            labels_bzyx = labels_bzyx.index_select(axis, kept)
    return labels_bzyx


def _is_in(labels_bzyx: Tensor, region: Region) -> Tensor:
    """Mark the voxels whose label belongs to a region."""
    members = (region,) if isinstance(region, int) else region
    inside_bzyx = torch.zeros_like(labels_bzyx, dtype=torch.bool)
    for member in members:
        inside_bzyx |= labels_bzyx == member
    return inside_bzyx
