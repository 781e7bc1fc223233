"""Score segmentations against references."""

from pathlib import Path

from core.domain.dataset import DatasetDescription
from core.domain.progress import Observer
from core.domain.record import require_writable, write_json
from core.domain.report import EvaluationReport
from core.io.readers import choose_reader


def evaluate(
    predictions: Path, references: Path, description: DatasetDescription, out: Path, observer: Observer
) -> EvaluationReport:
    """Score the segmentations of a folder and write summary.json.

    Raises:
        DatasetError: The files of the two folders do not match.
        ImageError: A file cannot be read, or shapes differ.
        OSError: The summary cannot be written, which is seen before anything is scored.
    """
    from core.evaluation.evaluate import evaluate_files, file_pairs

    require_writable(out)
    pairs = file_pairs(predictions, references, description.file_ending, is_partial=False)
    reader = choose_reader(description, pairs[0].reference, permissive=True)
    report = evaluate_files(pairs, description.label_set(), reader, observer)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, report.to_json(), sort_keys=True)
    return report
