"""Verify a dataset: every problem of every case at once, and what deserves a look."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from core.domain.dataset import CaseId, DatasetDescription, DatasetProblem, Draft, invalid_dataset
from core.domain.geometry import Shape, Spacing
from core.domain.labels import LabelSet
from core.domain.problems import problem, some
from core.domain.progress import Observer
from core.domain.record import Record
from core.io.cases import (
    IMAGES_FOLDER,
    LABELS_FOLDER,
    CaseFiles,
    Listing,
    folder_cases,
    listed_cases,
    missing_folders,
)
from core.io.every_case import Stage, map_cases
from core.memory import Memory
from core.verification.case_checks import Findings, Rules, check_case
from core.verification.comparison import (
    ClassFrequency,
    class_frequencies,
    dataset_notes,
    dataset_problems,
    declaration_notes,
)
from core.verification.declaration import read_declaration, usable_labels, usual_ending, usual_reader
from core.verification.splits import split_notes, split_problems

TEST_IMAGES_FOLDER: Final = "imagesTs"
TEST_LABELS_FOLDER: Final = "labelsTs"

READING_THREADS: Final = 4
"""More do not help a single disk."""

READING_BYTES: Final = 2 * 2**30
"""What the cases that are read at the same time may take together: two of 512 x 512 x 400 voxels."""


class CaseSummary(Record):
    """One case that could be read, for a list that people look at."""

    case_id: CaseId
    shape: Shape
    spacing: Spacing
    label_voxels: dict[int, int]
    """How often each label value occurs; empty where there is no readable label file."""


class Verification(Record):
    """What checking a dataset found; it can be used if there are no problems."""

    description: DatasetDescription | None
    """None where dataset.json cannot be used; that is among the problems."""
    reader: str | None
    """None where no reader understands the images; that is among the problems."""
    cases: tuple[CaseSummary, ...]
    """Of all training cases whose image can be read, by identifier."""
    test_cases: tuple[CaseSummary, ...] = ()
    """Likewise of the test images."""
    classes: tuple[ClassFrequency, ...] = ()
    """Every label that is declared or occurs, by value."""
    problems: tuple[DatasetProblem, ...]
    """Of the dataset as a whole first, then by case."""
    notes: tuple[DatasetProblem, ...]
    """What does not prevent training but deserves a look."""


def verify_dataset(
    raw: Path, observer: Observer, workers: int | None = None, *, outside: bool = False
) -> Verification:
    """Check a dataset: every problem of every case at once.

    A mistake in dataset.json does not hide those of the files: what it does not say is not compared, and its
    file ending is taken from the files.

    Args:
        raw: The dataset folder.
        observer: Told of every case; may ask to stop.
        workers: Cases read at the same time; by default up to four. Large ones wait for each other.
        outside: Whether dataset.json may list files outside the folder; see `core.io.cases.find_cases`.

    Raises:
        DatasetError: There is no such folder, or it may not be opened.
        CancelledError: The observer asked to stop.

    Source:
        Engine specification A 2; further checks are what users of nnU-Net report, A 11.1 (10), (13) to (20),
        (26) to (28).
    """
    draft = read_declaration(raw)
    labels, label_problems = usable_labels(draft)
    ending, ending_problems = usual_ending(raw, draft)
    listing = _training_cases(raw, draft, ending, outside=outside)
    tests = _test_cases(raw, ending)
    reader, reader_problems = usual_reader(draft, listing.cases)
    channels = None if draft.channel_names is None else tuple(draft.channel_names.values())
    rules = Rules(reader, channels, None if labels is None else _allowed_values(labels))
    findings = _checked(
        (*listing.cases, *tests.cases), rules, Stage("verify", observer, workers or _threads())
    )
    trained, tested = findings[: len(listing.cases)], findings[len(listing.cases) :]
    return Verification(
        description=draft.description,
        reader=reader,
        cases=tuple(_summaries(trained)),
        test_cases=tuple(_summaries(tested)),
        classes=class_frequencies(trained, draft.labels or {}),
        problems=_in_order(
            (
                *draft.mistakes,
                *label_problems,
                *ending_problems,
                *reader_problems,
                *listing.problems,
                *_count_problems(listing, draft, ending),
                *split_problems(raw, listing.cases),
                *dataset_problems(trained, labels),
                *(one for found in trained for one in found.problems),
            )
        ),
        notes=_in_order(
            (
                *_declaration_notes(draft, labels),
                *listing.notes,
                *dataset_notes(trained, channels or (), labels),
                *split_notes(raw),
                *_test_notes(tests, trained, tested),
            )
        ),
    )


def _allowed_values(labels: LabelSet) -> frozenset[int]:
    """Return the values that a label file may have."""
    return frozenset(labels.labels if labels.ignore is None else (*labels.labels, labels.ignore))


def _declaration_notes(draft: Draft, labels: LabelSet | None) -> Iterator[DatasetProblem]:
    """Point at what dataset.json says and hardly means."""
    names = tuple(draft.channel_names or ())
    yield from declaration_notes(names, draft.labels or {}, draft.class_order, labels)


def _training_cases(raw: Path, draft: Draft, ending: str, *, outside: bool) -> Listing:
    """List the training cases, as far as there are any."""
    if draft.listed is not None:
        return listed_cases(raw, draft.listed, outside=outside)
    missing = tuple(invalid_dataset(sentence) for sentence in missing_folders(raw))
    if not (raw / IMAGES_FOLDER).is_dir():
        return Listing((), missing, ())
    labels = raw / LABELS_FOLDER
    found = folder_cases(raw / IMAGES_FOLDER, labels if labels.is_dir() else None, ending)
    return Listing(found.cases, (*missing, *found.problems), found.notes)


def _test_cases(raw: Path, ending: str) -> Listing:
    """List the test images, which are there for predicting, and their labels if there are any."""
    images, labels = raw / TEST_IMAGES_FOLDER, raw / TEST_LABELS_FOLDER
    if not images.is_dir():
        return Listing((), (), ())
    return folder_cases(images, labels if labels.is_dir() else None, ending)


def _checked(cases: Sequence[CaseFiles], rules: Rules, stage: Stage) -> list[Findings]:
    """Read all files of all cases."""
    memory = Memory(READING_BYTES)
    return map_cases(
        lambda case: check_case(case.case_id, case.images, case.label, rules, memory), cases, stage
    )


def _threads() -> int:
    """Return how many cases are read at the same time."""
    return min(READING_THREADS, os.cpu_count() or 1)


def _count_problems(listing: Listing, draft: Draft, ending: str) -> Iterator[DatasetProblem]:
    """Compare the number of cases with numTraining."""
    if not listing.cases and draft.listed is None:
        yield problem(
            None,
            "no-cases",
            f"{IMAGES_FOLDER} holds no image named CASE_0000{ending}; add images, or rename them so",
        )
        return
    count = len(listing.cases)
    if draft.listed is not None:
        count = len({*draft.listed, *(mistake.case for mistake in draft.mistakes if mistake.case)})
    if draft.training_cases is not None and draft.training_cases != count:
        yield problem(
            None,
            "case-count",
            f"dataset.json says numTraining {draft.training_cases}, but the number of cases is {count} "
            f"({some([case.case_id for case in listing.cases])}); correct the number or add what is missing",
        )


def _test_notes(
    tests: Listing, trained: Sequence[Findings], tested: Sequence[Findings]
) -> Iterator[DatasetProblem]:
    """Turn what is wrong with test images into notes, and point at those that were trained on."""
    for one in (*tests.problems, *(one for found in tested for one in found.problems)):
        message = f"test images ({TEST_IMAGES_FOLDER}): {one.message}"
        yield DatasetProblem(case=one.case, kind="test-image", message=message)
    yield from tests.notes
    yield from (one for found in tested for one in found.notes)
    known = {found.digest: found.case_id for found in trained if found.digest}
    for found in tested:
        if found.digest in known:
            message = (
                f"the test image {found.case_id} has the same voxels as training case {known[found.digest]}; take "
                "one out, or its score will tell nothing"
            )
            yield problem(found.case_id, "duplicate-image", message)


def _in_order(problems: Sequence[DatasetProblem]) -> tuple[DatasetProblem, ...]:
    """Sort: the dataset as a whole first, then by case; each once."""
    return tuple(sorted(dict.fromkeys(problems), key=lambda one: one.case or ""))


def _summaries(findings: Sequence[Findings]) -> Iterator[CaseSummary]:
    """Summarize the cases that could be read."""
    for found in findings:
        if found.header is not None:
            yield CaseSummary(
                case_id=found.case_id,
                shape=found.header.shape,
                spacing=found.header.geometry.spacing,
                label_voxels=dict(found.label_voxels),
            )
