"""What can still be checked of a configuration that is wrong in places: stand-ins take the place of what cannot be used."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from pydantic import ValidationError

from core.domain.checked import Checked
from core.domain.inheritance import resolved
from core.domain.plan import Configuration
from core.domain.record import faults

_ARGUMENTS: Final = "architecture.arch_kwargs"

STAND_INS: Final[Mapping[str, Any]] = {
    "patch_size": [1, 1, 1],
    "spacing": [1, 1, 1],
    "normalization_schemes": [],
    "use_mask_for_norm": [],
    "resampling_fn_data": "",
    "resampling_fn_seg": "",
    "resampling_fn_data_kwargs": {},
    "resampling_fn_seg_kwargs": {},
    "resampling_fn_probabilities": "",
    "resampling_fn_probabilities_kwargs": {},
    "architecture": {"network_class_name": "", "arch_kwargs": {}},
    "architecture.network_class_name": "",
    _ARGUMENTS: {},
    f"{_ARGUMENTS}.n_stages": 1,
    f"{_ARGUMENTS}.features_per_stage": [],
    f"{_ARGUMENTS}.conv_op": "",
    f"{_ARGUMENTS}.kernel_sizes": [],
    f"{_ARGUMENTS}.strides": [],
    f"{_ARGUMENTS}.n_conv_per_stage_decoder": [],
}
"""Well-formed values for all entries that a configuration must have; others can be left out."""


def salvaged(configurations: Mapping[str, Mapping[str, Any]], name: str) -> Checked:
    """Put a configuration together from what of it is well-formed, and stand-ins.

    Args:
        configurations: All of the plan.
        name: Of one of them.
    """
    entries = resolved(configurations, name).entries
    lost: set[str] = set()
    while True:  # Each round replaces more, and in the end all that can be wrong.
        try:
            return Checked(Configuration.model_validate(entries), frozenset(lost))
        except ValidationError as error:
            places = {_not_yet(_place(where, entries), lost) for where, _ in faults(error)}
        for place in places:
            entries = _replaced(entries, place)
        lost |= places


def _place(where: str, entries: Mapping[str, Any]) -> str:
    """Return the entry that a fault is in: of the network, a single argument."""
    place = ""
    value: Any = entries
    for part in where.split("."):
        place = f"{place}.{part}".lstrip(".")
        value = value.get(part)
        if place not in {"architecture", _ARGUMENTS} or not isinstance(value, Mapping):
            break
    return place


def _not_yet(place: str, lost: Collection[str]) -> str:
    """Return an entry, or what it is in if it was replaced in vain: it may stand there under an alias."""
    while place in lost:
        place = place.rpartition(".")[0]
    return place


def _replaced(entries: Mapping[str, Any], place: str, within: str = "") -> dict[str, Any]:
    """Return entries of which one is a stand-in, or left out.

    Args:
        entries: Of the configuration, or further in.
        place: Dotted path in the configuration.
        within: The dotted path of `entries`, with a dot at its end.
    """
    key, _, deeper = place.removeprefix(within).partition(".")
    if deeper:
        return {**entries, key: _replaced(entries[key], place, f"{within}{key}.")}
    rest = {other: entry for other, entry in entries.items() if other != key}
    return rest | {key: STAND_INS[place]} if place in STAND_INS else rest
