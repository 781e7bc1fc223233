"""The splits that a dataset brings along: whether they can be used, and what they hardly mean."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from core.domain.dataset import DatasetProblem
from core.domain.problems import problem, some
from core.domain.record import describe
from core.domain.splits import SPLITS_FILE
from core.domain.training import Split
from core.io.cases import CaseFiles


def split_problems(raw: Path, cases: Sequence[CaseFiles]) -> Iterator[DatasetProblem]:
    """Report splits that cannot be read, and cases in them that do not exist."""
    splits, sentence = _splits(raw)
    if sentence:
        yield problem(None, "invalid-splits", sentence)
    known = {case.case_id for case in cases}
    for number, split in enumerate(splits):
        unknown = sorted({*split.train, *split.val} - known)
        if unknown:
            yield problem(
                None,
                "invalid-splits",
                f"{SPLITS_FILE}, fold {number}: {some(unknown)} are no training cases; correct the names, add the "
                "cases, or delete the file",
            )


def split_notes(raw: Path) -> Iterator[DatasetProblem]:
    """Point at splits that score what they were trained on."""
    for number, split in enumerate(_splits(raw)[0]):
        both = sorted(set(split.train) & set(split.val))
        if both:
            yield problem(
                None,
                "split-overlap",
                f"{SPLITS_FILE}, fold {number} trains on {some(both)} and validates on them too; their scores will "
                "tell nothing: take them out of one list",
            )


def _splits(raw: Path) -> tuple[tuple[Split, ...], str]:
    """Read splits_final.json if there is one, or say why it cannot be read."""
    path = raw / SPLITS_FILE
    if not path.exists():
        return (), ""
    wanted = 'write a list of {"train": [case, …], "val": [case, …]}, or delete it'
    try:
        return TypeAdapter(tuple[Split, ...]).validate_json(path.read_bytes()), ""
    except ValidationError as error:
        return (), f"{SPLITS_FILE} cannot be used ({describe(error)}); {wanted}"
    except OSError as error:
        return (), f"{SPLITS_FILE} cannot be opened ({error.strerror}); {wanted}"
