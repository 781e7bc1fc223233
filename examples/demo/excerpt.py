"""A few cases of a dataset in the Decathlon's or nnU-Net v1's layout, and one that is held out."""

import json
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdout import HoldOutError, hold_out
from task import Task

from core.conversion.layouts import tell_layout
from core.conversion.survey import Survey, survey
from core.domain.conversion import Layout
from core.domain.progress import SilentObserver
from core.io.archive import ArchiveLimits
from core.io.cases import CaseFiles
from worker.archive import dataset_root, unpack

TRAINING_CASES = 40
"""So few that nnU-Net's planner takes the smallest batch, two patches, and an epoch takes seconds."""

FEWEST_CASES = 2

EPOCHS = 32
"""Of 25 iterations. Own measurement on hippocampi, two processor cores: seven minutes, mean Dice 0.78; with
half of them 0.66."""

LIMITS = ArchiveLimits(files=20_000, unpacked_bytes=4 * 2**30, ratio=200)
"""Whoever has a larger dataset unpacks it and names its folder."""

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def is_older_zip(path: Path) -> bool:
    """Return whether a zip holds a dataset.json that nnU-Net v2 did not write; false if nobody can tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = sorted((name for name in archive.namelist() if name.endswith("dataset.json")), key=len)
            description = json.loads(archive.read(found[0])) if found else {}
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error):
        return False
    return isinstance(description, dict) and "training" in description and "file_ending" not in description


def take_excerpt(source: Path, folder: Path, cases: int = TRAINING_CASES) -> Task:
    """Pack some cases of a dataset, in the layout that it has, and hold its last one out.

    Args:
        source: The dataset: a folder, or a tar or zip of one. One of nnU-Net v2's layout is taken whole.
        folder: Where the archive is written, and unpacked what was packed.
        cases: How many at most.

    Raises:
        HoldOutError: There is no such dataset, or too little in it.
        DomainError: It cannot be used; the sentence says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    raw = _opened(source, folder / "unpacked")
    if tell_layout(raw) in (Layout.V2, None):
        return hold_out(_pack_all(raw, folder / "whole.zip"), folder)
    found = survey(raw)
    if found.problems:
        sentences = "\n".join(f"  {one.case or 'dataset'}: {one.message}" for one in found.problems)
        raise HoldOutError(f"{source} cannot be used:\n{sentences}")
    if len(found.cases) < FEWEST_CASES:
        raise HoldOutError(
            f"{source} holds too few cases; one is held out, so it takes {FEWEST_CASES} or more"
        )
    held_out, chosen = found.cases[-1], _spread(found.cases[:-1], cases)
    return Task(
        name=raw.name if raw.name != "unpacked" else source.stem,
        dataset=_pack_cases(found, chosen, folder / "dataset.zip"),
        images=held_out.images,
        reference=held_out.label or raw,
        file_ending=found.ending,
        labels=found.values["labels"],
        story=(
            f"{len(chosen)} of {len(found.cases)} cases of {source.name}, in the layout of the {found.layout}; held "
            f"out: case {held_out.case_id}"
        ),
        epochs=EPOCHS,
    )


def _opened(source: Path, folder: Path) -> Path:
    """Return the folder of dataset.json, unpacked where the source is an archive."""
    if source.is_dir():
        return dataset_root(source)
    if not source.is_file():
        raise HoldOutError(f"there is no {source}; name a dataset's zip, tar or folder, or hippocampus")
    folder.mkdir(parents=True)
    if source.name.endswith(TAR_ENDINGS):
        _unpack_tar(source, folder)
    else:
        unpack(source, folder, LIMITS, SilentObserver())
    return dataset_root(folder)


def _unpack_tar(archive: Path, folder: Path) -> None:
    """Unpack plain files of a tar, none outside the folder, and no more than the limits allow."""
    files = size_bytes = 0
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                if not member.isreg() or Path(member.name).name.startswith("."):
                    continue  # Folders come with their files; macOS packs a `._` beside each.
                files, size_bytes = files + 1, size_bytes + member.size
                if files > LIMITS.files or size_bytes > LIMITS.unpacked_bytes:
                    raise HoldOutError(
                        f"{archive} unpacks to more than {LIMITS.files} files or {LIMITS.unpacked_bytes} bytes; "
                        "unpack it yourself and name the folder"
                    )
                opened.extract(member, folder, filter="data")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as reason:
        raise HoldOutError(f"{archive} cannot be unpacked: {reason}") from reason


def _spread(cases: Sequence[CaseFiles], count: int) -> list[CaseFiles]:
    """Return at most so many cases, evenly spread over all."""
    if len(cases) <= count:
        return list(cases)
    return [cases[number * len(cases) // count] for number in range(count)]


def _pack_cases(found: Survey, cases: Sequence[CaseFiles], archive: Path) -> Path:
    """Zip some cases with a dataset.json that lists just these."""
    values: dict[str, Any] = json.loads((found.source / "dataset.json").read_bytes())
    labels = {case.case_id: case.label.name if case.label else "" for case in cases}
    listed = [
        {"image": f"./imagesTr/{case_id}{found.ending}", "label": f"./labelsTr/{label}"}
        for case_id, label in labels.items()
    ]
    values |= {"numTraining": len(cases), "numTest": 0, "training": listed, "test": []}
    files = [path for case in cases for path in (*case.images, case.label) if path is not None]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr(f"{found.source.name}/dataset.json", json.dumps(values, indent=4))
        for path in files:
            packed.write(path, Path(found.source.name) / path.relative_to(found.source))
    return archive


def _pack_all(raw: Path, archive: Path) -> Path:
    """Zip a whole dataset."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(raw.rglob("*")):
            if path.is_file():
                packed.write(path, Path(raw.name) / path.relative_to(raw))
    return archive
