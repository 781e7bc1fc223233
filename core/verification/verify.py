"""Verify a dataset: every problem of every case at once, and what deserves a look."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from core.domain.dataset import (
    CaseId,
    DatasetDescription,
    DatasetProblem,
    Draft,
    invalid_dataset,
    read_draft,
)
from core.domain.geometry import Shape, Spacing
from core.domain.labels import LabelSet, label_mistakes, label_set
from core.domain.problems import problem, some
from core.domain.progress import Observer
from core.domain.record import Record, describe
from core.domain.training import Split
from core.errors import DatasetError, ImageError, UnknownNameError
from core.io.cases import (
    IMAGES_FOLDER,
    LABELS_FOLDER,
    CaseFiles,
    Listing,
    Stage,
    description_text,
    folder_cases,
    listed_cases,
    map_cases,
    missing_folders,
    require_folder,
)
from core.io.readers import READERS, known_endings, read_header, reader_for_file
from core.io.scan import endings_in
from core.memory import Memory
from core.verification.case_checks import Findings, Rules, check_case
from core.verification.comparison import (
    ClassFrequency,
    class_frequencies,
    dataset_notes,
    dataset_problems,
    declaration_notes,
)

TEST_IMAGES_FOLDER: Final = "imagesTs"
TEST_LABELS_FOLDER: Final = "labelsTs"
SPLITS_FILE: Final = "splits_final.json"

DEFAULT_ENDING: Final = ".nii.gz"
"""Where neither dataset.json nor the files tell."""

VOTERS: Final = 9
"""Images that are asked which reader they need."""

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
    draft = _draft(raw)
    labels, label_problems = _labels(draft)
    ending, ending_problems = _ending(raw, draft)
    listing = _training_cases(raw, draft, ending, outside=outside)
    tests = _test_cases(raw, ending)
    reader, reader_problems = _reader(draft, listing.cases)
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
                *_splits_problems(raw, listing.cases),
                *dataset_problems(trained, labels),
                *(one for found in trained for one in found.problems),
            )
        ),
        notes=_in_order(
            (
                *_declaration_notes(draft, labels),
                *listing.notes,
                *dataset_notes(trained, channels or (), labels),
                *_split_notes(raw),
                *_test_notes(tests, trained, tested),
            )
        ),
    )


# --- dataset.json --------------------------------------------------------------------------------------------


def _draft(raw: Path) -> Draft:
    """Read dataset.json as far as it can be used."""
    require_folder(raw)
    try:
        return read_draft(description_text(raw))
    except DatasetError as error:
        return Draft(description=None, mistakes=(invalid_dataset(error.message),))


def _labels(draft: Draft) -> tuple[LabelSet | None, list[DatasetProblem]]:
    """Return the labels, or None and how they contradict each other."""
    if draft.labels is None:
        return None, []
    mistakes = label_mistakes(draft.labels, draft.class_order)
    if mistakes:
        return None, [problem(None, "invalid-labels", f"dataset.json: {mistake}") for mistake in mistakes]
    return label_set(draft.labels, draft.class_order), []


def _allowed_values(labels: LabelSet) -> frozenset[int]:
    """Return the values that a label file may have."""
    return frozenset(labels.labels if labels.ignore is None else (*labels.labels, labels.ignore))


def _declaration_notes(draft: Draft, labels: LabelSet | None) -> Iterator[DatasetProblem]:
    """Point at what dataset.json says and hardly means."""
    names = tuple(draft.channel_names or ())
    yield from declaration_notes(names, draft.labels or {}, draft.class_order, labels)


def _ending(raw: Path, draft: Draft) -> tuple[str, list[DatasetProblem]]:
    """Return the ending of the files: that of dataset.json, unless the files say otherwise."""
    counted = endings_in(raw / IMAGES_FOLDER) if draft.listed is None else {}
    usual = max(counted, key=lambda ending: counted[ending], default=draft.file_ending or DEFAULT_ENDING)
    declared = draft.file_ending
    if declared is None:
        return usual, []
    if declared.lower() not in known_endings():
        message = (
            f"dataset.json says file_ending {declared}, which cannot be read; it must be one of "
            f"{', '.join(known_endings())}" + (f": the images end in {usual}" if counted else "")
        )
        return usual, [problem(None, "file-ending", message)]
    if counted and declared not in counted:
        message = (
            f"dataset.json says file_ending {declared}, but no image in {IMAGES_FOLDER} ends so; {counted[usual]} "
            f"end in {usual}: correct file_ending, or convert the files"
        )
        return usual, [problem(None, "file-ending", message)]
    return declared, []


def _reader(draft: Draft, cases: Sequence[CaseFiles]) -> tuple[str | None, list[DatasetProblem]]:
    """Choose the reader that dataset.json names, or one that can read the first image that any can read."""
    examples = [case.images[0] for case in cases if case.images]
    named = draft.reader
    if named is None:
        return _fitting_reader(examples), []
    try:
        READERS.get(named)
    except UnknownNameError as error:
        message = f"dataset.json, overwrite_image_reader_writer: {error.message}, or leave the entry out"
        return _fitting_reader(examples), [problem(None, "unknown-name", message)]
    if any(_can_read(path, named) for path in examples):
        return named, []
    instead = _fitting_reader(examples)
    if instead is None:
        return None, []
    message = (
        f"dataset.json insists on the reader {named}, which can read no image here; {instead} can: leave "
        "overwrite_image_reader_writer out"
    )
    return instead, [problem(None, "unknown-name", message)]


def _fitting_reader(examples: Sequence[Path]) -> str | None:
    """Return the reader of most images, so that an odd one is told from the others, even if it is the first."""
    votes: Counter[str] = Counter()
    for path in examples:
        try:
            votes[reader_for_file(path)] += 1
        except (ImageError, OSError, ValueError):
            continue  # Each file is checked later, and its problem told then.
        if votes.total() == VOTERS:
            break
    return max(votes, key=lambda name: votes[name], default=None)


def _can_read(path: Path, reader: str) -> bool:
    """Return whether a reader understands a file's header."""
    try:
        read_header(path, reader)
    except (ImageError, OSError, ValueError):
        return False
    return True


# --- files ---------------------------------------------------------------------------------------------------


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


def _splits_problems(raw: Path, cases: Sequence[CaseFiles]) -> Iterator[DatasetProblem]:
    """Check the splits that a dataset brings along."""
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


# --- findings ------------------------------------------------------------------------------------------------


def _split_notes(raw: Path) -> Iterator[DatasetProblem]:
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
