"""The verbs in order: verify, fingerprint, plan, preprocess, train, predict, evaluate; files in, files out."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import cpu_count
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from core.domain.conversion import OLDER_LAYOUTS, Conversion, Manner
from core.domain.dataset import CaseId, DatasetDescription
from core.domain.fingerprint import Fingerprint
from core.domain.geometry import Spacing
from core.domain.model import MODEL_FILE, ModelRecord, PrecisionName, PredictionOptions, fold_name
from core.domain.plan import ConfigurationName, Plan
from core.domain.progress import Observer, Progress
from core.domain.record import write_json
from core.domain.report import EvaluationReport
from core.domain.training import Fold, TrainingSettings
from core.errors import DatasetError, PlanError
from core.io.case_store import CaseStore, OpenCases
from core.io.cases import (
    CaseFiles,
    find_cases,
    find_images,
    read_description,
)
from core.io.placement import copy_placement
from core.io.readers import choose_reader, read_image, reader_for_file, write_labels

if TYPE_CHECKING:
    from core.inference.model import LoadedModel
    from core.io.verification import Verification
    from core.planning.planner import PlannerSettings
    from core.preprocessing.dataset import Outcome

SPLITS_FILE = "splits_final.json"
"""Manual splits, in a dataset's folder or a model's."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a user may choose about planning."""

    dataset_name: str = ""
    preset: str = "default"
    gpu_memory_gb: float | None = None
    target_spacing: Spacing | None = None
    """Millimetres (z, y, x) in the axis order of the files; None for what the rules find."""
    suppress_transpose: bool = False
    plans_name: str | None = None
    """None for the preset's."""


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


def is_older(folder: Path) -> bool:
    """Return whether a dataset folder has the layout of nnU-Net v1 or of the Medical Segmentation Decathlon.

    Raises:
        DatasetError: It has, but images or labels are missing, or images are named partly in one way and
            partly in another.
    """
    from core.io.layouts import tell_layout

    return tell_layout(folder) in OLDER_LAYOUTS


def convert(source: Path, target: Path, observer: Observer, manner: Manner | None = None) -> Conversion:
    """Write a dataset of an older layout in the layout of nnU-Net v2.

    Args:
        source: Its folder.
        target: The new folder; it appears when all is done.
        observer: Told of every case.
        manner: How to convert.

    Returns:
        What was done; where there are problems, nothing, unless the manner says otherwise.

    Raises:
        DatasetError: The source is of no older layout, or the target is in use.
        CancelledError: The observer asked to stop.
        OSError: A file cannot be read or written.
    """
    from core.io.convert import convert_dataset

    return convert_dataset(source, target, observer, manner)


def verify(raw: Path, observer: Observer, *, outside: bool = False) -> "Verification":
    """Check a dataset folder: every problem of every case at once.

    Args:
        raw: The folder.
        observer: Told of every case.
        outside: Here as in the other verbs, whether dataset.json may list files outside the folder. Never say
            so of a folder that came from elsewhere.
    """
    from core.io.verification import verify_dataset

    return verify_dataset(raw, observer, outside=outside)


def fingerprint(
    raw: Path, out: Path, observer: Observer, *, workers: int | None = None, outside: bool = False
) -> Fingerprint:
    """Measure a dataset and write dataset_fingerprint.json.

    Raises:
        DatasetError: The folder is no dataset.
        ImageError: A file cannot be read.
        CancelledError: The observer asked to stop.
    """
    from core.crew import Crew
    from core.fingerprinting import fingerprint_dataset
    from core.preprocessing.budget import SHARE_OF_AVAILABLE, available_bytes

    crew = Crew(workers or default_workers(), int(available_bytes() * SHARE_OF_AVAILABLE))
    measured = fingerprint_dataset(raw, observer, crew, outside=outside)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, measured.to_json(), sort_keys=True)
    return measured


def plan(
    description: DatasetDescription, measured: Fingerprint, settings: "PlannerSettings", out: Path
) -> Plan:
    """Plan for a fingerprint and write plans.json.

    Raises:
        PlanningError: No plan can be made.
        UnknownNameError: There is no such preset.
    """
    from core.planning.planner import plan_experiments

    made = plan_experiments(measured, description, settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, made.to_json())
    return made


def plan_dataset(raw: Path, measured: Fingerprint, request: PlanRequest, out: Path) -> Plan:
    """Plan for a dataset folder, with the reader that its images need, and write plans.json.

    Raises:
        PlanningError: No plan can be made.
        UnknownNameError: There is no such preset.
    """
    from core.planning.planner import PlannerSettings

    description = read_description(raw)
    settings = PlannerSettings(
        reader=_reader(raw, description),
        dataset_name=request.dataset_name,
        preset=request.preset,
        gpu_memory_gb=request.gpu_memory_gb,
        target_spacing=request.target_spacing,
        suppress_transpose=request.suppress_transpose,
        plans_name=request.plans_name,
    )
    return plan(description, measured, settings, out)


def move_plan(
    made: Plan, raw: Path, out: Path, *, dataset_name: str, plans_name: str, outside: bool = False
) -> Plan:
    """Carry a plan over to another dataset, and write plans.json.

    Args:
        made: Of the dataset that it was made for.
        raw: Folder of the other dataset.
        out: The new plans.json.
        dataset_name: Of the other dataset.
        plans_name: What to call the plan there.
        outside: See `verify`.

    Raises:
        DatasetError: The dataset has no image.
        PlanError: The plan does not suit the dataset; every mistake is named.
        ImageError: No reader understands the dataset's images.
    """
    from core.planning.check import checked_plan
    from core.planning.move import moved_plan

    description = read_description(raw)
    reader = _reader(raw, description, outside=outside, permissive=True)
    moved = moved_plan(made, dataset_name=dataset_name, plans_name=plans_name, reader=reader)
    checked = checked_plan(json.dumps(moved.to_json()), description)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, checked.to_json())
    return checked


def preprocess(
    raw: Path,
    made: Plan,
    configuration: ConfigurationName,
    out: Path,
    observer: Observer,
    *,
    workers: int | None = None,
    memory_gb: float | None = None,
    other_stores: Sequence[Path] = (),
    outside: bool = False,
) -> "Outcome":
    """Preprocess every training case for one configuration, but for those that are there already.

    Args:
        raw: The dataset folder.
        made: The plan.
        configuration: Which of the plan.
        out: Folder of preprocessed cases; what is in it of an earlier run is kept as far as it is still right.
        observer: Told of every case, and asked after each whether to stop.
        workers: Cases worked on at the same time; by default one per core.
        memory_gb: What they may take together; by default half of what is available.
        other_stores: Folders of preprocessed cases that may hold the same ones.
        outside: See `verify`.

    Returns:
        How many cases were made, and how many there were.

    Raises:
        PlanError: The plan has no such configuration, or contradicts itself.
        UnknownNameError: The plan names a normalization or resampling that does not exist.
        DatasetError: Cases cannot be preprocessed; all are named. Or the folder cannot be written.
        ImageError: The one case that fails cannot be read, or does not fit the plan.
        CancelledError: The observer asked to stop.
    """
    from core.preprocessing.budget import SHARE_OF_AVAILABLE, available_bytes
    from core.preprocessing.dataset import Means, Recipe, preprocess_dataset

    description = read_description(raw)
    recipe = Recipe(made, made.configuration(configuration), description.label_set())
    planned, named = len(recipe.configuration.normalization_schemes), len(description.channels)
    if planned != named:
        raise PlanError(
            f"the plan normalizes {planned} channel{'s' * (planned != 1)}, but dataset.json names {named}: "
            f"{', '.join(description.channels)}; use the plan of this dataset"
        )
    cases = find_cases(raw, description, outside=outside)
    if not cases:
        raise DatasetError("the dataset has no training case; add images to imagesTr")
    memory = available_bytes() * SHARE_OF_AVAILABLE if memory_gb is None else memory_gb * 2**30
    means = Means(workers or default_workers(), int(memory), tuple(other_stores))
    return preprocess_dataset(cases, recipe, CaseStore(out), means, observer)


def preprocessing_digest(made: Plan, configuration: ConfigurationName) -> str:
    """Hash all that a plan says of preprocessing; two configurations that agree in it share their arrays.

    Raises:
        PlanError: The plan has no such configuration.
    """
    from core.preprocessing.recipe import recipe_digest

    return recipe_digest(made, made.configuration(configuration))


def preprocessed_cases(folder: Path) -> dict[CaseId, Path]:
    """Return the files of a folder of preprocessed cases."""
    store = CaseStore(folder)
    return {case_id: store.file(case_id) for case_id in store.case_ids}


def train(order: TrainOrder, observer: Observer) -> EvaluationReport:
    """Train one fold, or go on where its checkpoint stands, then segment and score its validation cases.

    Returns:
        Scores of the validation cases, as written to validation/summary.json.

    Raises:
        TrainingError: There are not enough cases for the fold, or the training cannot go on.
        CancelledError: The observer asked to stop; the last checkpoint is complete.
    """
    from core.training.loop import FoldSetup, train_fold
    from core.training.spatial import mirror_axes
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
    _write_model(order, description, mirror_axes(configuration))
    setup = FoldSetup(
        training_cases=OpenCases(store, split.train),
        validation_cases=OpenCases(store, split.val),
        configuration=configuration,
        labels=description.label_set(),
        settings=order.settings,
        folder=order.model / fold_name(order.fold),
        device=order.device,
        precision=order.precision,
    )
    train_fold(setup, observer)
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
        segmentation = predict_preprocessed(model, store.load(case_id), options, _Quiet(observer))
        write_labels(segmentation, target, order.plan.image_reader_writer)
        reference = references[case_id]
        if reference is not None:
            pairs.append(FilePair(target, reference))
    report = evaluate_files(pairs, model.labels, order.plan.image_reader_writer, _Quiet(observer))
    write_summary(report, folder)
    observer.report(Progress(stage="validate", done=len(case_ids), total=len(case_ids)))
    return report


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
        predict_files(model, case.images, targets, _Quiet(observer), options)
    observer.report(Progress(stage="predict", done=len(cases), total=len(cases)))
    return len(cases)


def evaluate(
    predictions: Path, references: Path, description: DatasetDescription, out: Path, observer: Observer
) -> EvaluationReport:
    """Score the segmentations of a folder and write summary.json.

    Raises:
        DatasetError: The files of the two folders do not match.
        ImageError: A file cannot be read, or shapes differ.
    """
    from core.evaluation.evaluate import evaluate_folder

    example = next(iter(sorted(references.glob(f"*{description.file_ending}"))), references)
    reader = choose_reader(description, example, permissive=True)
    report = evaluate_folder(predictions, references, description, reader, observer)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, report.to_json(), sort_keys=True)
    return report


def input_reader(preferred: str, path: Path) -> str:
    """Return the model's own reader if it knows the file's format, else the one that does.

    Raises:
        ImageError: No reader has the ending.
    """
    return reader_for_file(path, preferred)


def default_workers() -> int:
    """Return how many threads read and compute side by side."""
    return cpu_count() or 1


class _Quiet:
    """Passes on the wish to stop, and keeps the steps of an inner stage to itself."""

    def __init__(self, observer: Observer) -> None:
        self.stop_requested = observer.stop_requested

    def report(self, progress: Progress) -> None:
        """Ignore the progress."""

    def record_epoch(self, epoch: Any) -> None:
        """Ignore the epoch."""


def _reader(
    raw: Path, description: DatasetDescription, *, outside: bool = False, permissive: bool = False
) -> str:
    """Choose the reader of a dataset by its first image."""
    for case in find_cases(raw, description, outside=outside):
        for path in case.images[:1]:
            return choose_reader(description, path, permissive=permissive)
    raise DatasetError(
        f"the dataset has no training image named CASE_0000{description.file_ending}; add images to imagesTr"
    )


def _ending(case: CaseFiles) -> str:
    """Return what follows `CASE_0000` in the name of the first channel."""
    return case.images[0].name[len(f"{case.case_id}_0000") :]


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
