"""What contradicts what within a plan: the mistakes of its axis order and of a configuration, with place and cure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import isfinite, prod
from typing import Final

from pydantic import ValidationError

from core.domain.fingerprint import IntensityProperties
from core.domain.names import (
    ACTIVATION_NAMES,
    CONVOLUTION_NAMES,
    NORM_NAMES,
    UNCHANGED_GRID,
    last_part,
    network_names,
    normalization_names,
    resampling_names,
)
from core.domain.old_plans import BLOCKS_KEY
from core.domain.plan import ArchitectureArguments, Configuration, PlanMistake
from core.domain.record import faults
from core.domain.resampling import ARGUMENTS

SHAPES_ARRAYS: Final = ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")
"""Entries that name a resampling function; its arguments stand under the same name and `_kwargs`."""

MOST_PATCH_VOXELS: Final = 2**31
"""More cannot be counted in the indices of a convolution."""

MOST_WEIGHTS: Final = 2**31
"""Of one convolution: 9 GB in 32-bit floats."""


def configuration_mistakes(
    chosen: Configuration,
    intensities: Mapping[str, IntensityProperties] | Collection[str],
    channels: Sequence[str] | None = None,
) -> list[PlanMistake]:
    """Find what is wrong with a configuration whose form is right; places are within the configuration.

    Args:
        chosen: With what it inherits.
        intensities: Of the foreground, by channel number; the numbers alone, if no more is known.
        channels: Names of the dataset's, if they are to be compared.
    """
    mistakes = [
        *_grid_mistakes(chosen),
        *_channel_mistakes(chosen, intensities, channels),
        *_resampling_mistakes(chosen),
        *_network_mistakes(chosen),
    ]
    if chosen.preprocessor_name != "DefaultPreprocessor":
        message = "there is only one preprocessor; write DefaultPreprocessor"
        mistakes.append(PlanMistake("preprocessor_name", message))
    return mistakes


def transposition_mistakes(forward: Sequence[int], backward: Sequence[int]) -> Iterator[PlanMistake]:
    """Report axis orders that are none, or do not undo each other."""
    axes = [0, 1, 2]
    for key, order in (("transpose_forward", forward), ("transpose_backward", backward)):
        if sorted(order) != axes:
            yield PlanMistake(key, f"{list(order)} is no order of the axes 0, 1, 2")
            return
    undone = [list(forward).index(axis) for axis in axes]
    if list(backward) != undone:
        yield PlanMistake(
            "transpose_backward", f"{list(backward)} does not undo {list(forward)}; write {undone}"
        )


def unknown(place: str, names: Iterable[str], known: Iterable[str], noun: str) -> Iterator[PlanMistake]:
    """Report names that stand for nothing."""
    for name in dict.fromkeys(names):
        if name not in known:
            yield PlanMistake(
                place, f"there is no {noun} named {name!r}; choose one of: {', '.join(sorted(known))}"
            )


def _grid_mistakes(chosen: Configuration) -> Iterator[PlanMistake]:
    """Compare the lengths of what has one entry per axis."""
    dimensions = len(chosen.patch_size)
    for key, length in (
        ("spacing", len(chosen.spacing)),
        ("median_image_size_in_voxels", len(chosen.median_image_size_in_voxels) or dimensions),
    ):
        if length != dimensions:
            yield PlanMistake(
                key, f"has {length} entries, but patch_size has {dimensions}; give one per axis"
            )


def _channel_mistakes(
    chosen: Configuration,
    intensities: Mapping[str, IntensityProperties] | Collection[str],
    channels: Sequence[str] | None,
) -> Iterator[PlanMistake]:
    """Compare normalization with the channels, and with the intensities that it needs."""
    schemes = chosen.normalization_schemes
    yield from unknown("normalization_schemes", schemes, normalization_names(), "normalization scheme")
    if len(chosen.use_mask_for_norm) != len(schemes):
        yield PlanMistake(
            "use_mask_for_norm",
            f"has {len(chosen.use_mask_for_norm)} entries, but normalization_schemes has {len(schemes)}; "
            "give one per channel",
        )
    if channels is not None and len(schemes) != len(channels):
        yield PlanMistake(
            "normalization_schemes",
            f"has {len(schemes)} entries, but the dataset has {len(channels)} channels "
            f"({', '.join(channels)}); give one per channel",
        )
    for channel, scheme in enumerate(schemes):
        if scheme == "CTNormalization" and not _is_known(str(channel), intensities):
            yield PlanMistake(
                "normalization_schemes",
                f"channel {channel} has CTNormalization, which needs foreground_intensity_properties_per_channel"
                f".{channel} in finite numbers; copy it from the dataset's fingerprint",
            )


def _is_known(channel: str, intensities: Mapping[str, IntensityProperties] | Collection[str]) -> bool:
    """Return whether a channel's intensities are there, and numbers as far as they are seen."""
    if channel not in intensities or not isinstance(intensities, Mapping):
        return channel in intensities
    properties = intensities[channel]
    return all(isfinite(getattr(properties, key)) for key in IntensityProperties.model_fields)


def _resampling_mistakes(chosen: Configuration) -> Iterator[PlanMistake]:
    """Report resampling functions that do not exist, and arguments that they cannot take."""
    names = {key: getattr(chosen, key) for key in SHAPES_ARRAYS}
    for key, name in names.items():
        yield from unknown(key, [name], resampling_names(), "resampling function")
        if name in ARGUMENTS:
            try:
                ARGUMENTS[name].model_validate(getattr(chosen, f"{key}_kwargs"))
            except ValidationError as error:
                for where, message in faults(error):
                    yield PlanMistake(f"{key}_kwargs.{where}", message)
    resampled = [key for key, name in names.items() if name != UNCHANGED_GRID]
    if 0 < len(resampled) < len(names):
        yield PlanMistake(
            resampled[0],
            f"image, labels and probabilities would lie on different grids: write {UNCHANGED_GRID} for all of "
            f"{', '.join(names)}, or for none",
        )


def _network_mistakes(chosen: Configuration) -> Iterator[PlanMistake]:
    """Report what makes no network: names, operators, and lists of the wrong length."""
    network, place = chosen.architecture, "architecture.arch_kwargs"
    kind = last_part(network.network_class_name)
    yield from unknown("architecture.network_class_name", [kind], network_names(), "network architecture")
    if not network.is_unet:
        return
    arguments = network.unet
    yield from _foreign_arguments(arguments, kind, place)
    yield from _operator_mistakes(arguments, len(chosen.patch_size), place)
    before = list(_length_mistakes(arguments, BLOCKS_KEY[kind], len(chosen.patch_size), place))
    yield from before or [*_pooling_mistakes(chosen, place), *_size_mistakes(chosen, place)]


def _foreign_arguments(arguments: ArchitectureArguments, kind: str, place: str) -> Iterator[PlanMistake]:
    """Report arguments that the network would be built without, whatever they were to change."""
    known = ArchitectureArguments.model_fields
    for key in arguments.model_extra or ():
        yield PlanMistake(
            f"{place}.{key}",
            f"{kind} takes no such argument; take it out, or write one of: {', '.join(known)}",
        )


def _operator_mistakes(
    arguments: ArchitectureArguments, dimensions: int, place: str
) -> Iterator[PlanMistake]:
    """Report operators that do not exist, or belong to another number of axes."""
    for key, known in (("conv_op", CONVOLUTION_NAMES), ("norm_op", NORM_NAMES)):
        name = last_part(getattr(arguments, key) or "")
        if name not in known:
            yield from unknown(f"{place}.{key}", [name], known, "operator")
        elif known[name] != dimensions:
            yield PlanMistake(
                f"{place}.{key}",
                f"{name} is for {known[name]} axes, but patch_size has {dimensions}; write "
                f"{name[:-2]}{dimensions}d",
            )
    yield from unknown(f"{place}.nonlin", [last_part(arguments.nonlin or "")], ACTIVATION_NAMES, "activation")
    if arguments.dropout_op is not None:
        yield PlanMistake(f"{place}.dropout_op", "dropout is not supported; write null")
    if not (arguments.norm_op_kwargs or {}).get("affine", True):
        yield PlanMistake(f"{place}.norm_op_kwargs.affine", "must be true")
    for key, name, least in (("norm_op_kwargs", "eps", 0.0), ("nonlin_kwargs", "negative_slope", -1.0)):
        value = (getattr(arguments, key) or {}).get(name, 0.5)
        if type(value) not in {int, float} or not least < value < 1:
            yield PlanMistake(
                f"{place}.{key}.{name}", f"is {value!r}, but must be above {least:g} and below 1"
            )


def _length_mistakes(
    arguments: ArchitectureArguments, blocks_key: str, dimensions: int, place: str
) -> Iterator[PlanMistake]:
    """Compare the lists of a network with its number of stages and of axes."""
    stages = arguments.n_stages
    if stages < 2:  # noqa: PLR2004 - an encoder stage and a bottleneck
        yield PlanMistake(f"{place}.n_stages", "must be at least 2")
    wanted = {
        "features_per_stage": stages,
        "kernel_sizes": stages,
        "strides": stages,
        blocks_key: stages,
        "n_conv_per_stage_decoder": stages - 1,
    }
    for key, length in wanted.items():
        found = len(getattr(arguments, key) or ())
        if found != length:
            yield PlanMistake(f"{place}.{key}", f"has {found} entries, but {stages} stages need {length}")
    for key in ("kernel_sizes", "strides"):
        for stage, sizes in enumerate(getattr(arguments, key)):
            if len(sizes) != dimensions:
                yield PlanMistake(
                    f"{place}.{key}.{stage}", f"has {len(sizes)} entries, but patch_size has {dimensions}"
                )
    for stage, kernel in enumerate(arguments.kernel_sizes):
        if any(edge % 2 == 0 for edge in kernel):
            yield PlanMistake(f"{place}.kernel_sizes.{stage}", f"{list(kernel)} must be odd numbers")
    if any(factor != 1 for stride in arguments.strides[:1] for factor in stride):
        yield PlanMistake(f"{place}.strides.0", "the first stage keeps the resolution; write ones")


def _pooling_mistakes(chosen: Configuration, place: str) -> Iterator[PlanMistake]:
    """Compare the patch with how often it is halved."""
    divisors = [prod(factors) for factors in zip(*chosen.architecture.unet.strides, strict=True)]
    for axis, (size, divisor) in enumerate(zip(chosen.patch_size, divisors, strict=True)):
        if size % divisor:
            lower, upper = size // divisor * divisor, -(-size // divisor) * divisor
            choices = f"{lower} or {upper}" if lower else str(upper)
            yield PlanMistake(
                f"patch_size.{axis}",
                f"{size} must be a multiple of {divisor}, because {place}.strides shrink this axis by that much; "
                f"write {choices}",
            )
    if all(size <= divisor for size, divisor in zip(chosen.patch_size, divisors, strict=True)):
        yield PlanMistake(
            "patch_size",
            "the deepest stage would see a single voxel, which cannot be normalized; enlarge the patch or take a "
            "stage out",
        )


def _size_mistakes(chosen: Configuration, place: str) -> Iterator[PlanMistake]:
    """Report a patch, and convolutions, that no machine could hold."""
    voxels, arguments = prod(chosen.patch_size), chosen.architecture.unet
    if voxels > MOST_PATCH_VOXELS:
        yield PlanMistake(
            "patch_size", f"has {voxels:.3g} voxels; at most {MOST_PATCH_VOXELS:.3g} are possible"
        )
    stages = zip(arguments.features_per_stage, arguments.kernel_sizes, strict=True)
    for stage, (features, kernel) in enumerate(stages):
        weights = features**2 * prod(kernel)
        if weights > MOST_WEIGHTS:
            yield PlanMistake(
                f"{place}.features_per_stage.{stage}",
                f"makes convolutions of {weights:.3g} weights each; at most {MOST_WEIGHTS:.3g} are possible",
            )
