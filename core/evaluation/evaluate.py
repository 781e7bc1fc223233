"""Scores of many cases: find the pairs of files, score each, summarise, write and read summary.json."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pydantic import ValidationError

from core.domain.dataset import DatasetDescription
from core.domain.labels import LabelSet
from core.domain.progress import Observer, Progress
from core.domain.record import describe, write_json
from core.domain.report import CaseScores, EvaluationReport, Scores
from core.errors import CancelledError, DatasetError, DomainError, ImageError
from core.evaluation.metrics import overlap_scores
from core.io.readers import read_labels

SUMMARY_FILE = "summary.json"
"""The report's name in a folder of predictions."""


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
) -> EvaluationReport:
    """Score every label map of a folder against the file of the same name in another folder.

    Args:
        predictions: Folder of label maps; other files in it are left alone.
        references: Folder of reference label maps.
        description: Labels and file ending of the dataset.
        reader: Name of the reader for both.
        observer: Told after each case; asked before each whether to stop.
        is_partial: Whether references without a prediction are fine, as in a fold's validation.
        workers: Threads that read and score.

    Raises:
        DatasetError: Files are missing or superfluous; the sentence names them.
        ImageError: Files cannot be read, or the two of a case differ in shape; the sentence names them all.
        CancelledError: The observer asked to stop.

    Source:
        Engine specification B 7.4.
    """
    pairs = file_pairs(predictions, references, description.file_ending, is_partial=is_partial)
    return evaluate_files(pairs, description.label_set(), reader, observer, workers=workers)


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
    pairs: Sequence[FilePair], labels: LabelSet, reader: str, observer: Observer, *, workers: int = 2
) -> EvaluationReport:
    """Score pairs of files that may lie anywhere.

    Args:
        pairs: At least one; the report keeps their order.
        labels: What to score.
        reader: Name of the reader for all files.
        observer: Told after each case; asked before each whether to stop.
        workers: Threads that read and score.

    Raises:
        DomainError: As `evaluate_folder`; problems of several cases are gathered into one ImageError.
        CancelledError: The observer asked to stop.
    """

    def score(pair: FilePair) -> CaseScores | DomainError:
        if observer.stop_requested():
            return CancelledError("evaluation stopped")
        try:
            return score_files(pair, labels, reader)
        except DomainError as error:
            return error

    return summarize(_gather(score, pairs, observer, workers))


def _gather(
    score: Callable[[FilePair], CaseScores | DomainError],
    pairs: Sequence[FilePair],
    observer: Observer,
    workers: int,
) -> list[CaseScores]:
    """Score all pairs in threads, reporting from this one.

    Raises:
        CancelledError: Scoring was stopped.
        ImageError: Cases cannot be scored; the sentence joins those of all.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(score, pair) for pair in pairs]
        for done, _ in enumerate(as_completed(futures), start=1):
            observer.report(Progress(stage="evaluate", done=done, total=len(pairs)))
        results = [future.result() for future in futures]
    faults = [result for result in results if isinstance(result, DomainError)]
    for fault in faults:
        if isinstance(fault, CancelledError):
            raise fault
    if faults:
        raise ImageError("; ".join(fault.message for fault in faults)) from faults[0]
    return [result for result in results if isinstance(result, CaseScores)]


def score_files(pair: FilePair, labels: LabelSet, reader: str) -> CaseScores:
    """Score one prediction file against its reference file.

    Raises:
        ImageError: A file cannot be read, or their shapes differ.
    """
    reference = read_labels(pair.reference, reader)
    prediction = read_labels(pair.prediction, reader)
    if reference.labels_zyx.shape != prediction.labels_zyx.shape:
        raise ImageError(
            f"{pair.prediction.name}: the prediction has {_times(prediction.labels_zyx.shape)} voxels, "
            f"its reference {_times(reference.labels_zyx.shape)}; bring them onto one grid",
            case=pair.prediction.name,
        )
    return CaseScores(
        metrics=overlap_scores(
            reference.labels_zyx, prediction.labels_zyx, labels.foreground_heads, labels.ignore
        ),
        prediction_file=_short(pair.prediction),
        reference_file=_short(pair.reference),
    )


def _times(shape: tuple[int, ...]) -> str:
    """Write a shape for a person."""
    return " x ".join(map(str, shape))


def _short(path: Path) -> str:
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
    """Turn records of scores into one list per score."""
    return {name: [getattr(score, name) for score in scores] for name in Scores.model_fields}


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
