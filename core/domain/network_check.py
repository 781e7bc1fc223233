"""What makes no network: names, operators, lists of the wrong length, and patches that cannot be halved so often."""

from collections.abc import Iterator
from math import prod
from typing import Final

from core.domain.checked import Checked, unknown
from core.domain.names import ACTIVATION_NAMES, CONVOLUTION_NAMES, NORM_NAMES, last_part, network_names
from core.domain.old_plans import BLOCKS_KEY
from core.domain.plan import ArchitectureArguments, PlanMistake

PLACE: Final = "architecture.arch_kwargs"

MOST_PATCH_VOXELS: Final = 2**31
"""More cannot be counted in the indices of a convolution."""

MOST_WEIGHTS: Final = 2**31
"""Of one convolution: 9 GB in 32-bit floats."""


def network_mistakes(checked: Checked) -> Iterator[PlanMistake]:
    """Report what makes no network; of one that a package adds, only a name that does not exist."""
    network = checked.entries.architecture
    kind = last_part(network.network_class_name)
    if checked.tells("architecture.network_class_name"):
        yield from unknown("architecture.network_class_name", [kind], network_names(), "network architecture")
    if network.is_unet:
        yield from _foreign_arguments(network.unet, kind)
        yield from _operator_mistakes(checked)
        yield from _value_mistakes(checked)
        yield from _length_mistakes(checked, BLOCKS_KEY[kind])
        yield from _stage_mistakes(checked)
        yield from _pooling_mistakes(checked)
        yield from _size_mistakes(checked)


def _tells(checked: Checked, *arguments: str) -> bool:
    return checked.tells(*(f"{PLACE}.{argument}" for argument in arguments))


def _foreign_arguments(arguments: ArchitectureArguments, kind: str) -> Iterator[PlanMistake]:
    """Report arguments that the network would be built without, whatever they were to change."""
    known = ArchitectureArguments.model_fields
    for key in arguments.model_extra or ():
        yield PlanMistake(
            f"{PLACE}.{key}",
            f"{kind} takes no such argument; take it out, or write one of: {', '.join(known)}",
        )


def _operator_mistakes(checked: Checked) -> Iterator[PlanMistake]:
    """Report operators that do not exist, or belong to another number of axes."""
    arguments, dimensions = checked.entries.architecture.unet, len(checked.entries.patch_size)
    for key, known in (("conv_op", CONVOLUTION_NAMES), ("norm_op", NORM_NAMES)):
        name = last_part(getattr(arguments, key) or "")
        if not _tells(checked, key):
            continue
        if name not in known:
            yield from unknown(f"{PLACE}.{key}", [name], known, "operator")
        elif checked.tells("patch_size") and known[name] != dimensions:
            yield PlanMistake(
                f"{PLACE}.{key}",
                f"{name} is for {known[name]} axes, but patch_size has {dimensions}; write "
                f"{name[:-2]}{dimensions}d",
            )
    if _tells(checked, "nonlin"):
        activation = last_part(arguments.nonlin or "")
        yield from unknown(f"{PLACE}.nonlin", [activation], ACTIVATION_NAMES, "activation")


def _value_mistakes(checked: Checked) -> Iterator[PlanMistake]:
    """Report arguments of operators that cannot be; one of the wrong form is absent, and so at its default."""
    arguments = checked.entries.architecture.unet
    if arguments.dropout_op is not None:
        yield PlanMistake(f"{PLACE}.dropout_op", "dropout is not supported; write null")
    if not (arguments.norm_op_kwargs or {}).get("affine", True):
        yield PlanMistake(f"{PLACE}.norm_op_kwargs.affine", "must be true")
    for key, name, least in (("norm_op_kwargs", "eps", 0.0), ("nonlin_kwargs", "negative_slope", -1.0)):
        value = (getattr(arguments, key) or {}).get(name, 0.5)
        if type(value) not in {int, float} or not least < value < 1:
            yield PlanMistake(
                f"{PLACE}.{key}.{name}", f"is {value!r}, but must be above {least:g} and below 1"
            )


def _length_mistakes(checked: Checked, blocks_key: str) -> Iterator[PlanMistake]:
    """Compare the lists of a network with its number of stages."""
    arguments = checked.entries.architecture.unet
    stages = arguments.n_stages
    if _tells(checked, "n_stages") and stages < 2:  # noqa: PLR2004 - an encoder stage and a bottleneck
        yield PlanMistake(f"{PLACE}.n_stages", "must be at least 2")
    wanted = {
        "features_per_stage": stages,
        "kernel_sizes": stages,
        "strides": stages,
        blocks_key: stages,
        "n_conv_per_stage_decoder": stages - 1,
    }
    for key, length in wanted.items():
        found = len(getattr(arguments, key) or ())
        if _tells(checked, "n_stages", key) and found != length:
            yield PlanMistake(f"{PLACE}.{key}", f"has {found} entries, but {stages} stages need {length}")


def _stage_mistakes(checked: Checked) -> Iterator[PlanMistake]:
    """Compare kernels and strides with the number of axes, and say which cannot be."""
    arguments, dimensions = checked.entries.architecture.unet, len(checked.entries.patch_size)
    for key in ("kernel_sizes", "strides"):
        for stage, sizes in enumerate(getattr(arguments, key)):
            if checked.tells("patch_size") and len(sizes) != dimensions:
                yield PlanMistake(
                    f"{PLACE}.{key}.{stage}", f"has {len(sizes)} entries, but patch_size has {dimensions}"
                )
    for stage, kernel in enumerate(arguments.kernel_sizes):
        if any(edge % 2 == 0 for edge in kernel):
            yield PlanMistake(f"{PLACE}.kernel_sizes.{stage}", f"{list(kernel)} must be odd numbers")
    if any(factor != 1 for stride in arguments.strides[:1] for factor in stride):
        yield PlanMistake(f"{PLACE}.strides.0", "the first stage keeps the resolution; write ones")


def _pooling_mistakes(checked: Checked) -> Iterator[PlanMistake]:
    """Compare the patch with how often it is halved, unless the strides are to change anyway."""
    patch_size, arguments = checked.entries.patch_size, checked.entries.architecture.unet
    are_as_many = not _tells(checked, "n_stages") or len(arguments.strides) == arguments.n_stages
    is_per_axis = all(len(stride) == len(patch_size) for stride in arguments.strides)
    if not (checked.tells("patch_size") and _tells(checked, "strides") and are_as_many and is_per_axis):
        return
    divisors = [prod(factors) for factors in zip(*arguments.strides, strict=True)]
    if not divisors:
        return
    for axis, (size, divisor) in enumerate(zip(patch_size, divisors, strict=True)):
        if size % divisor:
            lower, upper = size // divisor * divisor, -(-size // divisor) * divisor
            choices = f"{lower} or {upper}" if lower else str(upper)
            yield PlanMistake(
                f"patch_size.{axis}",
                f"{size} must be a multiple of {divisor}, because {PLACE}.strides shrink this axis by that much; "
                f"write {choices}",
            )
    if all(size <= divisor for size, divisor in zip(patch_size, divisors, strict=True)):
        yield PlanMistake(
            "patch_size",
            "the deepest stage would see a single voxel, which cannot be normalized; enlarge the patch or take a "
            "stage out",
        )


def _size_mistakes(checked: Checked) -> Iterator[PlanMistake]:
    """Report a patch, and convolutions, that no machine could hold."""
    voxels, arguments = prod(checked.entries.patch_size), checked.entries.architecture.unet
    if voxels > MOST_PATCH_VOXELS:
        yield PlanMistake(
            "patch_size", f"has {voxels:.3g} voxels; at most {MOST_PATCH_VOXELS:.3g} are possible"
        )
    stages = zip(arguments.features_per_stage, arguments.kernel_sizes, strict=False)  # Each may be too short.
    for stage, (features, kernel) in enumerate(stages):
        weights = features**2 * prod(kernel)
        if weights > MOST_WEIGHTS:
            yield PlanMistake(
                f"{PLACE}.features_per_stage.{stage}",
                f"makes convolutions of {weights:.3g} weights each; at most {MOST_WEIGHTS:.3g} are possible",
            )
