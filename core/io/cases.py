"""Find the cases of a dataset folder, whether its files follow the layout or dataset.json lists them."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.domain.dataset import CaseId, DatasetDescription, DatasetProblem, ListedCase
from core.domain.problems import problem, some
from core.errors import DatasetError
from core.io.case_store import is_file_name
from core.io.pairing import ambiguous_names, channel_gaps, missing_partners
from core.io.readers import known_endings
from core.io.scan import scan_images, scan_labels

DESCRIPTION_FILE: Final = "dataset.json"
IMAGES_FOLDER: Final = "imagesTr"
LABELS_FOLDER: Final = "labelsTr"

DESCRIPTION_BYTES: Final = 16 * 2**20
"""Longest dataset.json that is read; a list of 50 000 cases stays below it."""


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """Where the files of one case are."""

    case_id: CaseId
    images: tuple[Path, ...]
    """In channel order."""
    label: Path | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The cases of a dataset, and what is wrong with the names of its files."""

    cases: tuple[CaseFiles, ...]
    problems: tuple[DatasetProblem, ...]
    notes: tuple[DatasetProblem, ...]
    refused: tuple[DatasetProblem, ...] = ()
    """Entries of dataset.json that must not be followed; their cases are left out."""


def read_description(raw: Path) -> DatasetDescription:
    """Read dataset.json of a dataset folder.

    Raises:
        DatasetError: It is absent or cannot be used; of nnU-Net v1 and the Decathlon it is told how to write it.
    """
    return DatasetDescription.parse(description_text(raw))


def require_folder(raw: Path) -> None:
    """Make sure that there is a dataset folder to look into.

    Raises:
        DatasetError: There is none, or it may not be opened.
    """
    if not raw.is_dir():
        kind = "is no folder" if raw.exists() else "does not exist"
        raise DatasetError(
            f"{raw} {kind}; give the folder of a dataset, which holds {DESCRIPTION_FILE}, {IMAGES_FOLDER} and "
            f"{LABELS_FOLDER}"
        )
    if not os.access(raw, os.R_OK | os.X_OK):
        raise DatasetError(f"{raw} may not be opened; check its permissions")


def description_text(raw: Path) -> bytes:
    """Return the text of dataset.json.

    Raises:
        DatasetError: It is absent, too long or cannot be opened.
    """
    require_folder(raw)
    path = raw / DESCRIPTION_FILE
    if not path.is_file():
        inside = [entry.parent.name for entry in sorted(raw.glob(f"*/{DESCRIPTION_FILE}"))]
        hint = (
            f"; one is in {some(inside)}: give that folder, if it is the dataset" if inside else "; add one"
        )
        raise DatasetError(f"the dataset has no {DESCRIPTION_FILE} in its top folder{hint}")
    try:
        if path.stat().st_size > DESCRIPTION_BYTES:
            raise DatasetError(
                f"{DESCRIPTION_FILE} is longer than {DESCRIPTION_BYTES // 2**20} MiB; shorten it"
            )
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{DESCRIPTION_FILE} cannot be opened ({error.strerror}); check its permissions"
        ) from error


def find_cases(raw: Path, description: DatasetDescription, *, outside: bool = False) -> tuple[CaseFiles, ...]:
    """List the training cases of a dataset folder, whether complete or not.

    Files whose name does not follow the layout are left out; `core.verification.verify` reports them.

    Args:
        raw: The dataset folder.
        description: Its dataset.json.
        outside: Whether dataset.json may list files outside the folder, by absolute paths, `..` or environment
            variables. Right for the folder of somebody who may read those files anyway; never for one that
            came from elsewhere.

    Returns:
        By identifier; in the order of dataset.json where that lists the cases itself.

    Raises:
        DatasetError: A folder is missing, or dataset.json lists files that it must not.

    Source:
        Engine specification A 1.2.
    """
    if description.dataset is not None:
        listing = listed_cases(raw, description.dataset, outside=outside)
        if listing.refused:
            raise DatasetError(listing.refused[0].message)
        return listing.cases
    missing = missing_folders(raw)
    if missing:
        raise DatasetError("; ".join(missing))
    return folder_cases(raw / IMAGES_FOLDER, raw / LABELS_FOLDER, description.file_ending).cases


def find_images(folder: Path, description: DatasetDescription) -> tuple[CaseFiles, ...]:
    """Find the cases of a folder of images without references, as prediction takes them.

    Files end as the dataset's do or, if none does, in any other ending that can be read.

    Raises:
        DatasetError: There is no such folder, or no image in it follows the naming `CASE_0000<ending>`.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}")
    for ending in (description.file_ending, *known_endings()):
        images = scan_images(folder, ending).files
        if images:
            return tuple(
                CaseFiles(case_id, tuple(channels[number] for number in sorted(channels)), None)
                for case_id, channels in sorted(images.items())
            )
    raise DatasetError(
        f"{folder} holds no image named CASE_0000{description.file_ending}; name the files of a case "
        "CASE_0000, CASE_0001, … in the order of the channels"
    )


def missing_folders(raw: Path) -> list[str]:
    """Say which of the folders of images and labels are not there; empty if both are."""
    sentences = []
    for name in (IMAGES_FOLDER, LABELS_FOLDER):
        if not (raw / name).is_dir():
            alike = [entry.name for entry in sorted(raw.iterdir()) if _letters(entry.name) == _letters(name)]
            cure = f"rename {alike[0]} to {name}" if alike and alike[0] != name else "add it"
            sentences.append(f"the dataset has no folder {name} beside {DESCRIPTION_FILE}; {cure}")
    return sentences


def folder_cases(images: Path, labels: Path | None, ending: str) -> Listing:
    """List the cases of a folder of images and one of labels, by their names.

    Args:
        images: Holds `CASE_0000<ending>` and so on.
        labels: Holds `CASE<ending>`; None where labels are not expected.
        ending: As dataset.json says.

    Source:
        Engine specification A 1.2, A 2 (6); the names that users get wrong, A 11.1 (17).
    """
    found = scan_images(images, ending)
    references = scan_labels(labels, ending) if labels is not None else None
    by_case = {} if references is None else {case_id: files[0] for case_id, files in references.files.items()}
    cases = tuple(
        CaseFiles(case_id, tuple(channels[number] for number in sorted(channels)), by_case.get(case_id))
        for case_id, channels in sorted(found.files.items())
    )
    problems = [*found.problems, *channel_gaps(images, found.files, ending), *ambiguous_names(found.files)]
    notes = found.notes
    if references is not None and labels is not None:
        problems += references.problems
        problems += missing_partners(images, labels, (found.files, by_case), ending)
        notes += references.notes
    return Listing(cases, tuple(problems), notes)


def listed_cases(raw: Path, listed: Mapping[CaseId, ListedCase], *, outside: bool) -> Listing:
    """List the cases that dataset.json names with their files.

    Args:
        raw: The dataset folder, from which relative paths start.
        listed: Images and label of each case.
        outside: As for `find_cases`. Only then are environment variables replaced: they are none of the business
            of a dataset that came from elsewhere.

    Source:
        Engine specification A 1.2.
    """
    cases: list[CaseFiles] = []
    refused: list[DatasetProblem] = []
    for case_id, entry in listed.items():
        wrong = list(_forbidden(raw, case_id, entry, outside=outside))
        refused += wrong
        if not wrong:
            images = tuple(_resolved(raw, path, outside=outside) for path in entry.images)
            cases.append(CaseFiles(case_id, images, _resolved(raw, entry.label, outside=outside)))
    problems = [*refused, *ambiguous_names(listed)]
    return Listing(tuple(cases), tuple(problems), tuple(_listed_twice(cases)), tuple(refused))


def _forbidden(raw: Path, case_id: CaseId, entry: ListedCase, *, outside: bool) -> Iterator[DatasetProblem]:
    """Report an identifier that cannot name a file, and paths that cannot be or must not be followed."""
    if not is_file_name(case_id) or not case_id.isprintable():
        yield problem(
            case_id,
            "file-name",
            f"dataset.json lists a case that cannot name a file: {case_id!r}; use letters and digits",
        )
    for path in (*entry.images, entry.label):
        if not path.isprintable():
            yield problem(case_id, "file-name", f"dataset.json lists {path!r}, which is no path; correct it")
        elif not outside and not _is_inside(raw, path):
            yield problem(
                case_id,
                "file-outside",
                f"dataset.json lists {path}, which is outside the dataset; put the file into the dataset's folder "
                "and list it relative to dataset.json",
            )


def _resolved(raw: Path, entry: str, *, outside: bool) -> Path:
    """Return the file that an entry of dataset.json means."""
    return raw / (os.path.expandvars(entry) if outside else entry)


def _is_inside(raw: Path, entry: str) -> bool:
    """Return whether a path, links followed, stays within the dataset."""
    return Path(os.path.realpath(raw / entry)).is_relative_to(os.path.realpath(raw))


def _listed_twice(cases: Sequence[CaseFiles]) -> Iterator[DatasetProblem]:
    """Point at files that stand more than once in dataset.json."""
    users: dict[str, list[CaseId]] = {}
    for case in cases:
        for path in (*case.images, *([case.label] if case.label else [])):
            users.setdefault(os.path.normpath(path), []).append(case.case_id)
    for file, case_ids in users.items():
        if len(case_ids) > 1:
            counted = [f"{case_id} ({count} times)" for case_id, count in Counter(case_ids).items()]
            names = some(counted if len(counted) == 1 else list(dict.fromkeys(case_ids)))
            message = f"dataset.json lists {Path(file).name} for {names}; correct the path where it is wrong"
            yield problem(case_ids[-1], "listed-twice", message)


def _letters(name: str) -> str:
    """Return the letters of a name in lower case, to tell misspelled folders."""
    return re.sub(r"[^a-z]", "", name.lower())
