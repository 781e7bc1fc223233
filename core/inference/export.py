"""Logits on the network's grid → label map on the image's grid; logits on that grid never exist as a whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation
from torch import Tensor

from core.domain.geometry import permuted
from core.domain.labels import BACKGROUND, LabelSet
from core.domain.plan import Configuration, Plan
from core.errors import ModelError
from core.io.case_store import CaseProperties
from core.io.image import FloatArray, LabelArray
from core.preprocessing.crop import slices, uncropped
from core.preprocessing.operators import taps
from core.preprocessing.resample import (
    RESAMPLINGS,
    Grid,
    Regridding,
    interpolated_rows,
    value_range,
)

SLAB_BYTES = 1 << 26
"""Interpolated logits at hand at a time, float32."""

LINEAR = 1
"""Highest order whose interpolated values are weighted means of their neighbours."""

CONFIDENT = 0.5
"""Probability above which a region is painted; Engine specification A 8.3."""

FEWEST_FOR_16_BITS = 255
"""Foreground labels from which a label map needs 16 bits; Engine specification A 4.8."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The neighbours that positions of the image's grid have on the network's, and their weights."""

    indices: Tensor
    """(m, 1) where samples are copied, (m, 2) where they are interpolated along one axis, (m, 4) two."""
    weights: Tensor
    """float32, of the same shape."""

    @property
    def is_pair(self) -> bool:
        """Whether there is interpolation at all."""
        return self.indices.shape[1] > 1


def segmentation_from_logits(
    logits_kzyx: FloatArray | Tensor,
    properties: CaseProperties,
    plan: Plan,
    configuration: Configuration,
    labels: LabelSet,
) -> LabelArray:
    """Bring logits back to the grid of the image and decide on a label for each voxel.

    An interpolated value is a weighted mean of its neighbours. Where one class wins at all of them, it wins
    in between; only the other cells are interpolated. The result is the same, and the logits of the image's
    grid, often gigabytes, are never computed.

    Args:
        logits_kzyx: One entry per head, on the grid of the preprocessed image; a tensor is worked on where
            it lies.
        properties: What preprocessing left of the image.
        plan: Axis order.
        configuration: Spacing, and how probabilities are resampled.
        labels: What the heads stand for.

    Returns:
        Labels in the axis order of the file, uint8, or uint16 from 255 foreground labels on.

    Raises:
        ModelError: The logits do not fit the labels or the image.

    Source:
        Engine specification A 8.3, B 6.8. Equal to interpolating everything but for the rounding of ties.
    """
    logits = torch.as_tensor(logits_kzyx)
    change = way_back(logits.shape, properties, plan, configuration, labels)
    painted_zyx = decided_labels(logits, change, labels)
    whole_zyx = uncropped(painted_zyx, properties.bbox_used_for_cropping, properties.shape_before_cropping)
    return np.ascontiguousarray(whole_zyx.transpose(plan.transpose_backward))


def decided_labels(logits_kzyx: Tensor, change: Regridding, labels: LabelSet) -> LabelArray:
    """Decide on a label for each voxel of another grid, as `segmentation_from_logits` explains.

    Args:
        logits_kzyx: One entry per head, on the grid before.
        change: From grid to grid.
        labels: What the heads stand for.

    Returns:
        Labels on the new grid, uint8, or uint16 from 255 foreground labels on.
    """
    parts = (_decided if _is_linear(change) else _interpolated)(logits_kzyx, change, labels)
    codes_zyx = np.concatenate([part.cpu().numpy() for part in parts])
    is_small = len(labels.foreground) < FEWEST_FOR_16_BITS
    painted_zyx: LabelArray = _painted(codes_zyx, labels)
    return painted_zyx.astype(np.uint8 if is_small else np.uint16, copy=False)


def probabilities_from_logits(
    logits_kzyx: FloatArray | Tensor,
    properties: CaseProperties,
    plan: Plan,
    configuration: Configuration,
    labels: LabelSet,
) -> FloatArray:
    """Bring logits back to the grid of the image, as probabilities.

    Args:
        logits_kzyx: One entry per head, on the grid of the preprocessed image.
        properties: What preprocessing left of the image.
        plan: Axis order.
        configuration: Spacing, and how probabilities are resampled.
        labels: What the heads stand for.

    Returns:
        float32 (k, z, y, x) in the axis order of the file; outside the crop, background is certain.

    Raises:
        ModelError: The logits do not fit the labels or the image.

    Source:
        Engine specification A 8.2, A 8.5, B 6.8.
    """
    logits = torch.as_tensor(logits_kzyx)
    change = way_back(logits.shape, properties, plan, configuration, labels)
    whole_kzyx = np.zeros((len(logits), *properties.shape_before_cropping), dtype=np.float32)
    if not labels.has_regions:
        whole_kzyx[BACKGROUND] = 1
    crop_kzyx = whole_kzyx[(slice(None), *slices(properties.bbox_used_for_cropping))]
    for rows, slab in _logit_slabs(logits, change):
        probabilities = slab.sigmoid() if labels.has_regions else slab.softmax(0)
        crop_kzyx[:, rows] = probabilities.numpy()
    return whole_kzyx.transpose(0, *(axis + 1 for axis in plan.transpose_backward))


def way_back(
    logits_shape: Sequence[int],
    properties: CaseProperties,
    plan: Plan,
    configuration: Configuration,
    labels: LabelSet,
) -> Regridding:
    """Decide how logits get back to the grid of the cropped image.

    Raises:
        ModelError: There is not one logit per head, or the plan's resampling cannot reach the image's grid.
    """
    heads, z, y, x = logits_shape
    if heads != len(labels.heads):
        raise ModelError(
            f"the network has {heads} heads but dataset.json declares {len(labels.heads)}: "
            f"{', '.join(labels.names)}; use the dataset.json that the model was trained with"
        )
    spacing = permuted(properties.spacing, plan.transpose_forward)
    source = Grid((z, y, x), configuration.target_spacing(spacing))
    target = Grid(properties.shape_after_cropping_and_before_resampling, spacing)
    name = configuration.resampling_fn_probabilities
    change = RESAMPLINGS.get(name)(source, target, configuration.resampling_fn_probabilities_kwargs)
    if change.target != target.shape:
        raise ModelError(
            f"{name} leaves logits of {source.shape} voxels as they are but the image has {target.shape}; "
            "name another function as resampling_fn_probabilities in plans.json"
        )
    return change


def _painted(codes_zyx: LabelArray, labels: LabelSet) -> LabelArray:
    """Return the label value of each code: a head is its label; a region has the value it is painted with."""
    if labels.region_labels is None:
        return codes_zyx
    painted_zyx: LabelArray = np.array((BACKGROUND, *labels.region_labels))[codes_zyx]
    return painted_zyx


def _codes(logits: Tensor, labels: LabelSet, dim: int) -> Tensor:
    """Decide each voxel: the first largest logit, or the last region whose probability exceeds one half.

    A region painted later covers those before it, so that the last one is all that is seen.

    Args:
        logits: float32, heads along `dim`.
        labels: What the heads stand for.
        dim: Axis of the heads.

    Returns:
        The head, or with regions one more than it and 0 for none; without the axis of the heads.

    Source:
        Engine specification A 8.3.
    """
    dtype = torch.uint8 if len(labels.heads) < FEWEST_FOR_16_BITS else torch.int16
    if not labels.has_regions:
        return logits.max(dim).indices.to(dtype)
    shape = [1] * logits.ndim
    shape[dim] = -1
    ranks = torch.arange(1, logits.shape[dim] + 1, dtype=dtype, device=logits.device).reshape(shape)
    return ((logits.sigmoid() > CONFIDENT) * ranks).amax(dim)


def _is_linear(change: Regridding) -> bool:
    """Whether every interpolated value is a weighted mean of its neighbours."""
    return all(line.before == line.after or line.order <= LINEAR for line in map(change.line, range(3)))


def _slabs(change: Regridding, heads: int) -> Iterator[slice]:
    """Cut the new grid into slabs of slices z that need, or hold, a bounded number of logits."""
    slice_bytes = 4 * heads * max(prod(change.source[1:]), prod(change.target[1:]))
    length = change.target[0]
    count = max(1, SLAB_BYTES // slice_bytes)
    for start in range(0, length, count):
        yield slice(start, min(start + count, length))


def _logit_slabs(logits_kzyx: Tensor, change: Regridding) -> Iterator[tuple[slice, Tensor]]:
    """Interpolate all logits, slab by slab (k, z, y, x)."""
    whole_kzyx = logits_kzyx.float().cpu().numpy()
    within = value_range(whole_kzyx, change)
    for rows in _slabs(change, len(whole_kzyx)):
        yield rows, torch.from_numpy(interpolated_rows(whole_kzyx, change, within, rows))


def _interpolated(logits_kzyx: Tensor, change: Regridding, labels: LabelSet) -> Iterator[Tensor]:
    """Decide each voxel by its interpolated logits, slab by slab; right for every order."""
    for _, slab_kzyx in _logit_slabs(logits_kzyx, change):
        yield _codes(slab_kzyx, labels, 0)


def _decided(logits_kzyx: Tensor, change: Regridding, labels: LabelSet) -> Iterator[Tensor]:
    """Decide each voxel, slice by slice, interpolating within a slice only where its neighbours disagree."""
    across, *within = (_ends(change, axis, logits_kzyx.device) for axis in range(3))
    plane = _plane(change.source[2], *within)
    held: dict[int, Tensor] = {}
    for indices, weights in zip(across.indices.tolist(), across.weights.tolist(), strict=True):
        held = {index: held[index] if index in held else _pixels(logits_kzyx, index) for index in indices}
        logits_vk = held[indices[0]]
        if len(indices) > 1:
            logits_vk = torch.lerp(logits_vk, held[indices[1]], weights[1])
        codes_yx = _codes(logits_vk, labels, 1).reshape(change.source[1:])
        decided_yx = _at_first_ends(codes_yx, within)
        undecided = _at_first_ends(_disagreeing(codes_yx, within), within).reshape(-1).nonzero()[:, 0]
        neighbours, shares = (
            plane.indices.index_select(0, undecided),
            plane.weights.index_select(0, undecided),
        )
        values_vk = F.embedding_bag(neighbours, logits_vk, mode="sum", per_sample_weights=shares)
        decided_yx.view(-1)[undecided] = _codes(values_vk, labels, 1)
        yield decided_yx[None]


def _pixels(logits_kzyx: Tensor, z: int) -> Tensor:
    """Return one slice with the logits of each pixel side by side, float32 (v, k)."""
    return logits_kzyx[:, z].flatten(1).t().contiguous().float()


def _ends(change: Regridding, axis: int, device: torch.device) -> Ends:
    """Return the neighbours along one axis as tensors."""
    line = change.line(axis)
    known = taps(line.before, line.after, min(line.order, LINEAR))
    indices, weights = np.ascontiguousarray(known.indices.T), np.ascontiguousarray(known.weights.T)
    return Ends(torch.from_numpy(indices).to(device), torch.from_numpy(weights).to(device, torch.float32))


def _plane(columns: int, along_y: Ends, along_x: Ends) -> Ends:
    """Combine two axes: flat indices into a slice of so many columns, and the products of the weights."""
    indices = along_y.indices[:, None, :, None] * columns + along_x.indices[None, :, None, :]
    weights = along_y.weights[:, None, :, None] * along_x.weights[None, :, None, :]
    return Ends(indices.flatten(2).flatten(0, 1), weights.flatten(2).flatten(0, 1))


def _disagreeing(codes_yx: Tensor, within: Sequence[Ends]) -> Tensor:
    """Mark pixels that do not all agree with the next ones along the interpolated axes."""
    lowest = highest = codes_yx
    for axis, ends in enumerate(within):
        if ends.is_pair:
            count = codes_yx.shape[axis]
            following = torch.arange(1, count + 1, device=codes_yx.device).clamp_(max=count - 1)
            lowest = torch.minimum(lowest, lowest.index_select(axis, following))
            highest = torch.maximum(highest, highest.index_select(axis, following))
    return lowest != highest


def _at_first_ends(values_yx: Tensor, within: Sequence[Ends]) -> Tensor:
    """Copy the value at the first neighbour to every pixel of the image's grid."""
    for axis, ends in enumerate(within):
        values_yx = values_yx.index_select(axis, ends.indices[:, 0])
    return values_yx
