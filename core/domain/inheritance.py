"""What a configuration of a plan consists of: its own entries, those that it inherits, and old ones in today's words."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from core.domain.old_plans import OLD_KEYS, with_architecture
from core.errors import PlanError


class Resolved(NamedTuple):
    """The entries of a configuration, as far as they can be put together."""

    entries: dict[str, Any]
    mistakes: list[str]
    """Why some are missing: what it inherits, or its network, is not to be had; most often there is none."""


def resolved(configurations: Mapping[str, Mapping[str, Any]], name: str) -> Resolved:
    """Put the entries of a configuration together, whatever is wrong with its parents or its old entries.

    Args:
        configurations: All of the plan.
        name: Of one of them.
    """
    try:
        entries = with_inherited(configurations, name)
    except PlanError as error:
        own = {key: entry for key, entry in configurations[name].items() if key != "inherits_from"}
        # Of an old network there may be a part only, and the rest with the parents.
        return Resolved(_without_old_keys(own), [error.message.removeprefix("plans.json: ")])
    try:
        return Resolved(with_architecture(entries), [])
    except PlanError as error:
        return Resolved(_without_old_keys(entries), [error.message])


def _without_old_keys(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry for key, entry in entries.items() if key not in OLD_KEYS}


def with_inherited(configurations: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return a configuration's entries, and those of its parents that it does not replace.

    Raises:
        PlanError: A parent does not exist, or configurations inherit in a circle.

    Source:
        Engine specification A 1.7.
    """
    line: list[str] = []
    entries: dict[str, Any] = {}
    heir: str = ""
    parent: Any = name
    while parent is not None:
        if parent in line:
            circle = " → ".join((*line, parent))
            raise PlanError(f"plans.json: configurations inherit in a circle: {circle}", configuration=name)
        if not isinstance(parent, str) or parent not in configurations:
            raise PlanError(
                f"plans.json: configuration {heir} inherits from {parent!r}, which does not exist; "
                f"choose one of: {', '.join(configurations)}",
                configuration=name,
            )
        line.append(parent)
        own = dict(configurations[parent])
        heir, parent = parent, own.pop("inherits_from", None)
        entries = own | entries
    return entries
