"""Plans that a person edited: every mistake at once, each with its place in the file and its cure."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import IntensityProperties
from core.domain.names import (
    READER_FORMATS,
    configuration_name_mistake,
    data_identifier_mistake,
    reader_names,
)
from core.domain.old_plans import OLD_KEYS
from core.domain.plan import (
    INTENSITIES,
    OLD_INTENSITIES,
    Configuration,
    Plan,
    PlanMistake,
    form_mistakes,
    plan_error,
)
from core.domain.plan_check import configuration_mistakes, transposition_mistakes, unknown
from core.domain.record import parse_json
from core.errors import PlanError

ALIKE: Final = 0.8
"""How similar an unknown key must be to a known one to be taken for a slip of the pen, from 0 to 1."""

MOST_CONFIGURATIONS: Final = 200
"""In one plan; each is compared with all that it inherits from."""

PLAN_KEYS: Final = frozenset({*Plan.model_fields, OLD_INTENSITIES})

CONFIGURATION_KEYS: Final = frozenset({*Configuration.model_fields, "inherits_from", *OLD_KEYS})


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
    mistakes = [*_slips("", values, PLAN_KEYS), *form_mistakes(values)]
    wrong_entries = {mistake.where.partition(".")[0] for mistake in mistakes}
    if not wrong_entries & {"transpose_forward", "transpose_backward"}:
        mistakes += transposition_mistakes(values["transpose_forward"], values["transpose_backward"])
    if "image_reader_writer" not in wrong_entries:
        mistakes += reader_mistakes(values["image_reader_writer"], description)
    if not isinstance(configurations, dict):
        return mistakes
    for name, entries in configurations.items():
        place = f"configurations.{name}"
        mistakes += _name_mistakes(name, entries)
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


def _slips(place: str, entries: Mapping[str, Any], known: Collection[str]) -> Iterator[PlanMistake]:
    """Report keys that look like a known one that is misspelt; other unknown keys may be another tool's."""
    for key in entries:
        if key not in known and (meant := difflib.get_close_matches(key, known, 1, ALIKE)):
            yield PlanMistake(
                f"{place}.{key}".lstrip("."), f"there is no such entry; did you mean {meant[0]}?"
            )


def _name_mistakes(name: str, entries: Any) -> Iterator[PlanMistake]:
    """Report names that folders could not have, of a configuration and of its preprocessed cases."""
    place = f"configurations.{name}"
    mistake = configuration_name_mistake(name)
    if mistake is not None:
        yield PlanMistake(place, mistake)
    identifier = entries.get("data_identifier") if isinstance(entries, dict) else None
    mistake = data_identifier_mistake(identifier) if isinstance(identifier, str) else None
    if mistake is not None:
        yield PlanMistake(f"{place}.data_identifier", mistake)


def reader_mistakes(reader: str, description: DatasetDescription | None) -> Iterator[PlanMistake]:
    """Report a reader that does not exist, or cannot read the dataset's files; which a package's can is not known here.

    Args:
        reader: Its name.
        description: Of the dataset; None if the files are not known.
    """
    yield from unknown("image_reader_writer", [reader], reader_names(), "reader")
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
    sound = {key: entries for key, entries in values["configurations"].items() if isinstance(entries, dict)}
    whole = Plan.model_validate(_STANDING_IN | {"configurations": sound})
    try:
        chosen = None if name is None else whole.configuration(name)
    except PlanError:
        chosen = None
    if name is None or chosen is None:
        return []
    return [
        *configuration_mistakes(
            chosen, _intensities(values), None if description is None else description.channels
        ),
        *_stage_mistakes(values["configurations"][name], whole, name),
    ]


_STANDING_IN: Final[dict[str, Any]] = {
    "image_reader_writer": "",
    "transpose_forward": (0, 1, 2),
    "transpose_backward": (0, 1, 2),
    INTENSITIES: {},
}
"""Entries that no configuration depends on, so that each can be resolved whatever else is wrong."""


def _intensities(values: Mapping[str, Any]) -> Mapping[str, IntensityProperties] | Collection[str]:
    """Return the intensities of the foreground; of which the form is wrong, only whose there are."""
    known = values.get(INTENSITIES) or values.get(OLD_INTENSITIES)
    if not isinstance(known, dict):
        return ()
    try:
        return {channel: IntensityProperties.model_validate(entries) for channel, entries in known.items()}
    except ValidationError:
        return known.keys()


def _stage_mistakes(own: Mapping[str, Any], plan: Plan, name: str) -> Iterator[PlanMistake]:
    """Report stages of a cascade that do not exist, among a configuration's own entries."""
    for key in ("previous_stage", "next_stage"):
        stages = own.get(key) or ()
        for stage in (stages,) if isinstance(stages, str) else stages:
            if stage not in plan.configurations or stage == name:
                yield PlanMistake(key, f"there is no other configuration {stage!r}")
