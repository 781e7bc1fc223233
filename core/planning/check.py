"""Plans that a person edited: every mistake at once, each with its place in the file and its cure."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, Final

from pydantic import ValidationError

from core.domain.dataset import DatasetDescription
from core.domain.names import (
    ACTIVATION_NAMES,
    CONVOLUTION_NAMES,
    NETWORK_NAMES,
    NORM_NAMES,
    NORMALIZATION_NAMES,
    READER_FORMATS,
    RESAMPLING_NAMES,
    last_part,
)
from core.domain.old_plans import BLOCKS_KEY, OLD_KEYS
from core.domain.plan import (
    ArchitectureArguments,
    Configuration,
    Plan,
    PlanMistake,
    ResamplingArguments,
    form_mistakes,
    plan_error,
)
from core.domain.record import faults, parse_json
from core.errors import PlanError

ALIKE: Final = 0.8
"""How similar an unknown key must be to a known one to be taken for a slip of the pen, from 0 to 1."""

MOST_CONFIGURATIONS: Final = 200
"""In one plan; each is compared with all that it inherits from."""

CONFIGURATION_KEYS: Final = frozenset({*Configuration.model_fields, "inherits_from", *OLD_KEYS})

SHAPES_ARRAYS: Final = ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")
"""Entries that name a resampling function; its arguments stand under the same name and `_kwargs`."""

SPLINE_FUNCTIONS: Final = frozenset({"resample_data_or_seg_to_shape", "resample_data_or_seg_to_spacing"})
"""Those whose arguments `ResamplingArguments` describes."""


def checked_plan(text: str | bytes, description: DatasetDescription | None = None) -> Plan:
    """Read a plans.json that somebody may have edited.

    Args:
        text: The file's content; plans of nnU-Net 2.0 to 2.2 are taken too.
        description: Of the dataset that it is for, if it is to be compared.

    Raises:
        PlanError: Something is wrong; the sentence names every mistake, `problems` of the context lists them as
            `where` and `message`.
    """
    values = parse_json(text, "plans.json", PlanError)
    mistakes = plan_mistakes(values, description)
    if mistakes:
        raise plan_error(mistakes)
    return Plan.model_validate(values)


def plan_mistakes(
    values: Mapping[str, Any], description: DatasetDescription | None = None
) -> list[PlanMistake]:
    """Find everything that is wrong with a plans.json: its form, its names, and what contradicts what.

    Args:
        values: The JSON object.
        description: Of the dataset that it is for, if it is to be compared.
    """
    configurations = values.get("configurations")
    if isinstance(configurations, dict) and len(configurations) > MOST_CONFIGURATIONS:
        message = f"there are {len(configurations)}; at most {MOST_CONFIGURATIONS} are taken: leave some out"
        return [PlanMistake("configurations", message)]
    mistakes = [*_slips("", values, Plan.model_fields), *form_mistakes(values)]
    wrong_entries = {mistake.where.partition(".")[0] for mistake in mistakes}
    if not wrong_entries & {"transpose_forward", "transpose_backward"}:
        mistakes += _transposition_mistakes(values["transpose_forward"], values["transpose_backward"])
    if "image_reader_writer" not in wrong_entries:
        mistakes += reader_mistakes(values["image_reader_writer"], description)
    if not isinstance(configurations, dict):
        return mistakes
    for name, entries in configurations.items():
        place = f"configurations.{name}"
        if isinstance(entries, dict):
            mistakes += _slips(place, entries, CONFIGURATION_KEYS)
        if not any(mistake.where.startswith(place) for mistake in mistakes):
            inherited = _contradictions(values, entries.get("inherits_from"), description)
            mistakes += [
                PlanMistake(f"{place}.{found.where}", found.message)
                for found in _contradictions(values, name, description)
                if found not in inherited
            ]
    return mistakes


def _slips(place: str, entries: Mapping[str, Any], known: Iterable[str]) -> Iterator[PlanMistake]:
    """Report keys that look like a known one that is misspelt; other unknown keys may be another tool's."""
    absent = [key for key in known if key not in entries]
    for key in entries:
        if key not in known and (meant := difflib.get_close_matches(key, absent, 1, ALIKE)):
            yield PlanMistake(
                f"{place}.{key}".lstrip("."), f"there is no such entry; did you mean {meant[0]}?"
            )


def _transposition_mistakes(forward: Sequence[int], backward: Sequence[int]) -> Iterator[PlanMistake]:
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


def _unknown(place: str, names: Iterable[str], known: Iterable[str], noun: str) -> Iterator[PlanMistake]:
    """Report names that stand for nothing."""
    for name in dict.fromkeys(names):
        if name not in known:
            yield PlanMistake(
                place, f"there is no {noun} named {name!r}; choose one of: {', '.join(sorted(known))}"
            )


def reader_mistakes(reader: str, description: DatasetDescription | None) -> Iterator[PlanMistake]:
    """Report a reader that does not exist, or cannot read the dataset's files.

    Args:
        reader: Its name.
        description: Of the dataset; None if the files are not known.
    """
    yield from _unknown("image_reader_writer", [reader], READER_FORMATS, "reader")
    formats = READER_FORMATS.get(reader)
    if description is None or formats is None or description.file_ending.lower() in formats:
        return
    fitting = [name for name, endings in READER_FORMATS.items() if description.file_ending.lower() in endings]
    yield PlanMistake(
        "image_reader_writer",
        f"{reader} does not read {description.file_ending} files, as the dataset has; write one of: "
        f"{', '.join(fitting)}",
    )


def _contradictions(
    values: Mapping[str, Any], name: str | None, description: DatasetDescription | None
) -> list[PlanMistake]:
    """Find what is wrong with a configuration whose form is right; places are within the configuration.

    One that cannot be resolved, because of a mistake in another one that it inherits from, has none.
    """
    whole = Plan.model_validate(_STANDING_IN | {"configurations": values["configurations"]})
    try:
        chosen = None if name is None else whole.configuration(name)
    except PlanError:
        chosen = None
    if name is None or chosen is None:
        return []
    mistakes = [
        *_grid_mistakes(chosen),
        *_channel_mistakes(chosen, values, description),
        *_resampling_mistakes(chosen),
        *_stage_mistakes(values["configurations"][name], whole, name),
        *_network_mistakes(chosen),
    ]
    if chosen.preprocessor_name != "DefaultPreprocessor":
        message = "there is only one preprocessor; write DefaultPreprocessor"
        mistakes.append(PlanMistake("preprocessor_name", message))
    return mistakes


_STANDING_IN: Final[dict[str, Any]] = {
    "image_reader_writer": "",
    "transpose_forward": (0, 1, 2),
    "transpose_backward": (0, 1, 2),
    "foreground_intensity_properties_per_channel": {},
}
"""Entries that no configuration depends on, so that each can be resolved whatever else is wrong."""


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
    chosen: Configuration, values: Mapping[str, Any], description: DatasetDescription | None
) -> Iterator[PlanMistake]:
    """Compare normalization with the channels, and with the intensities that it needs."""
    schemes = chosen.normalization_schemes
    yield from _unknown("normalization_schemes", schemes, NORMALIZATION_NAMES, "normalization scheme")
    if len(chosen.use_mask_for_norm) != len(schemes):
        yield PlanMistake(
            "use_mask_for_norm",
            f"has {len(chosen.use_mask_for_norm)} entries, but normalization_schemes has {len(schemes)}; "
            "give one per channel",
        )
    if description is not None and len(schemes) != len(description.channels):
        yield PlanMistake(
            "normalization_schemes",
            f"has {len(schemes)} entries, but the dataset has {len(description.channels)} channels "
            f"({', '.join(description.channels)}); give one per channel",
        )
    known = values.get("foreground_intensity_properties_per_channel") or values.get(
        "foreground_intensity_properties_by_modality"
    )
    for channel, scheme in enumerate(schemes):
        if scheme == "CTNormalization" and not (isinstance(known, dict) and str(channel) in known):
            yield PlanMistake(
                "normalization_schemes",
                f"channel {channel} has CTNormalization, which needs foreground_intensity_properties_per_channel"
                f".{channel}; copy it from the dataset's fingerprint",
            )


def _resampling_mistakes(chosen: Configuration) -> Iterator[PlanMistake]:
    """Report resampling functions that do not exist, and arguments that the spline ones cannot take."""
    for key in SHAPES_ARRAYS:
        name = getattr(chosen, key)
        yield from _unknown(key, [name], RESAMPLING_NAMES, "resampling function")
        if name in SPLINE_FUNCTIONS:
            try:
                ResamplingArguments.model_validate(getattr(chosen, f"{key}_kwargs"))
            except ValidationError as error:
                for where, message in faults(error):
                    yield PlanMistake(f"{key}_kwargs.{where}", message)


def _stage_mistakes(own: Mapping[str, Any], plan: Plan, name: str) -> Iterator[PlanMistake]:
    """Report stages of a cascade that do not exist, among a configuration's own entries."""
    for key in ("previous_stage", "next_stage"):
        stages = own.get(key) or ()
        for stage in (stages,) if isinstance(stages, str) else stages:
            if stage not in plan.configurations or stage == name:
                yield PlanMistake(key, f"there is no other configuration {stage!r}")


def _network_mistakes(chosen: Configuration) -> Iterator[PlanMistake]:
    """Report what makes no network: names, operators, and lists of the wrong length."""
    network, place = chosen.architecture, "architecture.arch_kwargs"
    kind, arguments = last_part(network.network_class_name), network.arch_kwargs
    if kind not in NETWORK_NAMES:
        yield from _unknown("architecture.network_class_name", [kind], NETWORK_NAMES, "network architecture")
        return
    yield from _operator_mistakes(arguments, len(chosen.patch_size), place)
    before = list(_length_mistakes(arguments, BLOCKS_KEY[kind], len(chosen.patch_size), place))
    yield from before or _pooling_mistakes(chosen, place)


def _operator_mistakes(
    arguments: ArchitectureArguments, dimensions: int, place: str
) -> Iterator[PlanMistake]:
    """Report operators that do not exist, or belong to another number of axes."""
    for key, known in (("conv_op", CONVOLUTION_NAMES), ("norm_op", NORM_NAMES)):
        name = last_part(getattr(arguments, key) or "")
        if name not in known:
            yield from _unknown(f"{place}.{key}", [name], known, "operator")
        elif known[name] != dimensions:
            yield PlanMistake(
                f"{place}.{key}",
                f"{name} is for {known[name]} axes, but patch_size has {dimensions}; write "
                f"{name[:-2]}{dimensions}d",
            )
    yield from _unknown(
        f"{place}.nonlin", [last_part(arguments.nonlin or "")], ACTIVATION_NAMES, "activation"
    )
    if arguments.dropout_op is not None:
        yield PlanMistake(f"{place}.dropout_op", "dropout is not supported; write null")
    if not (arguments.norm_op_kwargs or {}).get("affine", True):
        yield PlanMistake(f"{place}.norm_op_kwargs.affine", "must be true")


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
    divisors = [prod(factors) for factors in zip(*chosen.architecture.arch_kwargs.strides, strict=True)]
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
