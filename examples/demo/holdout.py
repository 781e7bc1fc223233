"""A user's own dataset: hold one case out, pack the others."""

import json
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from task import Task

COMPRESSED = (".gz", ".png", ".zip")
"""Endings of files that a zip makes no smaller."""


class HoldOutError(Exception):
    """The archive is not a dataset from which a case can be held out."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things are in the archive."""

    root: PurePosixPath
    """Folder of dataset.json."""
    description: dict[str, Any]
    cases: dict[str, tuple[tuple[str, ...], str]]
    """Per case its images, by channel, and its label: names in the archive."""


def hold_out(archive: Path, folder: Path) -> Task:
    """Take the last case out of a zipped nnU-Net v2 dataset.

    Args:
        archive: With dataset.json at its top or in a single folder.
        folder: Where the smaller archive and the held-out case are written.

    Raises:
        HoldOutError: It is no such archive; the sentence says what is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as source:
            layout = _layout(source, archive)
            case = max(layout.cases)
            images, label = layout.cases[case]
            extracted = [_extract(source, name, folder) for name in (*images, label)]
            smaller = folder / "dataset.zip"
            _pack_without(source, smaller, layout, case)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as reason:
        raise HoldOutError(f"{archive} cannot be read: {reason}") from reason
    return Task(
        name=layout.root.name or archive.stem,
        dataset=smaller,
        images=tuple(extracted[:-1]),
        reference=extracted[-1],
        file_ending=layout.description["file_ending"],
        labels=layout.description["labels"],
        story=f"{len(layout.cases) - 1} cases of {archive.name}; held out: case {case}",
    )


def _layout(source: zipfile.ZipFile, archive: Path) -> _Layout:
    """Find dataset.json and the files of every case."""
    names = [name for name in source.namelist() if not name.startswith("__MACOSX")]
    found = sorted((name for name in names if PurePosixPath(name).name == "dataset.json"), key=len)
    if not found:
        raise HoldOutError(f"{archive} holds no dataset.json; zip a nnU-Net v2 dataset folder")
    root = PurePosixPath(found[0]).parent
    try:
        description = json.loads(source.read(found[0]))
        cases = _cases(description, root, names)
        _ = description["file_ending"], description["labels"], int(description["numTraining"])
    except (ValueError, KeyError, TypeError, AttributeError) as reason:
        raise HoldOutError(f"{archive}: dataset.json lacks or garbles {reason}") from reason
    if not cases:
        raise HoldOutError(f"{archive} holds no case with both images and label in imagesTr and labelsTr")
    return _Layout(root, description, cases)


def _cases(
    description: dict[str, Any], root: PurePosixPath, names: list[str]
) -> dict[str, tuple[tuple[str, ...], str]]:
    """Pair labels with their images, by folder or as dataset.json lists them; incomplete cases are left out."""
    if "dataset" in description:
        listed = {
            case: (tuple(str(root / name) for name in files["images"]), str(root / files["label"]))
            for case, files in description["dataset"].items()
        }
    else:
        ending = description["file_ending"]
        channels = len(description.get("channel_names") or description["modality"])
        labels = [PurePosixPath(name) for name in names if name.endswith(ending)]
        listed = {
            label.name.removesuffix(ending): (
                tuple(
                    str(root / "imagesTr" / f"{label.name.removesuffix(ending)}_{channel:04d}{ending}")
                    for channel in range(channels)
                ),
                str(label),
            )
            for label in labels
            if label.parent == root / "labelsTr"
        }
    present = set(names)
    return {case: files for case, files in listed.items() if present.issuperset((*files[0], files[1]))}


def _extract(source: zipfile.ZipFile, name: str, folder: Path) -> Path:
    """Write one file of the archive under its own last name, below `held_out`."""
    target = folder / "held_out" / PurePosixPath(name).parent.name / PurePosixPath(name).name
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open(name) as reader, target.open("wb") as writer:
        shutil.copyfileobj(cast("BinaryIO", reader), writer)
    return target


def _pack_without(source: zipfile.ZipFile, target: Path, layout: _Layout, case: str) -> None:
    """Copy the archive without one case, and count it out of dataset.json."""
    images, label = layout.cases[case]
    left_out = {*images, label}
    description = dict(layout.description)
    description["numTraining"] = description["numTraining"] - 1
    if "dataset" in description:
        description["dataset"] = {
            name: files for name, files in description["dataset"].items() if name != case
        }
    with zipfile.ZipFile(target, "w") as packed:
        for entry in source.infolist():
            if entry.is_dir() or entry.filename in left_out:
                continue
            if entry.filename == str(layout.root / "dataset.json"):
                packed.writestr(entry.filename, json.dumps(description, indent=4))
                continue
            is_compressed = entry.filename.endswith(COMPRESSED)
            method = zipfile.ZIP_STORED if is_compressed else zipfile.ZIP_DEFLATED
            copy = zipfile.ZipInfo(entry.filename, entry.date_time)
            copy.compress_type = method
            with source.open(entry) as reader, packed.open(copy, "w", force_zip64=True) as writer:
                shutil.copyfileobj(reader, writer)
