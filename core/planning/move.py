"""A plan of one dataset, carried over to another: so that a network can be pretrained there, or compared."""

from collections.abc import Mapping
from typing import Any

from core.domain.plan import Plan


def moved_plan(plan: Plan, *, dataset_name: str, plans_name: str | None, reader: str) -> Plan:
    """Make another dataset's plan of this one: the same networks, spacings and intensities.

    Args:
        plan: Of the dataset that it was made for.
        dataset_name: Full name of the other dataset's folder.
        plans_name: What to call it there; None keeps its name.
        reader: The other dataset's reader and writer.

    Returns:
        The plan, every entry that does not depend on the dataset unchanged. Where it is renamed, its preprocessed
        cases are too, so that they stay apart from those of a plan that the dataset has already.

    Source:
        Engine specification A 1.16.
    """
    name = plans_name or plan.plans_name
    return Plan.model_validate(
        plan.to_json()
        | {
            "dataset_name": dataset_name,
            "plans_name": name,
            "image_reader_writer": reader,
            "configurations": {
                key: _renamed(entries, plan.plans_name, name) for key, entries in plan.configurations.items()
            },
        }
    )


def _renamed(entries: Mapping[str, Any], before: str, after: str) -> dict[str, Any]:
    """Return a configuration whose preprocessed cases bear the new plan's name."""
    identifier = entries.get("data_identifier")
    if not isinstance(identifier, str) or before == after:
        return dict(entries)
    if identifier.startswith(before):
        return {**entries, "data_identifier": after + identifier.removeprefix(before)}
    return {**entries, "data_identifier": f"{after}_{identifier}"}
