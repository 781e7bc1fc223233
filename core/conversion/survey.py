"""Which cases the folders of a dataset of nnU-Net v1 or the Decathlon hold; no image is opened."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from core.conversion.complaints import Found, case_problems, label_of, label_problems, name_problems
from core.conversion.layouts import CHANNEL, ending_of, files_in, layout_of
from core.conversion.legacy import convert_values, read_values
from core.conversion.listed import listed_labels
from core.domain.conversion import Layout
from core.domain.dataset import CaseId, DatasetProblem
from core.domain.problems import problem, some
from core.errors import DatasetError
from core.io.cases import IMAGES_FOLDER, LABELS_FOLDER, CaseFiles

FURTHER_FOLDERS: Final = (("imagesTs", "labelsTs"), ("imagesVal", "labelsVal"))
"""Cases that no training sees: test images, and what nnU-Net v1 also kept; Engine specification B 11.1."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a dataset of an older layout holds, by its dataset.json and the names of its files."""

    source: Path
    """The folder."""
    layout: Layout
    ending: str
    """Of every file."""
    values: Mapping[str, Any]
    """dataset.json of nnU-Net v2, but for `numTraining`."""
    channels: int
    cases: tuple[CaseFiles, ...]
    """Training cases that have all files, by identifier. In the Decathlon one file holds all channels."""
    further: Mapping[tuple[str, str], tuple[CaseFiles, ...]]
    """Further cases by their folders of images and labels; either may be missing."""
    problems: tuple[DatasetProblem, ...]
    """What keeps cases from being converted."""
    notes: tuple[DatasetProblem, ...]


def survey(folder: Path) -> Survey:
    """List what a dataset of an older layout holds; no image is opened.

    The folders say which cases there are, as in the reference's own conversion. `training` in dataset.json
    adds what the folders cannot tell: that a case is missing, or that a label has another name than its
    image. A case that is complete but not listed is converted all the same, and noted. `test` is not
    looked at. Nothing that dataset.json names is opened unless it is a file of the two folders.

    Raises:
        DatasetError: The folder is of no older layout, or its dataset.json cannot be used.

    Source:
        Engine specification A 1.3, A 11.1 (16) and (17), B 11.
    """
    values = read_values(folder)
    layout = layout_of(folder, values)
    if layout is Layout.V2:
        raise DatasetError("this is a nnU-Net v2 dataset already; there is nothing to convert")
    if layout is None:
        raise DatasetError(
            "dataset.json is written as in no layout that is known: nnU-Net v2 has channel_names, labels and "
            "file_ending; nnU-Net v1 and the Decathlon have modality, labels and training"
        )
    ending = ending_of(folder, values)
    converted, notes = convert_values(values, layout, ending)
    channels = len(converted["channel_names"])
    images, labels = (files_in(folder / name, ending, layout) for name in (IMAGES_FOLDER, LABELS_FOLDER))
    grouped, unnumbered = _grouped(images, layout)
    listed = listed_labels(values, ending, grouped)
    found = Found(layout, ending, channels, grouped, labels, listed)
    problems = [*label_problems(converted), *name_problems(unnumbered), *case_problems(found)]
    unusable = {one.case for one in problems}
    cases = tuple(
        CaseFiles(case_id, _in_order(files), label_of(case_id, found))
        for case_id, files in sorted(grouped.items())
        if case_id not in unusable
    )
    unlisted = [case.case_id for case in cases if case.case_id not in listed]
    if unlisted and "training" in values:
        message = (
            f"{len(unlisted)} complete cases are not listed under training ({some(unlisted)}), yet converted"
        )
        notes = (*notes, problem(None, "unlisted-case", message))
    return Survey(
        source=folder,
        layout=layout,
        ending=ending,
        values=converted,
        channels=channels,
        cases=cases,
        further={names: _further(folder, names, ending, layout) for names in FURTHER_FOLDERS},
        problems=tuple(problems),
        notes=notes,
    )


def _grouped(
    images: Mapping[str, Path], layout: Layout
) -> tuple[dict[CaseId, dict[int, Path]], tuple[Path, ...]]:
    """Group images by case and channel; return those too whose name tells no channel though it must."""
    if layout is Layout.DECATHLON:
        return {name: {0: path} for name, path in images.items()}, ()
    grouped: dict[CaseId, dict[int, Path]] = defaultdict(dict)
    unnumbered = []
    for name, path in images.items():
        match = CHANNEL.fullmatch(name)
        if match is None:
            unnumbered.append(path)
        else:
            grouped[match["case"]][int(match["channel"])] = path
    return dict(grouped), tuple(unnumbered)


def _in_order(files: Mapping[int, Path]) -> tuple[Path, ...]:
    """Return images by channel number."""
    return tuple(files[number] for number in sorted(files))


def _further(folder: Path, names: tuple[str, str], ending: str, layout: Layout) -> tuple[CaseFiles, ...]:
    """List cases of a pair of folders; nobody demands that they are complete."""
    images, labels = (files_in(folder / name, ending, layout) for name in names)
    grouped, unnumbered = _grouped(images, layout)
    cases = {case_id: _in_order(files) for case_id, files in grouped.items()}
    cases |= {path.name.removesuffix(ending): (path,) for path in unnumbered}
    return tuple(
        CaseFiles(case_id, cases.get(case_id, ()), labels.get(case_id))
        for case_id in sorted({*cases, *labels})
    )
