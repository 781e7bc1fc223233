"""Score segmentations against references."""

from functools import partial
from pathlib import Path

from core.domain.dataset import DatasetDescription
from core.domain.progress import Observer
from core.domain.record import require_writable, write_json
from core.domain.report import EvaluationOptions, EvaluationReport
from core.io.readers import choose_reader
from core.pipeline.data import default_workers


def evaluate(
    predictions: Path,
    references: Path,
    description: DatasetDescription,
    out: Path,
    observer: Observer,
    *,
    options: EvaluationOptions | None = None,
    workers: int | None = None,
) -> EvaluationReport:
    """Score the segmentations of a folder and write summary.json.

    Args:
        predictions: Folder of label maps.
        references: Folder of label maps of the same names.
        description: Labels and file ending of the dataset.
        out: The summary's file.
        observer: Told after each case; asked before each whether to stop.
        options: What to measure beside overlap; nothing if not given.
        workers: Cases scored at the same time; one per core if not given.

    Raises:
        DatasetError: The files of the two folders do not match.
        ImageError: A file cannot be read, or shapes differ.
        OSError: The summary cannot be written, which is seen before anything is scored.
    """
    from core.evaluation.evaluate import evaluate_files, file_pairs

    require_writable(out)
    pairs = file_pairs(predictions, references, description.file_ending, is_partial=False)
    reader = choose_reader(description, pairs[0].reference, permissive=True)
    surfaces = None
    if options is not None and options.surface:
        from core.evaluation.surface import surface_scores

        surfaces = partial(surface_scores, tolerance_mm=options.tolerance_mm)
    report = evaluate_files(
        pairs,
        description.label_set(),
        reader,
        observer,
        workers=workers or default_workers(),
        surfaces=surfaces,
    )
    if options is not None and options.surface:
        report = report.model_copy(update={"surface_tolerance_mm": options.tolerance_mm})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, report.to_json(), sort_keys=True)
    return report
