"""Average the probabilities that several models gave for the same cases, folder by folder."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

from core.domain.dataset import DatasetDescription
from core.domain.labels import LabelSet
from core.domain.plan import Plan
from core.domain.progress import Observer
from core.errors import DatasetError, ImageError
from core.evaluation.side_by_side import Errand, each_case
from core.inference.probability_files import average_case, opened_heads
from core.inference.properties import geometry_of_properties
from core.io.image import Geometry, LabelMap
from core.io.placement import copy_placement
from core.io.readers import read_header, write_labels
from core.pipeline.data import default_workers

PROBABILITIES = ".npz"
PROPERTIES = ".pkl"
"""Endings of what the prediction of a case leaves beside its segmentation."""

MOST_NAMED = 10
"""Cases that a sentence names."""

FEWEST = 2
"""Folders that make an ensemble."""


@dataclass(frozen=True, slots=True)
class Merge:
    """A case of which several models have probabilities."""

    probabilities: tuple[Path, ...]
    """One file per model."""
    target: Path
    """Of the segmentation that comes of it."""
    keep: Path | None = None
    """Where the mean goes."""


def ensemble(
    inputs: Sequence[Path],
    out: Path,
    observer: Observer,
    *,
    save_probabilities: bool = False,
    workers: int | None = None,
) -> int:
    """Average the probabilities of several folders, and write the segmentations that they decide for.

    Args:
        inputs: Folders that predictions with probabilities left: CASE.npz and CASE.pkl, and of the first one
            dataset.json and plans.json.
        out: Gets a segmentation per case, dataset.json and plans.json.
        observer: Told after each case; asked before each whether to stop.
        save_probabilities: Whether to write the means as well, as files of the same kinds.
        workers: Cases averaged at the same time; one per core if not given.

    Returns:
        The number of cases.

    Raises:
        DatasetError: A folder lacks a case or a file, or the folders are of different datasets.
        ImageError: Probabilities cannot be read, or do not belong together.
        CancelledError: The observer asked to stop.

    Source:
        Engine specification B 7.1.
    """
    description, plan = _required(inputs, out)
    cases = _common_cases(inputs)
    out.mkdir(parents=True, exist_ok=True)
    merges = [
        Merge(
            tuple(folder / f"{case}{PROBABILITIES}" for folder in inputs),
            out / f"{case}{description.file_ending}",
            out / f"{case}{PROBABILITIES}" if save_probabilities else None,
        )
        for case in cases
    ]
    merge = partial(merge_case, labels=description.label_set(), reader=plan.image_reader_writer)
    errand = Errand("ensemble", observer, workers or default_workers())
    each_case(merge, merges, errand, name=lambda one: one.target.name, needs=needed_bytes)
    for name in ("dataset.json", "plans.json"):
        shutil.copyfile(inputs[0] / name, out / name)
    return len(cases)


def merge_case(merge: Merge, labels: LabelSet, reader: str) -> None:
    """Average the probabilities of one case, and write its segmentation.

    Raises:
        ImageError: A file cannot be read, or they do not belong together.
    """
    first = merge.probabilities[0]
    segmented = first.with_name(merge.target.name)
    geometry = _geometry(first, segmented, reader)
    labels_zyx = average_case(merge.probabilities, labels, merge.keep)
    write_labels(LabelMap(labels_zyx, geometry), merge.target, reader)
    if segmented.is_file():
        copy_placement(segmented, merge.target)
    if merge.keep is not None and first.with_suffix(PROPERTIES).is_file():
        shutil.copyfile(first.with_suffix(PROPERTIES), merge.keep.with_suffix(PROPERTIES))


def needed_bytes(merge: Merge) -> int:
    """Estimate what a case takes at most: of each model a head, compressed and not, their mean, and label maps."""
    with opened_heads(merge.probabilities[0]) as heads:
        return prod(heads.shape) * 4 * (2 * len(merge.probabilities) + 3)


def _geometry(probabilities: Path, segmented: Path, reader: str) -> Geometry:
    """Return where a case lies: as its segmentation says if it is there, else as the file of its properties does.

    Raises:
        ImageError: Neither can be read, or the segmentation has another shape.
    """
    if not segmented.is_file():
        return geometry_of_properties(probabilities.with_suffix(PROPERTIES))
    header = read_header(segmented, reader)
    with opened_heads(probabilities) as heads:
        if heads.shape != header.shape:
            raise ImageError(
                f"{probabilities.name} has {heads.shape} voxels (z, y, x), but {segmented.name} beside it "
                f"{header.shape}; predict the case again",
                file=probabilities.name,
            )
    return header.geometry


def _required(inputs: Sequence[Path], out: Path) -> tuple[DatasetDescription, Plan]:
    """Return dataset and plan of the first folder, and make sure that the others fit.

    Raises:
        DatasetError: They do not, or there are too few.
    """
    if len(inputs) < FEWEST:
        raise DatasetError(
            "an ensemble needs the predictions of at least two models; give two folders or more"
        )
    places = [folder.resolve() for folder in inputs]
    for folder, place in zip(inputs, places, strict=True):
        if places.count(place) > 1:
            raise DatasetError(f"{folder} is given twice; give each model's predictions once")
        if place == out.resolve():
            raise DatasetError(
                f"{out} is read for this, and would be lost; name another folder for the result"
            )
    description = DatasetDescription.parse(_text(inputs[0], "dataset.json"))
    plan = Plan.parse(_text(inputs[0], "plans.json"))
    for folder in inputs[1:]:
        if not (folder / "dataset.json").is_file():
            continue
        other = DatasetDescription.parse(_text(folder, "dataset.json"))
        if other.labels != description.labels or other.regions_class_order != description.regions_class_order:
            raise DatasetError(
                f"{folder} and {inputs[0]} hold predictions of other labels; average models of one dataset"
            )
    return description, plan


def _text(folder: Path, name: str) -> bytes:
    """Read a file of a folder of predictions.

    Raises:
        DatasetError: It is not there.
    """
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{folder} has no readable {name}; copy that of the model into it, as predicting does"
        ) from error


def _common_cases(inputs: Sequence[Path]) -> list[str]:
    """Return the cases of which every folder has probabilities.

    Raises:
        DatasetError: A folder lacks some, or none has any.
    """
    found = [
        {path.name.removesuffix(PROBABILITIES) for path in folder.glob(f"*{PROBABILITIES}")}
        for folder in inputs
    ]
    cases = sorted(set().union(*found))
    if not cases:
        raise DatasetError(
            f"{inputs[0]} holds no probabilities, files CASE{PROBABILITIES}; predict with --save-probabilities"
        )
    faults = [
        f"{folder} has no probabilities of {listed(sorted(set(cases) - there))}"
        for folder, there in zip(inputs, found, strict=True)
        if set(cases) - there
    ]
    if faults:
        raise DatasetError(f"{'; '.join(faults)}: predict these cases too, or remove them elsewhere")
    return cases


def listed(names: Sequence[str]) -> str:
    """Name some of many."""
    return f"{', '.join(names[:MOST_NAMED])}{' …' * (len(names) > MOST_NAMED)}"
