"""Why voxels have the size and the axes the order that a plan gives them."""

from collections.abc import Sequence
from typing import Final

from core.domain.fingerprint import Fingerprint
from core.domain.geometry import Spacing, permuted
from core.domain.plan import Configuration, Plan
from core.planning.explain_known import Known, is_same
from core.planning.explain_network import FROM_SOURCE
from core.planning.planner import LOW_RESOLUTION_SHARE
from core.planning.spacing import (
    ANISOTROPY_RATIO,
    anisotropic_axis,
    median_spacing,
    slices_first,
    target_spacing,
)

AXES: Final = "zyx"
"""Names of the file's axes."""


def axes_reason(known: Known) -> str:
    """Say why the axes are ordered as they are."""
    forward = known.plan.transpose_forward
    names = ", ".join(AXES[axis] for axis in forward)
    full = _finest(known.plan)
    target = _file_order(known.plan, full.spacing) if full is not None and not full.is_2d else None
    expected = None if target is None else slices_first(target)
    if expected is not None and forward != expected:
        return (
            f"{names}: set by hand or kept on request; by the rule, {AXES[expected[0]]} would come first, "
            "because it is the coarsest axis"
        )
    if forward == (0, 1, 2):
        return f"{names}: as in the files, because no axis is coarser than z"
    return f"{names}: {AXES[forward[0]]} is the coarsest axis, so it takes the place of the slices"


def spacing_reason(known: Known, name: str, chosen: Configuration) -> str:
    """Say where the target spacing comes from."""
    plan = known.plan
    if name == "3d_lowres" and "3d_fullres" in plan.configurations:
        full = plan.configuration("3d_fullres")
        factor = max(low / high for low, high in zip(chosen.spacing, full.spacing, strict=True))
        return (
            f"{_mm(chosen.spacing)}: that of 3d_fullres, made coarser in steps of 3 % (up to {factor:.2f} times in "
            f"all, the finer axes first) until a patch covers {LOW_RESOLUTION_SHARE:.0%} of {known.median_image}"
        )
    if chosen.is_2d:
        return f"{_mm(chosen.spacing)} within slices; the distance of slices stays as acquired"
    median = plan.original_median_spacing_after_transp
    if known.fingerprint is not None:
        median = permuted(median_spacing(known.fingerprint.spacings), plan.transpose_forward)
    return f"{_mm(chosen.spacing)}: {_target_reason(known, chosen.spacing, median)}"


def _target_reason(known: Known, target: Sequence[float], median: Spacing | None) -> str:
    """Say which rule gave the target spacing of a 3D configuration."""
    if known.is_foreign:
        return _foreign_target_reason(known)
    if median is None:
        return "the median of the cases is not recorded"
    if known.fingerprint is not None:
        return _measured_target_reason(known, known.fingerprint, target, median)
    if is_same(target, median):
        return "the median of the training cases, axis by axis"
    is_thick = median[0] > ANISOTROPY_RATIO * max(median[1:])
    if is_thick and is_same(target[1:], median[1:]) and target[0] < median[0]:
        return (
            f"within slices the median of the cases; across them the 10th percentile instead of the median of "
            f"{median[0]:.4g} mm, because slices are more than {ANISOTROPY_RATIO:g} times as thick as voxels are "
            "wide, and blurring the cases with thin slices would lose what they show"
        )
    return f"set by hand or on request; the median of the cases is {_mm(median)}"


def _foreign_target_reason(known: Known) -> str:
    """Say where the target spacing of another dataset's plan comes from, and what would suit this one."""
    measured = known.fingerprint
    if measured is None:
        return FROM_SOURCE
    rule = permuted(
        target_spacing(measured.spacings, measured.shapes_after_crop), known.plan.transpose_forward
    )
    return f"{FROM_SOURCE}; the rule gives {_mm(rule)} for the {len(measured.spacings)} cases of this dataset"


def _measured_target_reason(
    known: Known, measured: Fingerprint, target: Sequence[float], median: Spacing
) -> str:
    """Say the same with the figures of the fingerprint."""
    forward, shapes = known.plan.transpose_forward, measured.shapes_after_crop
    cases = len(measured.spacings)
    by_rule = target_spacing(measured.spacings, shapes)
    if not is_same(target, permuted(by_rule, forward)):
        rule = _mm(permuted(by_rule, forward))
        return f"set by hand or on request; the rule gives {rule} for these {cases} cases"
    axis = anisotropic_axis(_file_order(known.plan, median), shapes)
    if axis is None:
        return f"the median of {cases} cases, axis by axis"
    edges = sorted(spacing[axis] for spacing in measured.spacings)
    return (
        f"the median of {cases} cases, but along {AXES[axis]} the 10th percentile of their spacings "
        f"({edges[0]:.4g} … {edges[-1]:.4g} mm, median {_file_order(known.plan, median)[axis]:.4g}): the slices "
        f"there are few, and more than {ANISOTROPY_RATIO:g} times as thick as voxels are wide"
    )


def _finest(plan: Plan) -> Configuration | None:
    """Return the configuration whose spacing is the dataset's target spacing."""
    name = next(
        (key for key in ("3d_fullres", "2d", *plan.configurations) if key in plan.configurations), None
    )
    return None if name is None else plan.configuration(name)


def _file_order(plan: Plan, triple: Sequence[float]) -> Spacing:
    """Return a triple in the axis order of the files."""
    return permuted(triple, plan.transpose_backward)


def _mm(spacing: Sequence[float]) -> str:
    """Write a spacing."""
    return " x ".join(f"{edge:.4g}" for edge in spacing) + " mm"
