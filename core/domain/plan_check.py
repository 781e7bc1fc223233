"""What contradicts what within a plan: the mistakes of its axis order and of a configuration, with place and cure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import isfinite
from typing import Final

from pydantic import ValidationError

from core.domain.checked import Checked, unknown
from core.domain.fingerprint import IntensityProperties
from core.domain.names import UNCHANGED_GRID, normalization_names, resampling_names
from core.domain.network_check import network_mistakes
from core.domain.plan import Configuration, PlanMistake
from core.domain.record import faults
from core.domain.resampling import ARGUMENTS

SHAPES_ARRAYS: Final = ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")
"""Entries that name a resampling function; its arguments stand under the same name and `_kwargs`."""

Intensities = Mapping[str, IntensityProperties | None]
"""Of the foreground, by channel number; None for a channel whose entries have the wrong form."""


def configuration_mistakes(
    chosen: Configuration,
    intensities: Intensities | None,
    channels: Sequence[str] | None = None,
    standing_in: Collection[str] = (),
) -> list[PlanMistake]:
    """Find what contradicts what in a configuration; places are within it.

    Args:
        chosen: With what it inherits.
        intensities: Of the foreground; None if they are not known.
        channels: Names of the dataset's, if they are to be compared.
        standing_in: Dotted places of entries that are not the plan's own; what depends on them is not reported.
    """
    checked = Checked(chosen, standing_in)
    mistakes = [
        *_grid_mistakes(checked),
        *_channel_mistakes(checked, intensities, channels),
        *_resampling_mistakes(checked),
        *network_mistakes(checked),
    ]
    if chosen.preprocessor_name != "DefaultPreprocessor":
        message = "there is only one preprocessor; write DefaultPreprocessor"
        mistakes.append(PlanMistake("preprocessor_name", message))
    return mistakes


def transposition_mistakes(
    forward: Sequence[int] | None, backward: Sequence[int] | None
) -> Iterator[PlanMistake]:
    """Report axis orders that are none, or do not undo each other; None is one that is not known."""
    axes = [0, 1, 2]
    orders = {"transpose_forward": forward, "transpose_backward": backward}
    wrong = {key: order for key, order in orders.items() if order is not None and sorted(order) != axes}
    for key, order in wrong.items():
        yield PlanMistake(key, f"{list(order)} is no order of the axes 0, 1, 2")
    if wrong or forward is None or backward is None:
        return
    undone = [list(forward).index(axis) for axis in axes]
    if list(backward) != undone:
        yield PlanMistake(
            "transpose_backward", f"{list(backward)} does not undo {list(forward)}; write {undone}"
        )


def _grid_mistakes(checked: Checked) -> Iterator[PlanMistake]:
    """Compare the lengths of what has one entry per axis."""
    chosen = checked.entries
    dimensions = len(chosen.patch_size)
    for key, length in (
        ("spacing", len(chosen.spacing)),
        ("median_image_size_in_voxels", len(chosen.median_image_size_in_voxels) or dimensions),
    ):
        if checked.tells("patch_size", key) and length != dimensions:
            yield PlanMistake(
                key, f"has {length} entries, but patch_size has {dimensions}; give one per axis"
            )


def _channel_mistakes(
    checked: Checked, intensities: Intensities | None, channels: Sequence[str] | None
) -> Iterator[PlanMistake]:
    """Compare normalization with the channels, and with the intensities that it needs."""
    if not checked.tells("normalization_schemes"):
        return
    schemes, masks = checked.entries.normalization_schemes, checked.entries.use_mask_for_norm
    yield from unknown("normalization_schemes", schemes, normalization_names(), "normalization scheme")
    if checked.tells("use_mask_for_norm") and len(masks) != len(schemes):
        yield PlanMistake(
            "use_mask_for_norm",
            f"has {len(masks)} entries, but normalization_schemes has {len(schemes)}; give one per channel",
        )
    if channels is not None and len(schemes) != len(channels):
        yield PlanMistake(
            "normalization_schemes",
            f"has {len(schemes)} entries, but the dataset has {len(channels)} channels "
            f"({', '.join(channels)}); give one per channel",
        )
    for channel, scheme in enumerate(schemes):
        if scheme == "CTNormalization" and intensities is not None and _lacks(str(channel), intensities):
            yield PlanMistake(
                "normalization_schemes",
                f"channel {channel} has CTNormalization, which needs foreground_intensity_properties_per_channel"
                f".{channel} in finite numbers; copy it from the dataset's fingerprint",
            )


def _lacks(channel: str, intensities: Intensities) -> bool:
    """Return whether a channel's intensities are missing, or no numbers; of a wrong form is another mistake."""
    if channel not in intensities:
        return True
    properties = intensities[channel]
    return properties is not None and not all(
        isfinite(getattr(properties, key)) for key in IntensityProperties.model_fields
    )


def _resampling_mistakes(checked: Checked) -> Iterator[PlanMistake]:
    """Report resampling functions that do not exist, and arguments that they cannot take."""
    chosen = checked.entries
    names = {key: getattr(chosen, key) for key in SHAPES_ARRAYS if checked.tells(key)}
    for key, name in names.items():
        yield from unknown(key, [name], resampling_names(), "resampling function")
        if name in ARGUMENTS and checked.tells(f"{key}_kwargs"):
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
            f"{', '.join(SHAPES_ARRAYS)}, or for none",
        )
