"""The grid that all cases are resampled to: target spacing, axis order, median shape, lower resolution."""

from collections.abc import Iterable, Sequence
from math import ceil, floor
from statistics import median

from core.domain.geometry import Axes, Shape, Spacing, permuted, resampled_shape
from core.errors import PlanningError

ANISOTROPY_RATIO = 3.0
"""An axis is anisotropic when it is this many times coarser, and shorter, than every other one."""

ANISOTROPIC_PERCENTILE = 10
"""Low enough to follow the thin-slice cases, high enough to ignore a single odd one."""

MEDIAN_PERCENTILE = 50
"""The percentile that is the median."""

HALF = 0.5
"""Where the nearer of two order statistics changes."""

COARSEST_MARGIN = 1e-5
"""Millimetres by which an anisotropic axis stays coarser than the others, so that it stays first."""

LOW_RESOLUTION_STEP = 1.03
"""Growth of the spacing per step towards a lower resolution."""

LOW_RESOLUTION_LAG = 2.0
"""Axes finer than the coarsest one by more than this factor are coarsened alone, until they catch up."""

IDENTITY: Axes = (0, 1, 2)
"""The axis order of the files."""


def target_spacing(spacings: Sequence[Spacing], shapes: Sequence[Shape]) -> Spacing:
    """Choose the voxel spacing that every training case is resampled to.

    The median over the cases is robust, but on thick-slice data it would blur the few cases with
    thin slices. There, the coarsest axis takes a low percentile instead; never finer, though,
    than the other axes, because interpolating slices that nobody acquired helps nothing.

    Args:
        spacings: One entry per training case, in millimetres, (z, y, x).
        shapes: Voxel counts of the same cases after cropping, (z, y, x).

    Returns:
        The target spacing in millimetres, (z, y, x).

    Raises:
        PlanningError: There is no case to learn from.

    Source:
        Engine specification A 5.2; doi:10.1038/s41592-020-01008-z, Methods, target spacing.
    """
    if not spacings:
        raise PlanningError("cannot plan without training cases; add some to the dataset")
    target = [percentile(edges, MEDIAN_PERCENTILE) for edges in zip(*spacings, strict=True)]
    coarsest = anisotropic_axis(target, shapes)
    if coarsest is not None:
        finer = max(edge for axis, edge in enumerate(target) if axis != coarsest)
        thin = percentile((spacing[coarsest] for spacing in spacings), ANISOTROPIC_PERCENTILE)
        target[coarsest] = finer + COARSEST_MARGIN if thin < finer else thin
    z, y, x = target
    return (z, y, x)


def anisotropic_axis(typical: Sequence[float], shapes: Sequence[Shape]) -> int | None:
    """Return the axis along which the images have few thick slices, if there is one.

    Args:
        typical: The median spacing in millimetres, (z, y, x).
        shapes: Voxel counts of the cases after cropping, (z, y, x).

    Source:
        Engine specification A 5.2 (2) and (3).
    """
    typical_shape = [percentile(counts, MEDIAN_PERCENTILE) for counts in zip(*shapes, strict=True)]
    coarsest = list(typical).index(max(typical))
    others = [axis for axis in IDENTITY if axis != coarsest]
    is_coarse = typical[coarsest] > ANISOTROPY_RATIO * max(typical[axis] for axis in others)
    is_short = ANISOTROPY_RATIO * typical_shape[coarsest] < min(typical_shape[axis] for axis in others)
    return coarsest if is_coarse and is_short else None


def percentile(values: Iterable[float], share: float) -> float:
    """Interpolate linearly between the two order statistics around a percentile.

    From the nearer of the two, as numpy does, so that plans agree to the last bit.
    """
    ordered = sorted(values)
    position = (len(ordered) - 1) * (share / 100)
    below, above = ordered[floor(position)], ordered[ceil(position)]
    along = position - floor(position)
    if along >= HALF:
        return float(above - (above - below) * (1 - along))
    return float(below + (above - below) * along)


def slices_first(spacing: Spacing) -> Axes:
    """Choose the axis order in which the coarsest axis is the slice axis, the first on a tie.

    Source:
        Engine specification A 5.3.
    """
    coarsest = spacing.index(max(spacing))
    first, second, third = (coarsest, *(axis for axis in IDENTITY if axis != coarsest))
    return (first, second, third)


def median_spacing(spacings: Sequence[Spacing]) -> Spacing:
    """Return the element-wise median of the spacings as acquired, in millimetres."""
    z, y, x = (float(median(edges)) for edges in zip(*spacings, strict=True))
    return (z, y, x)


def median_shape(shapes: Sequence[Shape]) -> tuple[float, float, float]:
    """Return the element-wise median of voxel counts; halves occur."""
    z, y, x = (float(median(counts)) for counts in zip(*shapes, strict=True))
    return (z, y, x)


def median_resampled_shape(
    spacings: Sequence[Spacing], shapes: Sequence[Shape], target: Spacing
) -> tuple[float, float, float]:
    """Return the median voxel counts that the cases will have at the target spacing.

    Source:
        Engine specification A 5.4.
    """
    return median_shape(
        [resampled_shape(shape, spacing, target) for spacing, shape in zip(spacings, shapes, strict=True)]
    )


def coarsened(spacing: Spacing) -> Spacing:
    """Take one step towards a lower resolution; axes that are much finer than the coarsest go first.

    Source:
        Engine specification A 5.7 (2).
    """
    coarsest = max(spacing)
    lags = [coarsest / edge > LOW_RESOLUTION_LAG for edge in spacing]
    z, y, x = (
        edge * LOW_RESOLUTION_STEP if lag or not any(lags) else edge
        for edge, lag in zip(spacing, lags, strict=True)
    )
    return (z, y, x)


def transposed_median(shapes: Sequence[Shape], axes: Axes) -> Shape:
    """Return the median shape as acquired, in the plan's axis order, rounded half to even."""
    z, y, x = (round(count) for count in permuted(median_shape(shapes), axes))
    return (z, y, x)
