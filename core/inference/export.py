"""Logits on the network's grid → label map on the image's grid; logits on that grid never exist as a whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor

from core.domain.geometry import Box, Shape, permuted
from core.domain.labels import LabelSet
from core.domain.plan import Configuration, Plan
from core.errors import ModelError
from core.inference.decision import (
    codes,
    codes_of_probabilities,
    entropy,
    label_type,
    painted,
    probabilities_of,
)
from core.inference.rows import Rows, Slices, along, is_linear, row_slabs, slab_order
from core.inference.shortcut import decided_rows
from core.inference.slabs import Slab
from core.io.case_store import CaseProperties
from core.io.image import FloatArray, LabelArray
from core.io.probabilities import KeepPart
from core.preprocessing.crop import slices
from core.preprocessing.resample import RESAMPLINGS, Grid, Regridding


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted beside the label map."""

    probabilities: KeepPart | None = None
    """Told of the parts of the crop, in the axis order of the file; outside it, background is certain."""
    uncertainty: bool = False
    """Whether logits come with the mean probabilities of all passes behind them, one more per head."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of logits, in the axis order of the file."""

    labels_zyx: LabelArray
    """uint8, or uint16 from 255 foreground labels on."""
    uncertainty_zyx: FloatArray | None = None
    """0 to 1; see `core.inference.decision.entropy`."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Logits of one model on their way to the image's grid."""

    slabs: Iterator[Slab]
    change: Regridding
    """In the order of the slabs."""
    file_axes: tuple[int, int, int]
    """Which axis of the file each axis of a slab is."""
    shape: Shape
    """Of the image, in the axis order of the file, as the box."""
    box: Box

    @property
    def is_turned(self) -> bool:
        """Whether the two axes of a slice come in the other order than in the file."""
        return self.file_axes[1] > self.file_axes[2]


def stream(
    slabs: Iterator[Slab],
    axis: int,
    change: Regridding,
    properties: CaseProperties,
    plan: Plan,
) -> Stream:
    """Describe how slabs of logits get to the image's grid.

    Args:
        slabs: On the grid of the preprocessed image.
        axis: Along which they follow each other.
        change: From `way_back`.
        properties: What preprocessing left of the image.
        plan: Axis order.
    """
    backward = plan.transpose_backward
    z, y, x = (properties.bbox_used_for_cropping[axis] for axis in backward)
    return Stream(
        slabs=slabs,
        change=along(change, axis),
        file_axes=permuted(plan.transpose_forward, slab_order(axis)),
        shape=permuted(properties.shape_before_cropping, backward),
        box=(z, y, x),
    )


def exported(streams: Sequence[Stream], labels: LabelSet, wanted: Wanted) -> Exported:
    """Bring logits to the grid of the image and decide on a label for each voxel, row by row as they come.

    Args:
        streams: One per model, whose rows follow each other along the same axis of the file. Of several, the
            probabilities are averaged.
        labels: What the heads stand for.
        wanted: What else to keep.

    Raises:
        ModelError: A logit is not finite.

    Source:
        Engine specification A 8.3, A 8.5, B 6.8, B 7.1.
    """
    first = streams[0]
    if any(other.box != first.box or other.file_axes[0] != first.file_axes[0] for other in streams):
        raise AssertionError("what is cropped depends on the image alone, and rows follow one axis")
    labels_zyx = np.zeros(first.shape, label_type(labels))
    uncertainty_zyx = np.zeros(first.shape, np.float32) if wanted.uncertainty else None
    crop_spq = np.moveaxis(labels_zyx[slices(first.box)], first.file_axes[0], 0)
    if len(streams) == 1 and wanted == Wanted() and is_linear(first.change):
        for row, codes_pq in zip(count(), _shortcut(first, labels), strict=False):
            crop_spq[row] = painted(codes_pq.cpu().numpy(), labels)
        return Exported(labels_zyx)
    for rows, codes_spq, unsure_spq in _merged(streams, labels, wanted):
        crop_spq[rows] = painted(codes_spq.numpy(), labels)
        if uncertainty_zyx is not None and unsure_spq is not None:
            np.moveaxis(uncertainty_zyx[slices(first.box)], first.file_axes[0], 0)[rows] = unsure_spq.numpy()
    return Exported(labels_zyx, uncertainty_zyx)


def _shortcut(one: Stream, labels: LabelSet) -> Iterator[Tensor]:
    """Decide row by row without interpolating all logits, in the axis order of the file."""
    peeked = next(one.slabs)
    device = peeked.logits_kspq.device

    def again() -> Iterator[Slab]:
        yield peeked
        yield from one.slabs

    for codes_pq in decided_rows(Slices(again()), one.change, labels, device):
        yield codes_pq.t() if one.is_turned else codes_pq


def _merged(
    streams: Sequence[Stream], labels: LabelSet, wanted: Wanted
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Yield rows with their codes and, where wanted, how unsure they are; tell of probabilities meanwhile."""
    readers = [Rows(each.slabs, each.change) for each in streams]
    heads, axis = len(labels.heads), streams[0].file_axes[0]
    widest = max(streams, key=lambda each: np.prod(each.change.source[1:]))
    for rows in row_slabs(widest.change, 2 * heads if wanted.uncertainty else heads):
        values = [_rows_of_file(reader, each, rows) for reader, each in zip(readers, streams, strict=True)]
        codes_spq = codes(values[0][:heads], labels, 0)
        if len(values) > 1 or wanted.probabilities is not None:
            mean_kspq = _mean([probabilities_of(each[:heads], labels, 0) for each in values])
        if len(values) > 1:
            codes_spq = codes_of_probabilities(mean_kspq, labels, 0)
        if wanted.probabilities is not None:
            place = [slice(low, high) for low, high in streams[0].box]
            begin = place[axis].start
            place[axis] = slice(begin + rows.start, begin + rows.stop)
            wanted.probabilities((place[0], place[1], place[2]), np.moveaxis(mean_kspq.numpy(), 1, 1 + axis))
        unsure_spq = entropy(_mean([each[heads:] for each in values]), labels) if wanted.uncertainty else None
        yield rows, codes_spq, unsure_spq


def _rows_of_file(reader: Rows, one: Stream, rows: slice) -> Tensor:
    """Return interpolated rows, the axes of a slice in the order of the file."""
    values_kspq = torch.from_numpy(reader.take(rows))
    return values_kspq.transpose(2, 3).contiguous() if one.is_turned else values_kspq


def _mean(parts: Sequence[Tensor]) -> Tensor:
    """Average over models, in their order."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total / len(parts) if len(parts) > 1 else total


def way_back(
    logits_shape: Sequence[int],
    properties: CaseProperties,
    plan: Plan,
    configuration: Configuration,
    labels: LabelSet,
) -> Regridding:
    """Decide how logits get back to the grid of the cropped image.

    Args:
        logits_shape: Heads, then voxels on the grid of the preprocessed image.
        properties: What preprocessing left of the image.
        plan: Axis order.
        configuration: Spacing, and how probabilities are resampled.
        labels: What the heads stand for.

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


def decided_labels(logits_kzyx: Tensor, change: Regridding, labels: LabelSet) -> LabelArray:
    """Decide on a label for each voxel of another grid.

    Args:
        logits_kzyx: One entry per head, on the grid before.
        change: From grid to grid.
        labels: What the heads stand for.

    Returns:
        Labels on the new grid, uint8, or uint16 from 255 foreground labels on.
    """
    z, y, x = change.target
    one = Stream(iter([Slab(0, logits_kzyx)]), change, (0, 1, 2), change.target, ((0, z), (0, y), (0, x)))
    return exported([one], labels, Wanted()).labels_zyx
