"""Why a network sees the patch and batch that it does: the budget of memory, in sentences."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from core.domain.explanation import Decision
from core.domain.names import last_part
from core.domain.plan import ArchitectureArguments, Configuration, ConfigurationName
from core.errors import PlanningError
from core.planning.architecture import architecture
from core.planning.memory import (
    REFERENCE_BATCH,
    SMALLEST_BATCH,
    batch_size,
    budget,
    feature_maps,
    is_over_budget,
)
from core.planning.presets import Preset
from core.planning.topology import Topology, fitted, initial_patch, topology

ONE_PERCENT = 0.01

ASSUMED_CLASSES = 3
"""Entries of `labels` that are assumed where dataset.json is not at hand; they weigh little."""


FROM_SOURCE = "as in the plan of the dataset that it comes from, or set by hand"
"""Why an entry is as it is where the plan was made for another dataset."""


@dataclass(frozen=True, slots=True)
class Premises:
    """What patch and batch were chosen from, as far as it is known."""

    preset: Preset
    """Of the planner."""
    classes: int | None
    """Entries of `labels` in dataset.json; None where it is not at hand."""
    gpu_memory_gb: float | None
    """What the plan was made for; None where nobody recorded it."""
    is_foreign: bool
    """Whether the plan was made for another dataset, whose sizes it therefore has."""

    @property
    def target(self) -> str:
        """Write the memory that the plan is compared with."""
        if self.gpu_memory_gb is not None:
            return f"{self.gpu_memory_gb:g} GB"
        return f"{self.preset.reference_gb:g} GB (unless another target was given)"

    @property
    def deviation(self) -> str:
        """Say why an entry is not what the rule gives."""
        other = "" if self.gpu_memory_gb is not None else "planned for another GPU memory or "
        return f"it was {other}set by hand"

    def limit(self, dimensions: int) -> float:
        """Return the budget of that memory."""
        return budget(self.preset, dimensions, self.gpu_memory_gb)

    def cost(self, patch_size: tuple[int, ...], network: ArchitectureArguments) -> int:
        """Count the activations of one sample."""
        return feature_maps(patch_size, network, ASSUMED_CLASSES if self.classes is None else self.classes)

    def is_too_large(self, patch_size: tuple[int, ...], network: ArchitectureArguments) -> bool:
        """Whether the rule would have made a patch smaller."""
        return is_over_budget(
            self.cost(patch_size, network),
            self.limit(len(patch_size)),
            len(patch_size),
            patch_outranks_batch=self.preset.patch_outranks_batch,
        )


def patch_reason(chosen: Configuration, known: Premises) -> str:
    """Say how the patch came about."""
    median = chosen.median_image_size_in_voxels
    if not median:
        return "the size of the median image is not recorded, so that nothing can be compared"
    start = topology(chosen.spacing, initial_patch(chosen.spacing, median))
    share = min(1.0, prod(chosen.patch_size) / prod(median))
    covers = f"{_covered(chosen, share, known)} ({_sizes(median)} voxels)"
    if known.is_foreign:
        return f"{FROM_SOURCE}; {covers}"
    if not _fits(start.patch_size, chosen.patch_size):
        larger = f"set by hand, it is larger than the median image needs ({_sizes(start.patch_size)})"
        return f"{covers}; {larger}; {_spent(chosen, known)}"
    by_rule = _by_rule(start, chosen.spacing, median, known)
    if chosen.patch_size != by_rule:
        would = "no patch would fit" if by_rule is None else f"it would be {_sizes(by_rule)}"
        return f"{covers}; by the rule, for {known.target}, {would}; {known.deviation}"
    if chosen.patch_size == start.patch_size:
        return f"{covers}; nothing had to be cut off for the memory, of which {_spent(chosen, known)}"
    return (
        f"{covers}; cut down from {_sizes(start.patch_size)} along whichever axis covered most of the image, until "
        f"the smallest batch fits: {_spent(chosen, known)}"
    )


def _covered(chosen: Configuration, share: float, known: Premises) -> str:
    """Say how much of what image a patch shows."""
    where = " of the dataset that the plan comes from" if known.is_foreign else ""
    if chosen.is_2d:
        part = "a slice" if share == 1 else "part of a slice"
        return f"a patch is {part} of an image; it covers {share:.0%} of a slice of the median image{where}"
    return f"it covers {share:.0%} of the median image{where}"


def _by_rule(
    start: Topology, spacing: tuple[float, ...], median: tuple[float, ...], known: Premises
) -> tuple[int, ...] | None:
    """Return the patch that the planner finds; None where nothing fits the memory."""
    is_residual = known.preset.is_residual

    def is_too_large(candidate: Topology) -> bool:
        network = architecture(candidate, is_residual=is_residual).unet
        return known.is_too_large(candidate.patch_size, network)

    try:
        return fitted(start, spacing, median, is_too_large).patch_size
    except PlanningError:
        return None


def _fits(outer: tuple[int, ...], inner: tuple[int, ...]) -> bool:
    """Whether a patch lies within another one."""
    return all(edge <= limit for edge, limit in zip(inner, outer, strict=True))


def _spent(chosen: Configuration, known: Premises) -> str:
    """Say how much of the budget the smallest batch takes."""
    dimensions = len(chosen.patch_size)
    cost = known.cost(chosen.patch_size, chosen.architecture.unet)
    share = cost / REFERENCE_BATCH[dimensions] * SMALLEST_BATCH / known.limit(dimensions)
    part = f"about {share:.0%}" if share >= ONE_PERCENT else "less than 1%"
    return f"{SMALLEST_BATCH} samples take {part} of what {known.preset.planner} allows for {known.target}"


def batch_reason(chosen: Configuration, known: Premises, dataset_voxels: float | None) -> str:
    """Say which of the limits the batch came to.

    Args:
        chosen: The configuration.
        known: What it was chosen from.
        dataset_voxels: Of all training cases after resampling; None where it is not known.
    """
    preset, dimensions = known.preset, len(chosen.patch_size)
    limit, cost = known.limit(dimensions), known.cost(chosen.patch_size, chosen.architecture.unet)
    affordable = round(limit / cost * REFERENCE_BATCH[dimensions])
    about = "about " if known.classes is None else ""
    memory = f"{known.target} would allow {about}{affordable} patches of this size"
    if known.is_foreign:
        return f"{FROM_SOURCE}; {memory}"
    if dataset_voxels is None:
        return (
            f"{memory}; no batch shows more than {preset.coverage:.0%} of the dataset's voxels, none has "
            f"fewer than {SMALLEST_BATCH}"
        )
    diverse = round(dataset_voxels * preset.coverage / prod(chosen.patch_size))
    share = f"{preset.coverage:.0%} of the dataset's voxels would be {diverse}"
    by_rule = batch_size(cost, limit, chosen.patch_size, dataset_voxels, preset.coverage)
    if by_rule != chosen.batch_size:
        return f"{memory}, {share}: by the rule it would be {by_rule}; {known.deviation}"
    if by_rule > min(affordable, diverse):
        return f"{memory}, {share}; but fewer than {SMALLEST_BATCH} make the gradient too noisy"
    return f"{memory}, {share}; the smaller number counts"


def dice_reason(chosen: Configuration) -> str:
    """Say over what the Dice loss is taken."""
    if chosen.batch_dice:
        part = "no more than one slice" if chosen.is_2d else "only a part"
        return f"the Dice loss is taken over the whole batch, because one patch shows {part} of an image"
    if chosen.is_2d:
        return "the Dice loss is taken per patch, which the rule never does for slices"
    return "the Dice loss is taken per patch, which the rule does where no coarser configuration comes first"


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
