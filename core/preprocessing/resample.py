"""Images and label maps from one grid to another, an anisotropic axis apart where the rule says so."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from core.domain.geometry import Shape, Spacing
from core.domain.resampling import (
    ANISOTROPY_RATIO,
    SimpleTensorArguments,
    SplineArguments,
    TensorArguments,
    checked,
)
from core.extensions import Group
from core.io.image import FloatArray, LabelArray
from core.preprocessing.operators import (
    COPYING,
    LINEAR,
    TENSOR_LINEAR,
    TENSOR_NEAREST,
    TENSOR_NEAREST_EXACT,
    Line,
    interpolate_axis,
)
from core.preprocessing.vote import (
    LARGEST_ABOVE_HALF,
    LARGEST_WITH_HALF,
    STRONGEST,
    STRONGEST_IN_HALVES,
    Rule,
    copied_labels,
    vote,
    vote_across_slices,
    vote_of_splines,
)
from core.registry import Registry

WITH_TWO_NEIGHBOURS = frozenset({LINEAR, TENSOR_LINEAR})
"""Orders of which every value is a mean of two neighbours per axis."""

TENSOR_MODES = {"linear": TENSOR_LINEAR, "nearest-exact": TENSOR_NEAREST_EXACT, "nearest": TENSOR_NEAREST}
"""PyTorch's modes by name."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where voxels lie, as far as interpolation must know."""

    shape: Shape
    spacing: Spacing


@dataclass(frozen=True, slots=True)
class Regridding:
    """How values get from one grid to another."""

    source: Shape
    target: Shape
    order: int
    """Of the spline, or a kind of PyTorch's; within slices where an axis is apart."""
    apart: int | None
    """The axis that is interpolated after the other two, or None."""
    order_apart: int
    rule: Rule = STRONGEST
    """How a label is chosen among those around."""

    @property
    def is_identity(self) -> bool:
        """Whether the grids have the same shape, so that nothing is computed."""
        return self.source == self.target

    @property
    def joint_axes(self) -> tuple[int, ...]:
        """The axes that are interpolated together, those that shrink first because it is cheapest."""
        axes = (axis for axis in range(3) if axis != self.apart)
        return tuple(sorted(axes, key=lambda axis: self.target[axis] / self.source[axis]))

    @property
    def within_slices(self) -> Shape:
        """The shape before the separate axis is interpolated; the new shape where none is apart."""
        z, y, x = (self.source[axis] if axis == self.apart else self.target[axis] for axis in range(3))
        return (z, y, x)

    def line(self, axis: int) -> Line:
        """Return what is interpolated along one axis."""
        order = self.order_apart if axis == self.apart else self.order
        return Line.whole(self.source[axis], self.target[axis], order)


@dataclass(frozen=True, slots=True)
class ValueRange:
    """What interpolated values are kept within: the range of each channel, or of each of its slices."""

    low_czyx: FloatArray
    high_czyx: FloatArray


Resampling = Callable[[Grid, Grid, Mapping[str, Any]], Regridding]
"""What a plan names: grid before, grid after, the plan's keyword arguments → what is to be done."""

RESAMPLINGS: Registry[Resampling] = Registry("resampling function", Group.RESAMPLING)


def separate_axis(
    source: Sequence[float],
    target: Sequence[float],
    force: bool | None,  # noqa: FBT001 - the plan's force_separate_z
    threshold: float = ANISOTROPY_RATIO,
) -> int | None:
    """Decide whether one axis is so coarse that it is interpolated apart from the others.

    A spline across thick slices would invent what lies between them.

    Args:
        source: Spacing before, in millimetres, (z, y, x).
        target: Spacing after.
        force: The plan's decision; None to decide by the spacings.
        threshold: From which ratio on spacings are anisotropic.

    Returns:
        The axis, or None where all three are interpolated together.

    Source:
        Engine specification A 6.5.
    """
    if force is False:
        return None
    if force or max(source) / min(source) > threshold:
        return _coarsest(source)
    return _coarsest(target) if max(target) / min(target) > threshold else None


@RESAMPLINGS.register("resample_data_or_seg_to_shape", "resample_data_or_seg_to_spacing")
def by_splines(source: Grid, target: Grid, arguments: Mapping[str, Any]) -> Regridding:
    """Interpolate by splines; labels by the strongest indicator.

    Raises:
        PlanError: The arguments are none that this function takes.
    """
    return _regridding(source, target, checked(arguments, SplineArguments))


@RESAMPLINGS.register("resample_labels_by_threshold")
def by_threshold(source: Grid, target: Grid, arguments: Mapping[str, Any]) -> Regridding:
    """Interpolate by splines; labels by the rule of batchgenerators up to 0.25.3, for models trained with it.

    Raises:
        PlanError: The arguments are none that this function takes.
    """
    return replace(_regridding(source, target, checked(arguments, SplineArguments)), rule=LARGEST_WITH_HALF)


@RESAMPLINGS.register("resample_torch_fornnunet")
def as_tensors(source: Grid, target: Grid, arguments: Mapping[str, Any]) -> Regridding:
    """Interpolate linearly as PyTorch does; where an axis is apart, it is by default copied.

    Raises:
        PlanError: The arguments are none that this function takes.

    Source:
        Engine specification A 6.8.
    """
    given = checked(arguments, TensorArguments)
    apart = separate_axis(
        source.spacing, target.spacing, given.force_separate_z, given.separate_z_anisotropy_threshold
    )
    return Regridding(
        source.shape,
        target.shape,
        order=TENSOR_LINEAR if apart is None else TENSOR_MODES[given.mode],
        apart=apart,
        order_apart=TENSOR_MODES[given.aniso_axis_mode],
        rule=_tensor_rule(memory_efficient=given.memefficient_seg_resampling),
    )


@RESAMPLINGS.register("resample_torch_simple")
def as_tensors_together(source: Grid, target: Grid, arguments: Mapping[str, Any]) -> Regridding:
    """Interpolate all axes together as PyTorch does.

    Raises:
        PlanError: The arguments are none that this function takes.

    Source:
        Engine specification A 6.8.
    """
    given = checked(arguments, SimpleTensorArguments)
    order = TENSOR_MODES[given.mode]
    rule = _tensor_rule(memory_efficient=given.memefficient_seg_resampling)
    return Regridding(source.shape, target.shape, order, apart=None, order_apart=order, rule=rule)


@RESAMPLINGS.register("no_resampling_hack")
def unchanged(source: Grid, _target: Grid, _arguments: Mapping[str, Any]) -> Regridding:
    """Keep the grid that the image came on."""
    return Regridding(source.shape, source.shape, order=0, apart=None, order_apart=0)


def value_range(voxels_czyx: FloatArray, change: Regridding) -> ValueRange:
    """Measure what interpolated values must stay within, because splines overshoot.

    Source:
        Engine specification A 6.6: the range of the array that is interpolated at once.
    """
    axes = tuple(axis + 1 for axis in change.joint_axes)
    return ValueRange(voxels_czyx.min(axes, keepdims=True), voxels_czyx.max(axes, keepdims=True))


def interpolated_rows(
    voxels_czyx: FloatArray, change: Regridding, within: ValueRange, rows: slice
) -> FloatArray:
    """Compute some slices z of an image on the new grid, so that the whole need never exist.

    Args:
        voxels_czyx: The whole image on the old grid.
        change: From grid to grid.
        within: The image's value range.
        rows: Slices z of the new grid.

    Returns:
        float32, as many slices as `rows`.

    Source:
        Engine specification A 6.6.
    """
    across = change.line(0).slab(rows)
    values_czyx = voxels_czyx[:, across.given]
    low_czyx, high_czyx = within.low_czyx, within.high_czyx
    if change.apart == 0:
        low_czyx, high_czyx = low_czyx[:, across.given], high_czyx[:, across.given]
    for axis in change.joint_axes:
        values_czyx = interpolate_axis(values_czyx, axis, across if axis == 0 else change.line(axis))
    values_czyx = np.clip(values_czyx, low_czyx, high_czyx)
    if change.apart is None:
        return values_czyx
    return interpolate_axis(
        values_czyx, change.apart, across if change.apart == 0 else change.line(change.apart)
    )


def regrid_image(voxels_czyx: FloatArray, change: Regridding) -> FloatArray:
    """Interpolate every channel onto another grid.

    Args:
        voxels_czyx: The image.
        change: From grid to grid.

    Returns:
        float32; the input itself where the shape stays.

    Source:
        Engine specification A 6.6.
    """
    if change.is_identity:
        return voxels_czyx
    regridded_czyx = np.empty((len(voxels_czyx), *change.target), dtype=np.float32)
    for channel in range(len(voxels_czyx)):
        only = slice(channel, channel + 1)
        within = value_range(voxels_czyx[only], change)
        regridded_czyx[only] = interpolated_rows(
            voxels_czyx[only], change, within, slice(0, change.target[0])
        )
    return regridded_czyx


def regrid_labels(labels_zyx: LabelArray, change: Regridding) -> LabelArray:
    """Interpolate a label map onto another grid; every value is a label, -1 too.

    Args:
        labels_zyx: The label map.
        change: From grid to grid.

    Returns:
        The same integer type; the input itself where the shape stays.

    Source:
        Engine specification A 6.7.
    """
    if change.is_identity:
        return labels_zyx
    shape, order = change.within_slices, change.order
    if order in COPYING:
        regridded_zyx = copied_labels(labels_zyx, shape, order)
    elif order in WITH_TWO_NEIGHBOURS:
        regridded_zyx = vote(labels_zyx, shape, change.rule, order)
    else:
        regridded_zyx = vote_of_splines(labels_zyx, shape, change.rule, order)
    if change.apart is None or change.order_apart in COPYING:
        return copied_labels(regridded_zyx, change.target, change.order_apart)
    if change.order_apart == TENSOR_LINEAR:
        return vote(regridded_zyx, change.target, change.rule, TENSOR_LINEAR)
    return vote_across_slices(regridded_zyx, change.target, change.order_apart)


def resample_image(
    voxels_czyx: FloatArray,
    new_shape: Shape,
    source_spacing: Spacing,
    target_spacing: Spacing,
    arguments: SplineArguments,
) -> FloatArray:
    """Interpolate every channel onto a grid of another shape; spacings decide which axis is kept apart."""
    source = Grid(_shape(voxels_czyx.shape[1:]), source_spacing)
    return regrid_image(voxels_czyx, _regridding(source, Grid(new_shape, target_spacing), arguments))


def resample_labels(
    labels_zyx: LabelArray,
    new_shape: Shape,
    source_spacing: Spacing,
    target_spacing: Spacing,
    arguments: SplineArguments,
) -> LabelArray:
    """Interpolate a label map onto a grid of another shape; spacings decide which axis is kept apart."""
    source = Grid(_shape(labels_zyx.shape), source_spacing)
    return regrid_labels(labels_zyx, _regridding(source, Grid(new_shape, target_spacing), arguments))


def _regridding(source: Grid, target: Grid, arguments: SplineArguments) -> Regridding:
    """Decide what is to be done from one grid to another by splines."""
    apart = separate_axis(
        source.spacing, target.spacing, arguments.force_separate_z, arguments.separate_z_anisotropy_threshold
    )
    return Regridding(source.shape, target.shape, arguments.order, apart, arguments.order_z)


def _tensor_rule(*, memory_efficient: bool) -> Rule:
    """Return how the functions made for PyTorch choose a label."""
    return LARGEST_ABOVE_HALF if memory_efficient else STRONGEST_IN_HALVES


def _shape(counts: Sequence[int]) -> Shape:
    """Return voxel counts as a triple."""
    z, y, x = counts
    return (z, y, x)


def _coarsest(spacing: Sequence[float]) -> int | None:
    """Return the one axis that is coarser than the others; None where two or three share the maximum."""
    axes = [axis for axis in range(3) if spacing[axis] == max(spacing)]
    return axes[0] if len(axes) == 1 else None
