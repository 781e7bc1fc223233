"""What dataset.json says of labels, file ending and reader, as far as it can be used; what it cannot say, files tell."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from core.domain.dataset import DatasetProblem, Draft, invalid_dataset, read_draft
from core.domain.labels import LabelSet, label_mistakes, label_set
from core.domain.problems import problem
from core.errors import DatasetError, ImageError, UnknownNameError
from core.io.cases import IMAGES_FOLDER, CaseFiles, description_text, require_folder
from core.io.readers import READERS, known_endings, read_header, reader_for_file
from core.io.scan import endings_in

DEFAULT_ENDING: Final = ".nii.gz"
"""Where neither dataset.json nor the files tell."""

VOTERS: Final = 9
"""Images that are asked which reader they need."""


def read_declaration(raw: Path) -> Draft:
    """Read dataset.json as far as it can be used.

    Raises:
        DatasetError: There is no such folder, or it may not be opened.
    """
    require_folder(raw)
    try:
        return read_draft(description_text(raw))
    except DatasetError as error:
        return Draft(description=None, mistakes=(invalid_dataset(error.message),))


def usable_labels(draft: Draft) -> tuple[LabelSet | None, list[DatasetProblem]]:
    """Return the labels, or None and how they contradict each other."""
    if draft.labels is None:
        return None, []
    mistakes = label_mistakes(draft.labels, draft.class_order)
    if mistakes:
        return None, [problem(None, "invalid-labels", f"dataset.json: {mistake}") for mistake in mistakes]
    return label_set(draft.labels, draft.class_order), []


def usual_ending(raw: Path, draft: Draft) -> tuple[str, list[DatasetProblem]]:
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


def usual_reader(draft: Draft, cases: Sequence[CaseFiles]) -> tuple[str | None, list[DatasetProblem]]:
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
