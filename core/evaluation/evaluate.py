"""Scores of many cases: find the pairs of files, score each, summarise, write and read summary.json."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from statistics import fmean

import numpy as np
from pydantic import ValidationError

from core.domain.dataset import DatasetDescription
from core.domain.labels import LabelSet
from core.domain.progress import Observer
from core.domain.record import describe, write_json
from core.domain.report import SUMMARY_FILE, CaseScores, EvaluationReport, Scores
from core.errors import DatasetError, ImageError
from core.evaluation.metrics import BoolArray, overlap_scores
from core.evaluation.side_by_side import Errand, each_case
from core.io.image import Geometry, LabelArray, LabelMap
from core.io.readers import read_header, read_labels

STAGE = "evaluate"
"""What an observer is told of."""

BYTES_PER_VOXEL = 12
"""Of a case that is scored: two label maps, each as stored and as read, and the masks of a label."""

SURFACE_BYTES_PER_VOXEL = 80
"""Where surfaces are measured too: distances and codes of neighbours in 32 and 64 bits.

Source:
    Own measurement, 200 x 256 x 256 voxels that one label fills.
"""

UNKNOWN = -(2**31)
"""No label has this value."""

SurfaceMeasure = Callable[[BoolArray, BoolArray, Geometry], dict[str, float | None]]
"""Compares masks of reference and prediction; gives further entries of `Scores`."""


@dataclass(frozen=True, slots=True)
class FilePair:
    """The prediction of one case, and what it is measured against."""

    prediction: Path
    reference: Path


def evaluate_folder(
    predictions: Path,
    references: Path,
    description: DatasetDescription,
    reader: str,
    observer: Observer,
    *,
    is_partial: bool = False,
    workers: int = 2,
    surfaces: SurfaceMeasure | None = None,
) -> EvaluationReport:
    """Score every label map of a folder against the file of the same name in another folder.

    Args:
        predictions: Folder of label maps; other files in it are left alone.
        references: Folder of reference label maps.
        description: Labels and file ending of the dataset.
        reader: Name of the reader for both.
        observer: Told after each case; asked before each whether to stop.
        is_partial: Whether references without a prediction are fine, as in a fold's validation.
        workers: Cases scored at the same time.
        surfaces: What else to measure of each label or region.

    Raises:
        DatasetError: Files are missing or superfluous; the sentence names them.
        ImageError: Files cannot be read, or the two of a case differ in shape; the sentence names them all.
        CancelledError: The observer asked to stop.

    Source:
        Engine specification B 7.4.
    """
    pairs = file_pairs(predictions, references, description.file_ending, is_partial=is_partial)
    return evaluate_files(
        pairs, description.label_set(), reader, observer, workers=workers, surfaces=surfaces
    )


def file_pairs(predictions: Path, references: Path, ending: str, *, is_partial: bool) -> tuple[FilePair, ...]:
    """Match the files of two folders by name.

    Raises:
        DatasetError: A prediction has no reference; a reference has no prediction and not `is_partial`;
            or there is no prediction at all.
    """
    predicted, known = _names(predictions, ending), _names(references, ending)
    if not predicted:
        raise DatasetError(
            f"there is nothing to evaluate: {predictions.name} holds no file that ends in {ending}"
        )
    superfluous = sorted(predicted - known)
    missing = [] if is_partial else sorted(known - predicted)
    faults = []
    if superfluous:
        faults.append(
            f"no reference for {', '.join(superfluous)}: remove the prediction or add the reference"
        )
    if missing:
        faults.append(f"no prediction for {', '.join(missing)}: predict these cases too, or evaluate in part")
    if faults:
        raise DatasetError("; ".join(faults), superfluous=list(superfluous), missing=list(missing))
    return tuple(FilePair(predictions / name, references / name) for name in sorted(predicted))


def _names(folder: Path, ending: str) -> set[str]:
    """Return the names of a folder's files with this ending.

    Raises:
        DatasetError: There is no such folder.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder.name} to evaluate")
    return {path.name for path in folder.iterdir() if path.name.endswith(ending) and path.is_file()}


def evaluate_files(
    pairs: Sequence[FilePair],
    labels: LabelSet,
    reader: str,
    observer: Observer,
    *,
    workers: int = 2,
    surfaces: SurfaceMeasure | None = None,
) -> EvaluationReport:
    """Score pairs of files that may lie anywhere.

    Args:
        pairs: At least one; the report keeps their order.
        labels: What to score.
        reader: Name of the reader for all files.
        observer: Told after each case; asked before each whether to stop.
        workers: Cases scored at the same time.
        surfaces: What else to measure of each label or region.

    Raises:
        DomainError: As `evaluate_folder`; problems of several cases are gathered into one.
        CancelledError: The observer asked to stop.
    """
    work = partial(score_files, labels=labels, reader=reader, surfaces=surfaces)
    errand = Errand(STAGE, observer, workers)
    needs = partial(_needed_bytes, reader=reader, is_surface=surfaces is not None)
    return summarize(each_case(work, pairs, errand, name=lambda pair: pair.prediction.name, needs=needs))


def _needed_bytes(pair: FilePair, *, reader: str, is_surface: bool) -> int:
    """Estimate what scoring a case takes at most."""
    voxels = prod(read_header(pair.reference, reader).shape)
    return voxels * (SURFACE_BYTES_PER_VOXEL if is_surface else BYTES_PER_VOXEL)


def score_files(
    pair: FilePair, labels: LabelSet, reader: str, surfaces: SurfaceMeasure | None = None
) -> CaseScores:
    """Score one prediction file against its reference file.

    Raises:
        ImageError: A file cannot be read, or their shapes differ.
    """
    reference, prediction = read_pair(pair, reader)
    return CaseScores(
        metrics=label_scores(reference, prediction.labels_zyx, labels, surfaces),
        prediction_file=short_name(pair.prediction),
        reference_file=short_name(pair.reference),
    )


def label_scores(
    reference: LabelMap, prediction_zyx: LabelArray, labels: LabelSet, surfaces: SurfaceMeasure | None = None
) -> dict[str, Scores]:
    """Score a prediction for every label or region.

    Args:
        reference: What is true, and where it lies.
        prediction_zyx: Labels, same shape.
        labels: What to score. Where the reference has the ignore label, nothing counts; surfaces are measured as if
            there were background on both sides.
        surfaces: What else to measure.
    """
    overlap = overlap_scores(reference.labels_zyx, prediction_zyx, labels.foreground_heads, labels.ignore)
    if surfaces is None:
        return overlap
    known_zyx = reference.labels_zyx != (labels.ignore if labels.ignore is not None else UNKNOWN)
    return {
        key: Scores.model_validate(
            scores.to_json()
            | surfaces(
                np.isin(reference.labels_zyx, region),
                np.isin(prediction_zyx, region) & known_zyx,
                reference.geometry,
            )
        )
        for (key, scores), region in zip(overlap.items(), labels.foreground_heads, strict=True)
    }


def read_pair(pair: FilePair, reader: str) -> tuple[LabelMap, LabelMap]:
    """Read reference and prediction.

    Raises:
        ImageError: A file cannot be read, or their shapes differ.
    """
    reference, prediction = read_labels(pair.reference, reader), read_labels(pair.prediction, reader)
    expected, found = reference.labels_zyx.shape, prediction.labels_zyx.shape
    if expected != found:
        name = pair.prediction.name
        raise ImageError(
            f"{name}: the prediction has {_times(found)} voxels, its reference {_times(expected)}; bring them onto "
            "one grid",
            case=name,
        )
    return reference, prediction


def _times(shape: tuple[int, ...]) -> str:
    """Write a shape for a person."""
    return " x ".join(map(str, shape))


def short_name(path: Path) -> str:
    """Name a file by its folder and name: where on which disk it lay says nothing later."""
    return f"{path.parent.name}/{path.name}"


def summarize(cases: Sequence[CaseScores]) -> EvaluationReport:
    """Average scores over cases, then over labels or regions.

    A class that occurs in no case at all leaves the foreground mean undefined: a plain mean, as in
    the reference, since a mean over fewer classes would look better than it is.

    Args:
        cases: At least one, all with the same label keys.

    Source:
        Engine specification B 7.4; deviation: undefined values are null, not NaN, which is no JSON.
    """
    means = {key: _mean_over_cases([case.metrics[key] for case in cases]) for key in cases[0].metrics}
    return EvaluationReport(
        foreground_mean=_mean_over_classes(list(means.values())), mean=means, metric_per_case=tuple(cases)
    )


def _mean_over_cases(scores: Sequence[Scores]) -> Scores:
    """Average each score over the cases in which it is defined."""
    columns = _columns(scores)
    return Scores.model_validate(
        {name: _mean(v for v in values if v is not None) for name, values in columns.items()}
    )


def _mean_over_classes(scores: Sequence[Scores]) -> Scores:
    """Average each score over the classes; undefined in one, undefined at all."""
    columns = _columns(scores)
    return Scores.model_validate(
        {name: None if None in values else _mean(values) for name, values in columns.items()}
    )


def _columns(scores: Sequence[Scores]) -> Mapping[str, list[float | None]]:
    """Turn records of scores into one list per score that was measured."""
    measured = [
        name for name in Scores.model_fields if any(name in score.model_fields_set for score in scores)
    ]
    return {name: [getattr(score, name) for score in scores] for name in measured}


def _mean(values: Iterable[float | None]) -> float | None:
    """Average numbers; None if there are none."""
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None


def write_summary(report: EvaluationReport, folder: Path) -> Path:
    """Write summary.json into a folder, keys in alphabetical order; return its path."""
    path = folder / SUMMARY_FILE
    write_json(path, report.to_json(), sort_keys=True)
    return path


def read_summary(path: Path) -> EvaluationReport:
    """Read a summary.json, of ours or with the bare token NaN for what is undefined.

    Raises:
        DatasetError: It is no summary.
    """
    try:
        values = json.loads(path.read_text(), parse_constant=lambda _: None)
        return EvaluationReport.model_validate(values)
    except ValidationError as error:
        raise DatasetError(f"{path.name} is no summary of an evaluation: {describe(error)}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path.name} cannot be read as JSON: {error}") from error
