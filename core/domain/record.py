"""Records: frozen data that crosses a process border or lands in a file as JSON."""

import errno
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from core.domain.file_kinds import mistaken_for
from core.errors import DomainError

TRIED_TYPE = re.compile(r"int|float|str|bool|(tuple|list|dict|literal|nullable|function-[a-z]+)\[.*")
"""Parts of a pydantic error's place that stand for one branch of a union."""


PYTHON_WORDS: Final[Mapping[str, str]] = {
    r"^Field required$": "is required, but missing",
    r"a valid tuple": "a list",
    r"a valid dictionary( or instance of \w+)?": "an object, names and values in braces",
    r"^Tuple should": "The list should",
    r" after validation": "",
}
"""What pydantic writes, and what the same is in JSON."""

JSON_NOUNS: Final[Mapping[type, str]] = {
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
"""What a JSON value that is no object is called."""


class Record(BaseModel):
    """A frozen, closed record: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="null")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, keyed as in the file."""
        return self.model_dump(mode="json", by_alias=True)


class SharedRecord(Record):
    """A record whose file other nnU-Net tools write too: unknown keys are kept and written back."""

    model_config = ConfigDict(extra="allow")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values as the file had them: keys that were absent stay absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def faults(error: ValidationError) -> list[tuple[str, str]]:
    """Take a pydantic error apart into where, as a dotted path, and what; each pair once.

    Parts of a place that name the type that was tried, instead of a key or an index, are left out; so is that a
    list is too short because some of its entries are wrong.
    """
    pairs = [
        (item["type"], _place(item["loc"]), _worded(item["msg"])) for item in error.errors(include_url=False)
    ]
    places = [where for _, where, _ in pairs]
    kept = [
        (where, what)
        for kind, where, what in pairs
        if kind != "too_short" or not any(place.startswith(f"{where}.") for place in places)
    ]
    return list(dict.fromkeys(kept))


def _worded(message: str) -> str:
    """Say in the words of JSON what pydantic says in those of Python."""
    for pattern, words in PYTHON_WORDS.items():
        message = re.sub(pattern, words, message)
    return message


def _place(parts: Sequence[int | str]) -> str:
    """Return a dotted path."""
    return ".".join(str(part) for part in parts if not TRIED_TYPE.fullmatch(str(part)))


def describe(error: ValidationError) -> str:
    """Put a pydantic error into one sentence that names every offending key."""
    return "; ".join(f"{where or 'the whole'}: {what}" for where, what in faults(error))


def parse_json(text: str | bytes, name: str, error: type[DomainError]) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: The file's content.
        name: What the file is called in the nnU-Net family, and in an error sentence.
        error: The error to raise.

    Raises:
        DomainError: The text is no JSON object, or seems to be another file than the name says.
    """
    if isinstance(text, str):
        text = text.removeprefix("\ufeff")  # A byte order mark, which some editors write.
    if not text.strip():
        raise error(f"{name} is empty, which is no JSON; copy or write it again")
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # Half of a surrogate pair could be written nowhere.
    except (ValueError, RecursionError) as reason:
        raise error(
            f"{name} is not valid JSON: {reason}; correct it there, or write it anew as UTF-8 text"
        ) from reason
    other = mistaken_for(value, name)
    if other is not None:
        raise error(f"{name} seems to be a {other}, which does not belong here; give the {name}")
    if not isinstance(value, dict):
        raise error(f"{name} must hold a JSON object, not {JSON_NOUNS[type(value)]}; is it the right file?")
    return value


def write_json(path: Path, value: object, *, sort_keys: bool = False) -> None:
    """Write JSON with four spaces, as all files of the nnU-Net family do, by temporary name and rename.

    The temporary name is this process's own: the folds of a model write the same files at the same time.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    text = json.dumps(value, indent=4, sort_keys=sort_keys, allow_nan=False) + "\n"
    _require_replaceable(path)
    temporary = _temporary(path)
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def require_writable(path: Path) -> None:
    """Refuse a path at which no file can be written, before hours are spent on what it is to hold.

    Raises:
        OSError: It cannot; with the path as the user gave it.
    """
    try:
        _require_replaceable(path)
        folder = path.parent
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is no folder")
        trial = _temporary(folder / path.name)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
    except ValueError as error:  # A zero byte, which no name can have.
        raise OSError(errno.EINVAL, str(error), str(path)) from error


def _require_replaceable(path: Path) -> None:
    """Refuse a folder, and a device, in whose place a file would do harm.

    Raises:
        OSError: Something other than a file is there.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "there is a folder; name a file", str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "this is no ordinary file", str(path))


def _temporary(path: Path) -> Path:
    """Return where a file is written before it gets its name."""
    return path.with_name(f"{path.name}.{os.getpid()}.partial")
