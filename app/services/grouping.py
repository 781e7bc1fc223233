"""Which patient each case shows, found by a client's regular expression: in a process of its own, for a limited time."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from app.errors import RequestError
from core.domain.problems import some

PATIENCE_SECONDS: Final = 5.0
"""Some expressions would search a short text for years, and no thread can be stopped that does so."""

PROGRAM: Final = """
import json, re, sys
pattern, cases = json.load(sys.stdin)
find = re.compile(pattern).search
json.dump([match[1] if (match := find(case)) else None for case in cases], sys.stdout)
"""


def patients_found(pattern: str, case_ids: Sequence[str]) -> dict[str, str]:
    """Return what the first group of an expression is in each case identifier.

    Args:
        pattern: A regular expression with a group.
        case_ids: To be searched.

    Raises:
        RequestError: It finds nothing in some of them, or searches for too long.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-I", "-S", "-c", PROGRAM],
            input=json.dumps([pattern, list(case_ids)]),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise RequestError(
            f"group_by: {pattern!r} takes too long to search the case identifiers; repeat less within what is "
            "repeated, such as '^([^_]+)_'"
        ) from error
    found = dict(zip(case_ids, json.loads(done.stdout), strict=True))
    missing = sorted(case for case, patient in found.items() if not patient)
    if missing:
        raise RequestError(
            f"group_by: {pattern!r} finds no patient in {some(missing)}; write an expression whose first group is the "
            "patient in every case identifier",
            cases=list(missing),
        )
    return found
