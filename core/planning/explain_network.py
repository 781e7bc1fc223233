"""Why a network sees the patch and batch that it does: the budget of memory, in sentences."""

from collections.abc import Iterator
from math import prod

from core.domain.explanation import Decision
from core.domain.names import last_part
from core.domain.plan import Configuration, ConfigurationName
from core.planning.memory import (
    REFERENCE_BATCH,
    SMALLEST_BATCH,
    batch_size,
    budget,
    feature_maps,
    is_over_budget,
)
from core.planning.presets import Preset
from core.planning.topology import initial_patch, topology

ONE_PERCENT = 0.01

ASSUMED_CLASSES = 3
"""Entries of `labels` that are assumed where dataset.json is not at hand; they weigh little."""


def patch_reason(chosen: Configuration, preset: Preset, classes: int | None) -> str:
    """Say how the patch came about.

    Args:
        chosen: The configuration.
        preset: Of the planner.
        classes: Entries of `labels` in dataset.json; None where it is not at hand.
    """
    median = chosen.median_image_size_in_voxels
    if not median:
        return "the size of the median image is not recorded, so that nothing can be compared"
    start = topology(chosen.spacing, initial_patch(chosen.spacing, median)).patch_size
    share = min(1.0, prod(chosen.patch_size) / prod(median))
    covers = f"it covers {share:.0%} of the median image ({_sizes(median)} voxels)"
    spent = _spent(chosen, preset, classes)
    if chosen.patch_size == start:
        return f"{covers}; nothing had to be cut off for the memory, of which {spent}"
    if _fits(start, chosen.patch_size):
        return (
            f"{covers}; cut down from {_sizes(start)} along whichever axis covered most of the image, until the "
            f"smallest batch fits: {spent}"
        )
    return f"{covers}; set by hand, it is larger than the median image needs ({_sizes(start)}); {spent}"


def _fits(outer: tuple[int, ...], inner: tuple[int, ...]) -> bool:
    """Whether a patch lies within another one."""
    return all(edge <= limit for edge, limit in zip(inner, outer, strict=True))


def _spent(chosen: Configuration, preset: Preset, classes: int | None) -> str:
    """Say how much of the budget the smallest batch takes."""
    dimensions = len(chosen.patch_size)
    limit = budget(preset, dimensions, None)
    cost = _cost(chosen, classes)
    batch = REFERENCE_BATCH[dimensions]
    too_large = is_over_budget(cost, limit, dimensions, patch_outranks_batch=preset.patch_outranks_batch)
    beyond = ", so it was planned for another GPU memory or edited" if too_large else ""
    share = cost / batch * SMALLEST_BATCH / limit
    part = f"about {share:.0%}" if share >= ONE_PERCENT else "less than 1%"
    return (
        f"{SMALLEST_BATCH} samples take {part} of what {preset.planner} allows for "
        f"{preset.reference_gb:g} GB{beyond}"
    )


def batch_reason(
    chosen: Configuration, preset: Preset, classes: int | None, dataset_voxels: float | None
) -> str:
    """Say which of the limits the batch came to.

    Args:
        chosen: The configuration.
        preset: Of the planner.
        classes: Entries of `labels` in dataset.json; None where it is not at hand.
        dataset_voxels: Of all training cases after resampling; None where it is not known.
    """
    limit, cost = budget(preset, len(chosen.patch_size), None), _cost(chosen, classes)
    affordable = round(limit / cost * REFERENCE_BATCH[len(chosen.patch_size)])
    memory = f"the memory would allow {affordable} patches of this size"
    if dataset_voxels is None:
        return (
            f"{memory} (about, for {preset.reference_gb:g} GB); no batch shows more than {preset.coverage:.0%} of "
            f"the dataset's voxels, none has fewer than {SMALLEST_BATCH}"
        )
    diverse = round(dataset_voxels * preset.coverage / prod(chosen.patch_size))
    share = f"{preset.coverage:.0%} of the dataset's voxels would be {diverse}"
    by_rule = batch_size(cost, limit, chosen.patch_size, dataset_voxels, preset.coverage)
    if by_rule != chosen.batch_size:
        return (
            f"{memory}, {share}: by the rule it would be {by_rule}; it was planned for another GPU memory or "
            "set by hand"
        )
    if by_rule > min(affordable, diverse):
        return f"{memory}, {share}; but fewer than {SMALLEST_BATCH} make the gradient too noisy"
    return f"{memory}, {share}; the smaller number counts"


def _cost(chosen: Configuration, classes: int | None) -> int:
    """Count the activations of one sample."""
    return feature_maps(
        chosen.patch_size, chosen.architecture.unet, ASSUMED_CLASSES if classes is None else classes
    )


def added_network(name: ConfigurationName, chosen: Configuration) -> Decision:
    """Say that patch and batch cannot be explained."""
    return Decision(
        configuration=name,
        topic="network",
        value=last_part(chosen.architecture.network_class_name),
        reason="a package adds it, and only that knows why; patch and batch were chosen for it by hand or by the "
        "package's planner",
    )


def network_decisions(name: ConfigurationName, chosen: Configuration) -> Iterator[Decision]:
    """Explain depth, pooling, kernels, width and resampling of a configuration."""
    arguments = chosen.architecture.unet
    widths = ", ".join(map(str, arguments.features_per_stage))
    yield Decision(
        configuration=name,
        topic="network",
        value=last_part(chosen.architecture.network_class_name),
        reason=f"{arguments.n_stages} stages with {widths} feature maps: twice as many per stage, up to a limit",
    )
    divisors = [prod(factors) for factors in zip(*arguments.strides, strict=True)]
    deepest = [size // divisor for size, divisor in zip(chosen.patch_size, divisors, strict=True)]
    yield Decision(
        configuration=name,
        topic="pooling",
        value=list(divisors),
        reason="each axis is halved as long as 8 voxels are left along it and its voxels are not twice as large as "
        f"along the finest one; the deepest stage sees {_sizes(deepest)} voxels",
    )
    yield Decision(
        configuration=name,
        topic="kernels",
        value=[list(kernel) for kernel in arguments.kernel_sizes],
        reason=_kernel_reason(sum(1 in kernel for kernel in arguments.kernel_sizes)),
    )
    yield Decision(
        configuration=name,
        topic="resampling",
        value=chosen.resampling_fn_data,
        reason=_resampling_reason(chosen),
    )


def _kernel_reason(flat: int) -> str:
    """Say why some kernels are flat."""
    if not flat:
        return "3 voxels along every axis, because none is twice as coarse as the finest"
    stages = "the first stage does" if flat == 1 else f"the first {flat} stages do"
    return f"{stages} not convolve across the coarse axis, whose voxels are at least twice as large there"


def _resampling_reason(chosen: Configuration) -> str:
    """Say how images get onto the grid."""
    name, arguments = chosen.resampling_fn_data, chosen.resampling_fn_data_kwargs
    if name == "no_resampling_hack":
        return "images stay on the grid that they came on"
    if "order" in arguments:
        how = {3: "cubic splines", 1: "linear interpolation", 0: "the nearest voxel"}.get(
            arguments["order"], f"splines of order {arguments['order']}"
        )
    else:
        how = "linear interpolation"
    apart = arguments.get("force_separate_z", False) is None
    slices = "; across slices more than 3 times as thick as the others, the nearest one" if apart else ""
    return f"{how} for images{slices}"


def _sizes(sizes: tuple[float, ...] | tuple[int, ...] | list[int]) -> str:
    """Write voxel counts."""
    return " x ".join(f"{size:g}" for size in sizes)
