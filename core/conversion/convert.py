"""Datasets of nnU-Net v1 and of the Medical Segmentation Decathlon → nnU-Net v2, whole or not at all."""

import errno
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

from core.conversion.channels import split_channels
from core.conversion.survey import FURTHER_FOLDERS, Survey, survey
from core.domain.conversion import Conversion, Layout, Manner
from core.domain.dataset import DatasetProblem
from core.domain.problems import problem
from core.domain.progress import Observer
from core.domain.record import write_json
from core.errors import DatasetError, ImageError
from core.io.cases import (
    DESCRIPTION_FILE,
    IMAGES_FOLDER,
    LABELS_FOLDER,
    CaseFiles,
)
from core.io.every_case import Stage, map_cases
from core.io.readers import read_header
from core.io.volume import VOLUME_ENDINGS

Part = tuple[str, str]
"""A folder of images and that of their labels."""

Outcomes = Mapping[Part, Sequence[DatasetProblem | None]]
"""Per case of a part what was wrong with it."""

TRAINING: Final[Part] = (IMAGES_FOLDER, LABELS_FOLDER)
TEST: Final[Part] = FURTHER_FOLDERS[0]

SPLIT_GROWTH: Final = 1.25
"""By how much compressed files may grow when their channels are compressed apart. Own measurement on MRI: 1.08
to 1.14."""

MOST_FILES: Final = 200_000
"""Of a converted dataset, as of an uploaded archive: dataset.json of a few kilobytes can name 10 000 channels."""

SIDE_CAR_ENDINGS: Final = (".tif", ".tiff")
"""Formats whose spacing stands in a JSON file beside them; Engine specification A 4.6."""

CHANNEL_SUFFIX: Final = re.compile(r"_[0-9]{4}$")

THREADS: Final = 4
"""More do not help a single disk."""

GIB: Final = 2**30


def convert_dataset(
    source: Path, target: Path, observer: Observer, manner: Manner | None = None
) -> Conversion:
    """Write a dataset of an older layout in the layout of nnU-Net v2.

    Files that hold one channel are copied or linked byte for byte. Those that hold several, along the last
    axis as in the Decathlon, are split: voxels, their type and their place in space stay the same. For that
    they are read to their last checksum. Memory: about the voxels of one file per thread.

    Args:
        source: The dataset, the folder of its dataset.json.
        target: The new dataset's folder. It appears when all is done; it may exist if it is empty.
        observer: Told of every case; may ask to stop.
        manner: How to convert.

    Returns:
        What was done. Where there are problems nothing was written, unless the manner is `partly`: then the
        cases with a problem were left out, be it all of them.

    Raises:
        DatasetError: The source is of no older layout, its dataset.json cannot be used, it would become too
            many files, or the target is in use.
        CancelledError: The observer asked to stop; nothing was written.
        OSError: A file cannot be read or written; with errno ENOSPC, and before anything is written, if
            the disk has too little room.

    Source:
        Engine specification A 1.3 and B 11.
    """
    manner = manner or Manner()
    target = Path(os.path.realpath(target))
    _require_free(target, Path(os.path.realpath(source)))
    found = survey(source)
    problems = list(found.problems)
    if not manner.partly and not found.cases:
        message = (
            f"no case is complete; each needs an image in {IMAGES_FOLDER} and a label in {LABELS_FOLDER}"
        )
        problems.append(problem(None, "no-cases", message))
    if problems and not manner.partly:
        return _conversion(found, {}, problems)
    parts = {TRAINING: found.cases, **(found.further if manner.further_cases else {})}
    _require_few_files(found, parts)
    folder = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        folder.mkdir(parents=True)
        _require_room(folder, found, [case for cases in parts.values() for case in cases], manner)
        outcomes = _fill(folder, found, parts, observer, manner)
        problems += [one for part in outcomes.values() for one in part if one is not None]
        if manner.partly or not problems:
            folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _conversion(found, outcomes, problems)


def _conversion(found: Survey, outcomes: Outcomes, problems: Sequence[DatasetProblem]) -> Conversion:
    """Count what was converted."""
    counts = {part: list(part_outcomes).count(None) for part, part_outcomes in outcomes.items()}
    return Conversion(
        layout=found.layout,
        cases=counts.pop(TRAINING, 0),
        further_cases=sum(counts.values()),
        problems=tuple(problems),
        notes=found.notes,
    )


# --- before anything is written ------------------------------------------------------------------------------


def _require_free(target: Path, source: Path) -> None:
    """Refuse a target that is in use, or that is part of what is read; a new folder beside that is neither."""
    read = [source / name for name in (*TRAINING, *chain(*FURTHER_FOLDERS))]
    if target == source or any(target.is_relative_to(folder) for folder in read):
        raise DatasetError(
            f"{target} is part of the dataset that is converted; name a folder outside {source}"
        )
    if target.exists() and not target.is_dir():
        raise DatasetError(f"{target} is a file; name a new folder")
    if target.exists() and any(target.iterdir()):
        raise DatasetError(f"{target} is a folder that is not empty; name a new one")


def _require_few_files(found: Survey, parts: Mapping[Part, Sequence[CaseFiles]]) -> None:
    """Refuse a dataset that would fill the disk with entries instead of bytes."""
    files = sum(len(cases) for cases in parts.values()) * (found.channels + 1)
    if files > MOST_FILES:
        raise DatasetError(
            f"converted, the dataset would have up to {files} files, one per case and channel; at most {MOST_FILES} "
            "are written: split the dataset"
        )


def _require_room(folder: Path, found: Survey, cases: Sequence[CaseFiles], manner: Manner) -> None:
    """Compare what will be written with the room on the disk.

    Raises:
        OSError: ENOSPC, as the disk itself would say much later.
    """
    is_split = _holds_channels(found) and found.channels > 1
    images = sum(_size_bytes(image) for case in cases for image in case.images)
    labels = sum(_size_bytes(case.label) for case in cases if case.label is not None)
    is_linked = manner.link and found.source.stat().st_dev == folder.stat().st_dev
    needed = SPLIT_GROWTH * images if is_split else 0.0 if is_linked else images
    needed += 0 if is_linked else labels
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the converted dataset needs about {needed / GIB:.1f} GiB, but only {free / GIB:.1f} GiB are free",
            str(folder.parent),
        )


def _size_bytes(path: Path) -> int:
    return path.stat().st_size


# --- writing -------------------------------------------------------------------------------------------------


def _fill(
    folder: Path, found: Survey, parts: Mapping[Part, Sequence[CaseFiles]], observer: Observer, manner: Manner
) -> Outcomes:
    """Write all files of all parts into a new folder."""
    stage = Stage("convert", observer, manner.workers or min(THREADS, os.cpu_count() or 1))
    outcomes: dict[Part, Sequence[DatasetProblem | None]] = {}
    for part, cases in parts.items():
        folders = folder / part[0], folder / part[1]
        if part == TRAINING or any(case.images for case in cases):
            folders[0].mkdir()
        if part == TRAINING or any(case.label for case in cases):
            folders[1].mkdir()
        outcomes[part] = map_cases(partial(_write_case, found, folders, link=manner.link), cases, stage)
    values = {**found.values, "numTraining": list(outcomes[TRAINING]).count(None)}
    if "numTest" in values:
        values["numTest"] = sum(bool(case.images) for case in found.further.get(TEST, ()))
    write_json(folder / DESCRIPTION_FILE, values)
    return outcomes


def _write_case(
    found: Survey, folders: tuple[Path, Path], case: CaseFiles, *, link: bool
) -> DatasetProblem | None:
    """Write the files of one case under their new names; say what is wrong if they cannot be."""
    images, labels = folders
    try:
        mismatch = _write_images(found, images, case, link=link)
    except ImageError as error:
        return problem(case.case_id, "unreadable-image", error.message)
    if mismatch is None and case.label is not None:
        _place(case.label, labels / f"{case.case_id}{found.ending}", link=link)
    return mismatch


def _write_images(found: Survey, folder: Path, case: CaseFiles, *, link: bool) -> DatasetProblem | None:
    """Write the images of one case.

    Raises:
        ImageError: A file that must be split is damaged.
    """
    if found.layout is Layout.V1:
        for image in case.images:
            _place(image, folder / image.name, link=link)
        return None
    names = [f"{case.case_id}_{number:04d}{found.ending}" for number in range(found.channels)]
    for image in case.images:
        header = read_header(image) if _holds_channels(found) else None
        if header is not None and header.channels != found.channels:
            kind = "missing-channel" if header.channels < found.channels else "channel-count"
            message = (
                f"{image.name} holds {header.channels} channels, but dataset.json names {found.channels} under "
                "modality; correct dataset.json, or export the image again"
            )
            return problem(case.case_id, kind, message)
        if header is not None and header.channels > 1:
            targets = [folder / name for name in names]
            try:
                split_channels(image, header, targets)
            except ImageError:
                for target in targets:
                    target.unlink(missing_ok=True)
                raise
        else:
            _place(image, folder / names[0], link=link)
    return None


def _holds_channels(found: Survey) -> bool:
    """Return whether the channels of a case are in one file, along an axis that must be split."""
    return found.layout is Layout.DECATHLON and found.ending.lower().endswith(VOLUME_ENDINGS)


def _place(source: Path, target: Path, *, link: bool) -> None:
    """Copy or link a file, and the side-car that tells the spacing of a TIFF."""
    _copy(source, target, link=link)
    if source.name.lower().endswith(SIDE_CAR_ENDINGS):
        for stem in (source.stem, CHANNEL_SUFFIX.sub("", source.stem)):
            side_car, placed = source.with_name(f"{stem}.json"), target.with_name(f"{stem}.json")
            if side_car.is_file() and not placed.exists():
                _copy(side_car, placed, link=link)


def _copy(source: Path, target: Path, *, link: bool) -> None:
    """Copy a file's content, or give it a second name; what a symbolic link points at is what is meant."""
    if link:
        with suppress(OSError):  # Another disk, or one without hard links.
            os.link(source.resolve(), target)
            return
    shutil.copyfile(source, target)
