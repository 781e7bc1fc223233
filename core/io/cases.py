"""Find the cases of a dataset folder, and report every problem of every case at once."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from core.domain.dataset import CaseId, DatasetDescription, DatasetProblem
from core.domain.geometry import Shape, Spacing
from core.domain.labels import LabelSet
from core.domain.progress import Observer, Progress
from core.domain.record import Record, parse_json
from core.errors import CancelledError, DatasetError, ImageError, LabelsError, UnknownNameError
from core.io.case_store import is_file_name
from core.io.checks import Findings, Rules, check_case, dataset_notes, dataset_problems, problem, some
from core.io.readers import choose_reader, known_endings

DESCRIPTION_FILE: Final = "dataset.json"
IMAGES_FOLDER: Final = "imagesTr"
LABELS_FOLDER: Final = "labelsTr"

DESCRIPTION_BYTES: Final = 16 * 2**20
"""Longest dataset.json that is read; a list of 50 000 cases stays below it."""

READING_THREADS: Final = 4
"""More do not help a single disk, and each holds one case in memory."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """Where the files of one case are."""

    case_id: CaseId
    images: tuple[Path, ...]
    """In channel order."""
    label: Path | None


class CaseSummary(Record):
    """One case that could be read, for a list that people look at."""

    case_id: CaseId
    shape: Shape
    spacing: Spacing
    label_voxels: dict[int, int]
    """How often each label value occurs; empty where there is no readable label file."""


class Verification(Record):
    """What checking a dataset found; it can be used if there are no problems."""

    description: DatasetDescription
    reader: str | None
    """None where no reader understands the images; that is among the problems."""
    cases: tuple[CaseSummary, ...]
    """Of all cases whose image can be read, by identifier."""
    problems: tuple[DatasetProblem, ...]
    notes: tuple[DatasetProblem, ...]
    """What does not prevent training but deserves a look."""


def read_description(raw: Path) -> DatasetDescription:
    """Read dataset.json of a dataset folder.

    Raises:
        DatasetError: It is absent or cannot be used; of nnU-Net v1 and the Decathlon it is told how to write it.
    """
    path = raw / DESCRIPTION_FILE
    if not path.is_file():
        raise DatasetError("the dataset has no dataset.json in its top folder; add one")
    if path.stat().st_size > DESCRIPTION_BYTES:
        raise DatasetError(f"dataset.json is longer than {DESCRIPTION_BYTES // 2**20} MiB; shorten it")
    text = path.read_bytes()
    labels = parse_json(text, DESCRIPTION_FILE, DatasetError).get("labels")
    if isinstance(labels, dict) and labels and all(key.isdecimal() for key in labels):
        swapped = ", ".join(f'"{name}": {value}' for value, name in labels.items() if isinstance(name, str))
        raise DatasetError(
            "dataset.json lists labels as number and name, as nnU-Net v1 and the Decathlon do; write "
            f'"labels": {{{swapped}}}, and give "channel_names", "file_ending" and "numTraining"'
        )
    return DatasetDescription.parse(text)


def find_cases(raw: Path, description: DatasetDescription) -> tuple[CaseFiles, ...]:
    """List the training cases of a dataset folder, whether complete or not.

    Files whose name does not follow the layout are left out; `verify_dataset` reports them.

    Returns:
        By identifier; in the order of dataset.json where that lists the cases itself.

    Raises:
        DatasetError: A folder is missing, or dataset.json lists files outside the dataset.

    Source:
        Engine specification A 1.2.
    """
    return _listing(raw, description).cases


def find_images(folder: Path, description: DatasetDescription) -> tuple[CaseFiles, ...]:
    """Find the cases of a folder of images without references, as prediction takes them.

    Files end as the dataset's do or, if none does, in any other ending that can be read.

    Raises:
        DatasetError: There is no such folder, or no image in it follows the naming `CASE_0000<ending>`.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}")
    for ending in (description.file_ending, *known_endings()):
        images, _ = _list_images(folder, ending)
        if images:
            return tuple(
                CaseFiles(case_id, tuple(channels[number] for number in sorted(channels)), None)
                for case_id, channels in sorted(images.items())
            )
    raise DatasetError(
        f"{folder} holds no image named CASE_0000{description.file_ending}; name the files of a case "
        "CASE_0000, CASE_0001, … in the order of the channels"
    )


def verify_dataset(raw: Path, observer: Observer, workers: int | None = None) -> Verification:
    """Check a dataset: every problem of every case at once.

    Args:
        raw: The dataset folder.
        observer: Told of every case; may ask to stop.
        workers: Cases read at the same time; by default up to four.

    Raises:
        DatasetError: dataset.json cannot be used or a folder is missing, so that there is nothing to check.
        CancelledError: The observer asked to stop.

    Source:
        Engine specification A 2; further checks are what users of nnU-Net report, A 11.1 (15) to (20), (26).
    """
    description = read_description(raw)
    listing = _listing(raw, description)
    problems = [*listing.problems, *_count_problems(listing.cases, description)]
    labels = _declared_labels(description, problems)
    reader = _reader(description, listing.cases, problems)
    if reader is None:
        return Verification(
            description=description, reader=None, cases=(), problems=tuple(problems), notes=()
        )
    rules = Rules(reader, description.channels, None if labels is None else _allowed_values(labels))
    findings = map_cases(
        lambda case: check_case(case.case_id, case.images, case.label, rules),
        listing.cases,
        Stage("verify", observer, workers or min(READING_THREADS, os.cpu_count() or 1)),
    )
    problems += [one for found in findings for one in found.problems]
    problems += dataset_problems(findings)
    return Verification(
        description=description,
        reader=reader,
        cases=tuple(_summaries(findings)),
        problems=tuple(problems),
        notes=tuple(dataset_notes(findings, labels)),
    )


@dataclass(frozen=True, slots=True)
class Stage:
    """How to go through cases: under which name, who listens, how many at a time."""

    name: str
    observer: Observer
    workers: int


def map_cases(work: Callable[[CaseFiles], T], cases: Sequence[CaseFiles], stage: Stage) -> list[T]:
    """Do work on every case in a few threads, and tell the observer.

    Threads suffice, because decoding, decompression and large array operations run outside Python's lock.

    Returns:
        Results in the order of the cases.

    Raises:
        CancelledError: The observer asked to stop.
        DomainError: What the work raised first, in the order of the cases.
    """
    results: list[T] = []
    with ThreadPoolExecutor(max_workers=stage.workers, thread_name_prefix=stage.name) as pool:
        futures = [pool.submit(work, case) for case in cases]
        try:
            for future in futures:
                if stage.observer.stop_requested():
                    raise CancelledError(f"{stage.name} stopped after {len(results)} of {len(cases)} cases")
                results.append(future.result())
                stage.observer.report(Progress(stage=stage.name, done=len(results), total=len(cases)))
        finally:
            pool.shutdown(cancel_futures=True)
    return results


# --- names of files ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Listing:
    """The cases of a folder, and what is wrong with the names of its files."""

    cases: tuple[CaseFiles, ...]
    problems: tuple[DatasetProblem, ...]


def _listing(raw: Path, description: DatasetDescription) -> _Listing:
    """List cases by dataset.json, where it lists them, or by folder."""
    if description.dataset is not None:
        unusable = [case_id for case_id in description.dataset if not is_file_name(case_id)]
        if unusable:
            raise DatasetError(
                f"dataset.json lists cases that cannot name a file: {some(unusable)}; use letters and digits"
            )
        cases = tuple(
            CaseFiles(
                case_id,
                tuple(_inside(raw, path) for path in listed.images),
                _inside(raw, listed.label),
            )
            for case_id, listed in description.dataset.items()
        )
        return _Listing(cases, ())
    missing = [name for name in (IMAGES_FOLDER, LABELS_FOLDER) if not (raw / name).is_dir()]
    if missing:
        raise DatasetError(f"the dataset has no folder {' and no folder '.join(missing)} beside dataset.json")
    images, image_problems = _list_images(raw / IMAGES_FOLDER, description.file_ending)
    labels, label_problems = _list_labels(raw / LABELS_FOLDER, description.file_ending)
    cases = tuple(
        CaseFiles(case_id, tuple(channels[number] for number in sorted(channels)), labels.get(case_id))
        for case_id, channels in sorted(images.items())
    )
    return _Listing(
        cases, (*image_problems, *label_problems, *_pairing_problems(images, labels, description))
    )


def _inside(raw: Path, entry: str) -> Path:
    """Resolve a path of dataset.json; it must stay within the dataset."""
    path = raw / entry
    if not path.resolve().is_relative_to(raw.resolve()):
        raise DatasetError(
            f"dataset.json lists {entry}, which is outside the dataset; put the file into the dataset's folder "
            "and list it relative to dataset.json"
        )
    return path


def _list_images(folder: Path, ending: str) -> tuple[dict[CaseId, dict[int, Path]], list[DatasetProblem]]:
    """Group image files by case and channel number."""
    pattern = re.compile(rf"(?P<case>.+)_(?P<channel>\d{{4}}){re.escape(ending)}")
    images: dict[CaseId, dict[int, Path]] = defaultdict(dict)
    problems: list[DatasetProblem] = []
    for path in _visible_files(folder):
        match = pattern.fullmatch(path.name)
        if match:
            images[match["case"]][int(match["channel"])] = path
        elif path.name.endswith(ending):
            case_id = path.name.removesuffix(ending)
            problems.append(
                problem(
                    case_id,
                    "file-name",
                    f"{IMAGES_FOLDER}/{path.name} has no channel number; rename it to {case_id}_0000{ending}",
                )
            )
        else:
            problems += _ending_problems(path, ending)
    return dict(images), problems


def _list_labels(folder: Path, ending: str) -> tuple[dict[CaseId, Path], list[DatasetProblem]]:
    """Return label files by case."""
    labels: dict[CaseId, Path] = {}
    problems: list[DatasetProblem] = []
    for path in _visible_files(folder):
        if path.name.endswith(ending):
            labels[path.name.removesuffix(ending)] = path
        else:
            problems += _ending_problems(path, ending)
    return labels, problems


def _visible_files(folder: Path) -> list[Path]:
    """List files by name, without those that systems hide or leave behind."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())


def _ending_problems(path: Path, ending: str) -> list[DatasetProblem]:
    """Report an image whose ending is not that of the dataset; other files are none of our business."""
    for known in known_endings():
        if path.name.lower().endswith(known):
            return [
                problem(
                    path.name[: -len(known)],
                    "file-ending",
                    f"{path.parent.name}/{path.name} does not end in {ending}, as dataset.json says; convert "
                    "and rename it, or correct file_ending",
                )
            ]
    return []


def _pairing_problems(
    images: Mapping[CaseId, Mapping[int, Path]],
    labels: Mapping[CaseId, Path],
    description: DatasetDescription,
) -> Iterator[DatasetProblem]:
    """Report images without label, labels without image, gaps between channels, names that clash."""
    ending = description.file_ending
    for case_id, channels in sorted(images.items()):
        gaps = sorted(set(range(max(channels))) - set(channels))
        if gaps and len(channels) >= len(
            description.channels
        ):  # fewer files are reported once they were read
            names = some([f"{case_id}_{number:04d}{ending}" for number in gaps])
            yield problem(case_id, "missing-channel", f"{IMAGES_FOLDER} lacks {names}; add it")
        if case_id not in labels:
            message = f"{LABELS_FOLDER} has no {case_id}{ending}; add it, or take the image out"
            yield problem(case_id, "missing-label", message)
    for case_id in sorted(set(labels) - set(images)):
        without_number = re.sub(r"_\d{4}$", "", case_id)
        cure = (
            f"labels carry no channel number: rename it to {without_number}{ending}"
            if without_number in images
            else f"add {case_id}_0000{ending} to {IMAGES_FOLDER}, or take the label out"
        )
        yield problem(case_id, "missing-image", f"{LABELS_FOLDER}/{case_id}{ending} has no image; {cure}")
    seen: dict[str, CaseId] = {}
    for case_id in sorted(images):
        twin = seen.setdefault(case_id.casefold(), case_id)
        if twin != case_id:
            message = f"{case_id} and {twin} differ only in upper and lower case; rename one"
            yield problem(case_id, "ambiguous-case", message)


# --- the dataset as a whole ----------------------------------------------------------------------------------


def _count_problems(cases: Sequence[CaseFiles], description: DatasetDescription) -> Iterator[DatasetProblem]:
    """Compare the number of cases with numTraining."""
    if not cases:
        names = f"CASE_0000{description.file_ending}"
        yield problem(None, "no-cases", f"{IMAGES_FOLDER} holds no image named {names}; add images")
    elif len(cases) != description.training_cases:
        yield problem(
            None,
            "case-count",
            f"dataset.json says numTraining {description.training_cases}, but there are {len(cases)} cases "
            f"({some([case.case_id for case in cases])}); correct the number or add what is missing",
        )


def _declared_labels(description: DatasetDescription, problems: list[DatasetProblem]) -> LabelSet | None:
    """Return the labels, or None with a problem noted."""
    try:
        return description.label_set()
    except LabelsError as error:
        problems.append(problem(None, "invalid-labels", error.message))
        return None


def _allowed_values(labels: LabelSet) -> frozenset[int]:
    """Return the values that a label file may have."""
    return frozenset(labels.labels if labels.ignore is None else (*labels.labels, labels.ignore))


def _reader(
    description: DatasetDescription, cases: Sequence[CaseFiles], problems: list[DatasetProblem]
) -> str | None:
    """Choose the reader by the first image that can be read, or return None with the problems noted."""
    reasons: list[DatasetProblem] = []
    for case in cases:
        for path in case.images[:1]:
            try:
                return choose_reader(description, path)
            except UnknownNameError as error:
                problems.append(problem(None, "unknown-name", error.message))
                return None
            except ImageError as error:
                reasons.append(problem(case.case_id, "unreadable-image", error.message))
    problems += reasons
    return None


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
