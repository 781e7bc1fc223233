"""What is wrong with a request, in our words instead of pydantic's: which field, what it must be, what was given."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.requests import FOLDS_PATTERN, NAME_PATTERN, PLAN_NAME_PATTERN

Fault = Mapping[str, Any]
"""What pydantic says of one field: type, loc, msg, input, ctx."""

LONGEST_SHOWN = 60
"""Characters of a value that are repeated; who sent it knows the rest."""

PATTERNS: Mapping[str, str] = {
    PLAN_NAME_PATTERN: "a text that begins with a letter or digit and goes on with letters, digits, '.', '_' or '-'",
    NAME_PATTERN: "a text without control characters",
    FOLDS_PATTERN: "folds like 0,1,4 or all",
}

WHOLE, NUMBER, TEXT, LIST = "a whole number", "a number", "a text", "a list"
ID = "an id like 5f0c1d9e-6a55-4d0f-9f7e-0a3a0a9f6f10"
OBJECT = "a JSON object"
CHOICE = "true or false"

REQUIREMENTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "int_type": lambda _: WHOLE,
    "int_parsing": lambda _: WHOLE,
    "int_parsing_size": lambda _: "a smaller whole number",
    "int_from_float": lambda _: WHOLE,
    "float_type": lambda _: NUMBER,
    "float_parsing": lambda _: NUMBER,
    "finite_number": lambda _: "a finite number",
    "bool_type": lambda _: CHOICE,
    "bool_parsing": lambda _: CHOICE,
    "string_type": lambda _: TEXT,
    "string_unicode": lambda _: "a text of whole characters",
    "string_too_short": lambda ctx: f"a text of at least {_counted(ctx['min_length'], 'character')}",
    "string_too_long": lambda ctx: f"a text of at most {_counted(ctx['max_length'], 'character')}",
    "string_pattern_mismatch": lambda ctx: PATTERNS.get(ctx["pattern"], f"a text like {ctx['pattern']}"),
    "greater_than": lambda ctx: f"more than {ctx['gt']:g}",
    "greater_than_equal": lambda ctx: f"at least {ctx['ge']}",
    "less_than": lambda ctx: f"less than {ctx['lt']}",
    "less_than_equal": lambda ctx: f"at most {ctx['le']:g}",
    "tuple_type": lambda _: LIST,
    "list_type": lambda _: LIST,
    "too_short": lambda ctx: f"a list of at least {_entries(ctx['min_length'])}",
    "too_long": lambda ctx: f"a list of at most {_entries(ctx['max_length'])}",
    "uuid_type": lambda _: ID,
    "uuid_parsing": lambda _: ID,
    "literal_error": lambda ctx: str(ctx["expected"]),
    "enum": lambda ctx: str(ctx["expected"]),
    "dict_type": lambda _: OBJECT,
    "model_type": lambda _: OBJECT,
    "model_attributes_type": lambda _: OBJECT,
}
"""Kind of a fault → what the field must be."""

SENTENCES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda _: "is missing",
    "extra_forbidden": lambda _: "is not known here; leave it out",
    "json_invalid": lambda ctx: f"is no JSON: {ctx['error']}",
    "value_error": lambda ctx: str(ctx["error"]),
}
"""Kind of a fault → what there is to say, whatever was given."""


def faults_of(found: Sequence[Fault]) -> list[tuple[str, str]]:
    """Return every field that is wrong, once, with what is wrong with it.

    Args:
        found: As pydantic lists them: one for each type that was tried.
    """
    faults: dict[str, list[Fault]] = {}
    for fault in found:
        faults.setdefault(_field(fault), []).append(fault)
    return [
        (field, _message(several))
        for field, several in faults.items()
        # A list is too short as well where its entries are wrong.
        if not (several[0]["type"] == "too_short" and any(other.startswith(f"{field}.") for other in faults))
    ]


def sentence(field: str, message: str) -> str:
    """Put a field and what is wrong with it together."""
    return f"{field} {message}" if message.startswith(("must be ", "is ")) else f"{field}: {message}"


def _field(fault: Fault) -> str:
    """Name a field as its sender knows it: `epochs`, `folds.2`; the whole body is `body`."""
    where, *inner = fault["loc"]
    if fault["type"] == "json_invalid":
        return str(where)
    if fault["type"] == "missing" and inner and isinstance(inner[-1], int):
        inner.pop()  # The list lacks it.
    names = [str(part) for part in inner if not str(part).startswith(("int", "constrained-", "literal["))]
    return ".".join(names) or str(where)


def _message(faults: Sequence[Fault]) -> str:
    """Say what a field must be, whichever of several types was meant."""
    fault = faults[-1]
    kind, last, context = fault["type"], fault["loc"][-1], fault.get("ctx") or {}
    if kind == "missing" and isinstance(last, int):
        return f"must be a list of {_entries(last + 1)} (given: {_shown(fault['input'])})"
    if kind in SENTENCES:
        return SENTENCES[kind](context)
    if any(one["type"] not in REQUIREMENTS for one in faults):  # What no request of ours can be so far.
        return "; ".join(str(one["msg"]) for one in faults)
    wanted = dict.fromkeys(REQUIREMENTS[one["type"]](one.get("ctx") or {}) for one in faults)
    return f"must be {' or '.join(wanted)} (given: {_shown(fault['input'])})"


def _shown(value: object) -> str:
    """Repeat a value as it was sent, if it is short; of a list or object say only what it is."""
    match value:
        case bytes():
            return f"{_counted(len(value), 'byte')} that are not declared as application/json"
        case list() | tuple():
            return f"a list of {_entries(len(value))}"
        case dict():
            return "an object"
        case _:
            text = json.dumps(value, default=str)
            return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def _entries(number: int) -> str:
    return f"{number} entry" if number == 1 else f"{number} entries"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
