"""A verification as lines for a terminal: classes by frequency, problems and notes, those of equal form together."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from core.domain.dataset import DatasetProblem
from core.domain.problems import some
from core.verification.comparison import ClassFrequency
from core.verification.verify import Verification

SHOWN_ALIKE: Final = 10
"""Sentences of equal form that are written out; of more, only the cases are named."""

SHOWN_CLASSES: Final = 300
"""Lines of classes; smoothed label files have thousands of values."""


def outline(found: Verification) -> Iterator[str]:
    """Yield the lines: classes, notes, problems last, where they are seen."""
    yield from _class_lines(found.classes, len(found.cases))
    yield from _lines(found.notes, "note, ")
    yield from _lines(found.problems, "")
    yield from _counts(found)


def _class_lines(classes: Sequence[ClassFrequency], cases: int) -> Iterator[str]:
    """Yield a table of labels; nothing where no label file was read."""
    total = sum(entry.voxels for entry in classes)
    if not total:
        return
    yield f"{'label':>6} {'cases':>7} {'voxels':>14} {'share':>9}  name"
    for entry in classes[:SHOWN_CLASSES]:
        name = ", ".join(entry.names) or "(not declared)"
        yield (
            f"{entry.label:>6} {f'{entry.cases}/{cases}':>7} {entry.voxels:>14} {entry.voxels / total:>9.4%}  {name}"
        )
    if len(classes) > SHOWN_CLASSES:
        yield f"and {len(classes) - SHOWN_CLASSES} more values"


def _lines(problems: Sequence[DatasetProblem], mark: str) -> Iterator[str]:
    """Yield one line per problem, or few where many have the same form."""
    groups: dict[tuple[str, str], list[DatasetProblem]] = defaultdict(list)
    for one in problems:
        groups[one.kind, _form(one)].append(one)
    for alike in groups.values():
        for one in alike[:SHOWN_ALIKE]:
            yield f"{one.case or 'dataset'}: {mark}{one.kind}: {one.message}"
        rest = [one.case or "dataset" for one in alike[SHOWN_ALIKE:]]
        if rest:
            yield f"{len(rest)} more: {mark}{alike[0].kind}: likewise {some(rest)}"


def _counts(found: Verification) -> Iterator[str]:
    """Yield how many there are of each kind, where they are too many to count."""
    for what, problems in (("notes", found.notes), ("problems", found.problems)):
        if len(problems) > SHOWN_ALIKE:
            kinds = Counter(one.kind for one in problems).most_common()
            yield f"{what}: {', '.join(f'{count} {kind}' for kind, count in kinds)}; --json-report has each"


def _form(one: DatasetProblem) -> str:
    """Return the message without the case's name and without numbers, equal for problems of equal form."""
    named = one.message if one.case is None else one.message.replace(one.case, "CASE")
    return re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "#", named)
