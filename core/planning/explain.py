"""Why a plan is what it is: a sentence for each decision, from the plan and what else is known of the dataset."""

from collections.abc import Iterator
from math import prod
from typing import Final

from core.domain.dataset import DatasetDescription
from core.domain.explanation import Decision, Explanation
from core.domain.fingerprint import Fingerprint
from core.domain.geometry import Shape, Spacing
from core.domain.plan import Configuration, ConfigurationName, Plan
from core.planning.explain_known import Known, contradicts
from core.planning.explain_network import (
    FROM_SOURCE,
    added_network,
    batch_reason,
    dice_reason,
    network_decisions,
    patch_reason,
)
from core.planning.explain_spacing import axes_reason, spacing_reason
from core.planning.normalization import CROPPED_MUCH, DEFAULT_SCHEME, SCHEMES
from core.planning.planner import LOW_RESOLUTION_GAIN, LOW_RESOLUTION_SHARE
from core.planning.prediction_memory import prediction_memory
from core.planning.presets import PRESETS

UNKNOWN_HEADS: Final = 3
"""Logits per voxel that are assumed where dataset.json is not at hand."""


def explain(
    plan: Plan,
    *,
    fingerprint: Fingerprint | None = None,
    description: DatasetDescription | None = None,
    gpu_memory_gb: float | None = None,
    is_moved: bool = False,
    image_shape: Shape | None = None,
    image_spacing: Spacing | None = None,
) -> Explanation:
    """Give the reason of every decision in a plan.

    The rules are applied again to what the plan records, so that an entry that was changed by hand is told
    from one that the planner chose.

    Args:
        plan: Any plan, also an edited one.
        fingerprint: Of its dataset; with it, reasons have the dataset's figures.
        description: Its dataset.json; with it, they have the number of cases and the names of channels.
        gpu_memory_gb: The memory that it was planned for, which the plan does not hold; None: not known.
        is_moved: Whether it is certainly the plan of another dataset. Otherwise it is taken for one if it
            contradicts the fingerprint.
        image_shape: Voxels (z, y, x) of an image to predict, if memory is to be estimated.
        image_spacing: Its millimetres, same order; those of the plan's median case if not given.

    Raises:
        PlanError: A configuration cannot be used.
        LabelsError: dataset.json contradicts itself.

    Source:
        Engine specification A 5.
    """
    presets = {PRESETS.get(name).planner: PRESETS.get(name) for name in PRESETS}
    preset = presets.get(plan.experiment_planner_used or "")
    known = Known(
        plan,
        fingerprint,
        description,
        preset or PRESETS.get("default"),
        is_preset_known=preset is not None,
        gpu_memory_gb=gpu_memory_gb,
        is_foreign=is_moved or (fingerprint is not None and contradicts(plan, fingerprint)),
    )
    decisions = [*_dataset_decisions(known)]
    for name in plan.configurations:
        decisions += _configuration_decisions(known, name)
    labels = description.label_set() if description is not None else None
    heads = UNKNOWN_HEADS if labels is None else len(labels.heads)
    foreground = None if labels is None else len(labels.foreground)
    costs = (
        prediction_memory(plan, name, heads, image_shape, image_spacing, foreground=foreground)
        for name in plan.configurations
        if image_shape is not None and plan.configuration(name).architecture.is_unet
    )
    return Explanation(
        plans_name=plan.plans_name,
        planner=plan.experiment_planner_used or "unknown",
        decisions=tuple(decisions),
        prediction=tuple(costs),
    )


# --- what holds for all configurations -----------------------------------------------------------------------


def _dataset_decisions(known: Known) -> Iterator[Decision]:
    """Explain reader, axes, normalization, and which configurations exist."""
    plan = known.plan
    yield Decision(
        configuration=None,
        topic="planner",
        value=plan.experiment_planner_used,
        reason=_planner_reason(known),
    )
    yield Decision(
        configuration=None,
        topic="axes",
        value=list(plan.transpose_forward),
        reason=axes_reason(known),
    )
    first = next(iter(plan.configurations), None)
    if first is not None:
        yield from _normalization_decisions(known, plan.configuration(first))
    yield Decision(
        configuration=None,
        topic="configurations",
        value=list(plan.configurations),
        reason=_configurations_reason(known),
    )


def _planner_reason(known: Known) -> str:
    """Say which planner made the plan and what it aims at."""
    preset = known.preset
    if not known.is_preset_known:
        return f"the plan names no planner of this software; its figures are compared with {preset.planner}"
    network = "a residual encoder" if preset.is_residual else "a plain encoder"
    share = f"{preset.coverage:.0%}"
    return (
        f"{network}, patches and batches for a GPU with {known.premises.target}, and batches that show at most "
        f"{share} of the voxels of the dataset {'that the plan comes from' if known.is_foreign else 'planned for'}"
    )


def _normalization_decisions(known: Known, chosen: Configuration) -> Iterator[Decision]:
    """Explain the normalization of each channel."""
    names = known.description.channels if known.description is not None else ()
    for channel, (scheme, masked) in enumerate(
        zip(chosen.normalization_schemes, chosen.use_mask_for_norm, strict=True)
    ):
        name = names[channel] if channel < len(names) else None
        yield Decision(
            configuration=None,
            topic=f"normalization of channel {channel}",
            value=scheme,
            reason=_scheme_reason(known, channel, scheme, name) + _mask_reason(known, is_masked=masked),
        )


def _scheme_reason(known: Known, channel: int, scheme: str, name: str | None) -> str:
    """Say why a channel has its scheme, and what the scheme does."""
    of_source = " of the dataset that the plan comes from" if known.is_foreign else ""
    does = {
        "CTNormalization": "Hounsfield units are comparable between scanners: clipped to the range of the "
        f"foreground of all cases{of_source} and scaled by its mean and deviation",
        "ZScoreNormalization": "its intensities have no fixed scale: each image is brought to mean 0 and deviation 1",
        "NoNormalization": "intensities are left as they are",
        "RescaleTo01Normalization": "the range of each image is mapped to 0 … 1",
        "RGBTo01Normalization": "8-bit colours are divided by 255",
    }.get(scheme, "a scheme that is not built in")
    figures = known.plan.foreground_intensity_properties_per_channel.get(str(channel))
    if scheme == "CTNormalization" and figures is not None:
        does += (
            f" (clipped to {figures.percentile_00_5:.4g} … {figures.percentile_99_5:.4g}, mean "
            f"{figures.mean:.4g}, deviation {figures.std:.4g})"
        )
    if known.is_foreign:
        return f"{FROM_SOURCE}; {does}"
    if name is None:
        return does
    expected = SCHEMES.get(name.casefold(), DEFAULT_SCHEME)
    if expected != scheme:
        return f"set by hand, a channel called {name!r} would get {expected}; {does}"
    why = (
        f"it is called {name!r}"
        if name.casefold() in SCHEMES
        else f"{name!r} is no name with a scheme of its own"
    )
    return f"{why}; {does}"


def _mask_reason(known: Known, *, is_masked: bool) -> str:
    """Say whether the statistics are taken within the nonzero mask."""
    left = None if known.fingerprint is None else known.fingerprint.median_relative_size_after_cropping
    figure = "" if left is None else f" ({left:.0%} of the voxels in the median case)"
    if is_masked and known.is_foreign:
        return "; within the nonzero mask alone"
    if is_masked:
        return (
            f"; within the nonzero mask alone, because cropping leaves less than {CROPPED_MUCH:.0%}{figure}"
        )
    return ""


def _configurations_reason(known: Known) -> str:
    """Say which configurations there are, and why not the others."""
    plan, image = known.plan, known.median_image
    present = plan.configurations
    if "3d_fullres" not in present:
        if known.is_foreign:
            return FROM_SOURCE
        return "2d alone, because the images are single slices" if "2d" in present else "named by hand"
    full = plan.configuration("3d_fullres")
    share = _share(full)
    if share is None:
        return "the size of the median image is not recorded, so that nothing can be said of the cascade"
    if "3d_lowres" in present:
        low = plan.configuration("3d_lowres")
        covered = _share(low)
        sees = "" if covered is None else f", of which its patch covers {covered:.0%}"
        return (
            f"with a cascade: a patch of 3d_fullres covers only {share:.1%} of {image}, below "
            f"{LOW_RESOLUTION_SHARE:.0%}, so 3d_lowres sees a coarser image{sees}, and "
            "3d_cascade_fullres refines what it found"
        )
    if share >= LOW_RESOLUTION_SHARE:
        return (
            f"no cascade: a patch of 3d_fullres covers {share:.0%} of {image}, at least "
            f"{LOW_RESOLUTION_SHARE:.0%}, so a coarser image would show the network little more"
        )
    return (
        f"no cascade: a patch of 3d_fullres covers {share:.0%} of {image}, but an image coarse enough "
        f"for a patch to cover {LOW_RESOLUTION_SHARE:.0%} would not have {LOW_RESOLUTION_GAIN:g} times fewer "
        "voxels; or somebody took it out"
    )


# --- one configuration ---------------------------------------------------------------------------------------


def _configuration_decisions(known: Known, name: ConfigurationName) -> Iterator[Decision]:
    """Explain spacing, patch, batch, network and the rest of one configuration."""
    entries = known.plan.configurations[name]
    chosen = known.plan.configuration(name)
    parent = entries.get("inherits_from")
    if parent is not None:
        yield _inheritance(name, parent, entries)
        if not set(entries) & {"spacing", "patch_size", "batch_size", "architecture"}:
            return
    yield Decision(
        configuration=name,
        topic="spacing",
        value=list(chosen.spacing),
        reason=spacing_reason(known, name, chosen),
    )
    if not chosen.architecture.is_unet:
        yield added_network(name, chosen)
        return
    yield Decision(
        configuration=name,
        topic="patch_size",
        value=list(chosen.patch_size),
        reason=patch_reason(chosen, known.premises),
    )
    cases = None if known.description is None else known.description.training_cases
    yield Decision(
        configuration=name,
        topic="batch_size",
        value=chosen.batch_size,
        reason=batch_reason(chosen, known.premises, _dataset_voxels(known.plan, chosen, cases)),
    )
    yield from network_decisions(name, chosen)
    yield Decision(
        configuration=name,
        topic="batch_dice",
        value=chosen.batch_dice,
        reason=dice_reason(chosen),
    )


def _inheritance(name: str, parent: str, entries: dict[str, object]) -> Decision:
    """Explain a configuration that takes most from another one."""
    changed = sorted(set(entries) - {"inherits_from", "previous_stage"})
    stage = entries.get("previous_stage")
    reason = f"everything as in {parent}" + (f" but {', '.join(changed)}" if changed else "")
    if stage is not None:
        reason += f"; it sees the segmentation of {stage} beside the image, and refines it"
    return Decision(configuration=name, topic="inherits_from", value=parent, reason=reason)


# --- figures -------------------------------------------------------------------------------------------------


def _share(chosen: Configuration) -> float | None:
    """Return the share of the median image that a patch covers; None where the median is not recorded."""
    if not chosen.median_image_size_in_voxels:
        return None
    return min(1.0, prod(chosen.patch_size) / prod(chosen.median_image_size_in_voxels))


def _dataset_voxels(plan: Plan, chosen: Configuration, cases: int | None) -> float | None:
    """Return the voxels of all cases at the configuration's spacing, whole volumes even for 2d."""
    grid = chosen
    if chosen.is_2d and "3d_fullres" in plan.configurations:
        grid = plan.configuration("3d_fullres")
    if cases is None or not grid.median_image_size_in_voxels:
        return None
    return prod(grid.median_image_size_in_voxels) * cases
