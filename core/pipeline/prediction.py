"""Segment images, and score segmentations."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from core.domain.dataset import DatasetDescription
from core.domain.model import PredictionOptions
from core.domain.progress import Observer, Progress, QuietObserver
from core.domain.record import require_writable, write_json
from core.domain.report import EvaluationReport
from core.io.cases import (
    CaseFiles,
    find_images,
)
from core.io.placement import copy_placement
from core.io.readers import choose_reader, read_image, reader_for_file, write_labels

if TYPE_CHECKING:
    from core.inference.model import LoadedModel


@dataclass(frozen=True, slots=True)
class PredictionFiles:
    """Where a segmentation and its picture go."""

    segmentation: Path
    preview: Path | None = None


@dataclass(frozen=True, slots=True)
class PredictionSummary:
    """What a prediction measured."""

    volumes: dict[str, float]
    """Millilitres per label or region name; empty for a 2D image."""
    seconds: dict[str, float]
    """Per stage."""
    provenance: dict[str, Any] = field(default_factory=dict)


def load(folder: Path, options: PredictionOptions) -> "LoadedModel":
    """Load a trained model, ready to predict.

    Raises:
        ModelError: It is incomplete or does not fit.
    """
    from core.inference.model import load_model

    return load_model(folder, options)


def predict_files(
    model: "LoadedModel",
    channels: Sequence[Path],
    targets: PredictionFiles,
    observer: Observer,
    options: PredictionOptions | None = None,
) -> PredictionSummary:
    """Segment one image.

    Args:
        model: From `load`.
        channels: One file per channel in the model's order, or one file that holds all.
        targets: The segmentation's ending chooses its format.
        observer: Told after each tile, and asked before each whether to stop.
        options: Folds, step size and mirroring; the model's own if not given.

    Raises:
        ImageError: The image cannot be read, or its channels are not the model's.
        CancelledError: The observer asked to stop.
    """
    from core.evaluation.metrics import volumes_ml
    from core.inference.predict import predict_image
    from core.io.preview import save_preview

    started = perf_counter()
    image = read_image(channels, input_reader(model.plan.image_reader_writer, channels[0]))
    read = perf_counter()
    done = predict_image(model, image, options or PredictionOptions(), observer)
    computed = perf_counter()
    segmentation = targets.segmentation
    write_labels(done.segmentation, segmentation, input_reader(model.plan.image_reader_writer, channels[0]))
    copy_placement(channels[0], segmentation)
    written = perf_counter()
    if targets.preview is not None:
        names = {value: name for name, value in model.description.labels.items() if isinstance(value, int)}
        save_preview(targets.preview, image, done.segmentation, names=names)
    return PredictionSummary(
        volumes=volumes_ml(done.segmentation, model.labels),
        seconds={"read": read - started, **done.seconds, "write": written - computed}
        | {"preview": perf_counter() - written},
        provenance={
            "configuration": model.configuration_name,
            "folds": list(done.folds),
            "precision": done.precision.name,
            "precision_reason": done.precision.reason,
            "device": str(model.device),
        },
    )


def predict_folder(
    folder: Path, images: Path, out: Path, options: PredictionOptions, observer: Observer
) -> int:
    """Segment every case of a folder of images.

    Args:
        folder: Of the model.
        images: Files `CASE_0000.nii.gz` and so on, one per channel.
        out: Gets one segmentation per case, of the same name and format.
        options: How to predict.
        observer: Told after each case.

    Returns:
        The number of cases.

    Raises:
        DatasetError: There is no case in the folder.
    """
    model = load(folder, options)
    out.mkdir(parents=True, exist_ok=True)
    cases = find_images(images, model.description)
    for done, case in enumerate(cases):
        observer.report(Progress(stage="predict", done=done, total=len(cases), note=case.case_id))
        ending = _ending(case)
        targets = PredictionFiles(out / f"{case.case_id}{ending}")
        predict_files(model, case.images, targets, QuietObserver(observer), options)
    observer.report(Progress(stage="predict", done=len(cases), total=len(cases)))
    return len(cases)


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


def input_reader(preferred: str, path: Path) -> str:
    """Return the model's own reader if it knows the file's format, else the one that does.

    Raises:
        ImageError: No reader has the ending.
    """
    return reader_for_file(path, preferred)


def _ending(case: CaseFiles) -> str:
    """Return what follows `CASE_0000` in the name of the first channel."""
    return case.images[0].name[len(f"{case.case_id}_0000") :]
