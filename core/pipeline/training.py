"""Train one fold, and score its validation cases."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.domain.dataset import CaseId, DatasetDescription
from core.domain.model import MODEL_FILE, ModelRecord, PrecisionName, PredictionOptions, fold_name
from core.domain.plan import ConfigurationName, Plan
from core.domain.progress import Observer, Progress, QuietObserver, SeveralObservers
from core.domain.record import write_json
from core.domain.report import EvaluationReport
from core.domain.training import Fold, TrainingSettings
from core.io.case_store import CaseStore, OpenCases
from core.io.cases import (
    find_cases,
    read_description,
)
from core.io.readers import write_labels
from core.pipeline.data import preprocess
from core.plots import PROGRESS_FILE, ProgressPlot

SPLITS_FILE = "splits_final.json"
"""Manual splits, in a dataset's folder or a model's."""


@dataclass(frozen=True, slots=True)
class TrainOrder:
    """One fold to train."""

    raw: Path
    plan: Plan
    configuration: ConfigurationName
    fold: Fold
    settings: TrainingSettings
    model: Path
    """Model folder; an interrupted training in it goes on."""
    preprocessed: Path | None = None
    """Preprocessed cases; made in the model folder if not given."""
    precision: PrecisionName | Literal["auto"] = "auto"
    device: str = "auto"
    threads: int | None = None
    outside: bool = False
    """Whether dataset.json may list files outside `raw`; see `core.io.cases.find_cases`."""
    goes_further: bool = False
    """Whether a training that was begun may be given more epochs than it was begun with."""


def train(order: TrainOrder, observer: Observer) -> EvaluationReport:
    """Train one fold, or go on where its checkpoint stands, then segment and score its validation cases.

    Returns:
        Scores of the validation cases, as written to validation/summary.json.

    Raises:
        TrainingError: There are not enough cases for the fold, or the training cannot go on.
        CancelledError: The observer asked to stop; the last checkpoint is complete.
    """
    from core.training.augmentations import prediction_mirror_axes
    from core.training.loop import FoldSetup, train_fold
    from core.training.splits import read_splits, split_of

    description = read_description(order.raw)
    configuration = order.plan.configuration(order.configuration)
    folder = order.preprocessed
    if folder is None:
        folder = order.model / "preprocessed" / order.configuration
        preprocess(
            order.raw,
            order.plan,
            order.configuration,
            folder,
            observer,
            workers=order.threads,
            outside=order.outside,
        )
    store = CaseStore(folder)
    split = split_of(store.case_ids, read_splits(order.raw / SPLITS_FILE), order.fold)
    _write_model(order, description, prediction_mirror_axes(configuration, order.settings))
    setup = FoldSetup(
        training_cases=OpenCases(store, split.train),
        validation_cases=OpenCases(store, split.val),
        configuration=configuration,
        labels=description.label_set(),
        settings=order.settings,
        folder=order.model / fold_name(order.fold),
        device=order.device,
        precision=order.precision,
        goes_further=order.goes_further,
    )
    with ProgressPlot(setup.folder / PROGRESS_FILE) as plot:
        train_fold(setup, SeveralObservers(observer, plot))
    return validate(order, split.val, store, observer)


def find_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """Return the newest whole checkpoint in a fold's folder and how many epochs it holds; None without one.

    Raises:
        TrainingError: Every checkpoint is damaged, or was written by a newer version.
    """
    from core.training import checkpoint

    return checkpoint.find(folder)


def validate(
    order: TrainOrder, case_ids: Sequence[CaseId], store: CaseStore, observer: Observer
) -> EvaluationReport:
    """Segment the validation cases of a trained fold and score them against the references of the dataset.

    Source:
        Engine specification B 1.13.
    """
    from core.evaluation.evaluate import FilePair, evaluate_files, write_summary
    from core.inference.model import load_model
    from core.inference.predict import predict_preprocessed

    description = read_description(order.raw)
    cases = find_cases(order.raw, description, outside=order.outside)
    references = {case.case_id: case.label for case in cases}
    folder = order.model / fold_name(order.fold) / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    options = PredictionOptions(folds=(order.fold,), precision=order.precision, device=order.device)
    model = load_model(order.model, options)
    pairs = []
    for done, case_id in enumerate(case_ids):
        observer.report(Progress(stage="validate", done=done, total=len(case_ids)))
        target = folder / f"{case_id}{description.file_ending}"
        segmentation = predict_preprocessed(model, store.load(case_id), options, QuietObserver(observer))
        write_labels(segmentation, target, order.plan.image_reader_writer)
        reference = references[case_id]
        if reference is not None:
            pairs.append(FilePair(target, reference))
    report = evaluate_files(pairs, model.labels, order.plan.image_reader_writer, QuietObserver(observer))
    write_summary(report, folder)
    observer.report(Progress(stage="validate", done=len(case_ids), total=len(case_ids)))
    return report


def _write_model(order: TrainOrder, description: DatasetDescription, axes: tuple[int, ...]) -> None:
    """Write what of a model does not depend on the fold; every fold writes the same."""
    order.model.mkdir(parents=True, exist_ok=True)
    write_json(order.model / "dataset.json", description.to_json())
    write_json(order.model / "plans.json", order.plan.to_json())
    record = ModelRecord(
        configuration=order.configuration, mirror_axes=axes, settings=order.settings.to_json()
    )
    write_json(order.model / MODEL_FILE, record.to_json())
    if (order.raw / SPLITS_FILE).is_file():
        shutil.copyfile(order.raw / SPLITS_FILE, order.model / SPLITS_FILE)
