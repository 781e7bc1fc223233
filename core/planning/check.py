"""Plans that a person edited: every mistake at once, each with its place in the file and its cure."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from core.domain.checked import unknown
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
from core.domain.plan_check import Intensities, configuration_mistakes, transposition_mistakes
from core.domain.record import parse_json
from core.errors import PlanError
from core.planning.salvage import salvaged

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
    wrong = {mistake.where.partition(".")[0] for mistake in mistakes}
    orders = (None if key in wrong else values[key] for key in ("transpose_forward", "transpose_backward"))
    mistakes += transposition_mistakes(*orders)
    if "image_reader_writer" not in wrong:
        mistakes += reader_mistakes(values["image_reader_writer"], description)
    if not isinstance(configurations, dict):
        return mistakes
    sound = {name: entries for name, entries in configurations.items() if isinstance(entries, dict)}
    found = {name: _contradictions(values, sound, name, description) for name in sound}
    for name in configurations:
        place = f"configurations.{name}"
        mistakes += _name_mistakes(place, name, sound.get(name, {}))
        mistakes += _slips(place, sound.get(name, {}), CONFIGURATION_KEYS)
        inherited = found.get(_parent(sound.get(name, {})), [])
        mistakes += [
            PlanMistake(f"{place}.{one.where}", one.message)
            for one in found.get(name, [])
            if one not in inherited
        ]
    return mistakes


def _parent(entries: Mapping[str, Any]) -> str:
    """Return the name of the configuration that another one inherits from; empty for none."""
    parent = entries.get("inherits_from")
    return parent if isinstance(parent, str) else ""


def _slips(place: str, entries: Mapping[str, Any], known: Collection[str]) -> Iterator[PlanMistake]:
    """Report keys that look like a known one that is misspelt; other unknown keys may be another tool's."""
    for key in entries:
        if key not in known and (meant := difflib.get_close_matches(key, known, 1, ALIKE)):
            yield PlanMistake(
                f"{place}.{key}".lstrip("."), f"there is no such entry; did you mean {meant[0]}?"
            )


def _name_mistakes(place: str, name: str, entries: Mapping[str, Any]) -> Iterator[PlanMistake]:
    """Report names that folders could not have, of a configuration and of its preprocessed cases."""
    mistake = configuration_name_mistake(name)
    if mistake is not None:
        yield PlanMistake(place, mistake)
    identifier = entries.get("data_identifier")
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
    values: Mapping[str, Any],
    sound: Mapping[str, Mapping[str, Any]],
    name: str,
    description: DatasetDescription | None,
) -> list[PlanMistake]:
    """Find what contradicts what in a configuration, and in what it inherits; places are within it.

    Args:
        values: The plan.
        sound: Its configurations, as far as they are objects.
        name: Of one of them.
        description: Of the dataset, if it is to be compared.
    """
    chosen = salvaged(sound, name)
    return [
        *configuration_mistakes(
            chosen.entries,
            _intensities(values),
            None if description is None else description.channels,
            chosen.standing_in,
        ),
        *(mistake for mistake in _stage_mistakes(sound, name) if chosen.tells(mistake.where)),
    ]


def _intensities(values: Mapping[str, Any]) -> Intensities | None:
    """Return the intensities of the foreground, as far as their form is right."""
    known = values.get(INTENSITIES, values.get(OLD_INTENSITIES))
    if not isinstance(known, dict):
        return None
    return {channel: _properties(entries) for channel, entries in known.items()}


def _properties(entries: Any) -> IntensityProperties | None:
    try:
        return IntensityProperties.model_validate(entries)
    except ValidationError:
        return None


def _stage_mistakes(sound: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[PlanMistake]:
    """Report stages of a cascade that do not exist, among a configuration's own entries."""
    for key in ("previous_stage", "next_stage"):
        stages = sound[name].get(key)
        for stage in stages if isinstance(stages, list) else [stages]:
            if stage is not None and (stage not in [*sound] or stage == name):
                yield PlanMistake(key, f"there is no other configuration {stage!r}")
