"""Train one fold, and score its validation cases."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.domain.dataset import CaseId, DatasetDescription
from core.domain.geometry import permuted
from core.domain.labels import LabelSet
from core.domain.model import ModelRecord, PrecisionName, PredictionOptions, fold_name
from core.domain.plan import ConfigurationName, Plan
from core.domain.progress import Observer, Progress, QuietObserver, SeveralObservers, SilentObserver
from core.domain.report import NOTHING_SCORED, EvaluationReport
from core.domain.stages import next_stages
from core.domain.training import Fold, Split, TrainingSettings
from core.io.case_store import CaseStore, OpenCases, PreprocessedCase
from core.io.cases import (
    find_cases,
    read_description,
)
from core.io.next_stage import load_with_previous
from core.io.probabilities import KeepPart, probabilities_written, write_properties
from core.io.readers import read_labels, reader_for_file, write_labels
from core.pipeline.cascades import hand_on, keep_previous, link_or_copy, next_stage_folder
from core.pipeline.crossval import REFERENCES_FOLDER
from core.pipeline.data import preprocess
from core.pipeline.model_folder import require_same_model, write_model
from core.pipeline.splits import Wanted, choose_splits, keep_splits, references_of, split_of_fold
from core.plots import PROGRESS_FILE, ProgressPlot

if TYPE_CHECKING:
    from core.inference.model import LoadedModel
    from core.training.fold import FoldSetup
    from core.training.pretrained import StartWeights
    from core.training.ranks import Ranks


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
    splits: Wanted = None
    """Splits by fold number, or how patients are known whose cases stay together; None for the dataset's
    splits_final.json, or the default cross-validation."""
    previous: Sequence[Path] = ()
    """In a later stage of a cascade, where the folds of the stage before left what they segmented for it, one
    folder or several; see `core.pipeline.cascades.next_stage_folder`."""
    previous_model: Path | None = None
    """Folder of the model of the stage before, to be kept within this one, which then predicts by itself."""
    outside: bool = False
    """Whether dataset.json may list files outside `raw`; see `core.io.cases.find_cases`."""
    pretrained: "StartWeights | None" = None
    """What the network begins with, from `core.pipeline.start_weights`; nothing for one that goes on from its
    checkpoint."""
    goes_further: bool = False
    """Whether a training that was begun may be given more epochs than it was begun with."""
    keeps_ended: bool = False
    """Whether such a training stays as it is if it stopped early, beside others that do go further; else it is refused."""
    save_probabilities: bool = False
    """Whether validation leaves the probabilities of its cases beside their segmentations, for ensembles."""


def train(order: TrainOrder, observer: Observer) -> EvaluationReport:
    """Train one fold, or go on where its checkpoint stands, then segment and score its validation cases.

    Started by torch's launcher, several processes do so together, each on a GPU of its own; all but the first
    are silent.

    Returns:
        Scores of the validation cases, as written to validation/summary.json; of none, where the fold has none.

    Raises:
        TrainingError: There are not enough cases for the fold, the stage before has not segmented them, other
            folds of the model were trained otherwise, or the training cannot go on.
        DatasetError: Cases of the fold were preprocessed, but the dataset no longer has them.
        ModelError: The model of the stage before is none.
        CancelledError: The observer asked to stop; the last checkpoint is complete.
    """
    from core.training.distributed import joined

    with joined() as ranks:
        return _train_together(order, observer if ranks.is_first else SilentObserver(), ranks)


def _train_together(order: TrainOrder, observer: Observer, ranks: "Ranks") -> EvaluationReport:
    """Do this process's part of a training; what is wrong with the order is said before any work."""
    from core.training.augmentations import prediction_mirror_axes
    from core.training.cascade import previous_files, require_previous
    from core.training.distributed import own_device
    from core.training.fold import examine
    from core.training.loop import train_fold

    order = replace(order, device=own_device(order.device, ranks))
    description = read_description(order.raw)
    configuration = order.plan.configuration(order.configuration)
    for name in next_stages(order.plan, order.configuration):
        next_stage_folder(order.model, name)
    case_ids = _case_ids(order, description)
    splits = choose_splits(order.splits, order.raw, order.model, case_ids)
    split = split_of_fold(splits, case_ids, order.fold)
    _references(order, description, (*split.train, *split.val))
    previous = previous_files(order.previous, configuration, order.configuration, case_ids)
    require_previous(previous, split, configuration, case_ids, splits.folds)
    axes = prediction_mirror_axes(configuration, order.settings)
    record = ModelRecord(
        configuration=order.configuration, mirror_axes=axes, settings=order.settings.to_json()
    )
    require_same_model(order.model, order.plan, record, description)
    setup = _setup(order, description.label_set(), split, previous, ranks)
    examine(setup)
    if ranks.is_first:
        keep_splits(splits, order.model, case_ids)
        write_model(order.model, order.plan, record, description)
        _prepare(order, observer)
    ranks.wait()
    plot = ProgressPlot(setup.folder / PROGRESS_FILE) if ranks.is_first else nullcontext(SilentObserver())
    with plot as drawn:
        train_fold(setup, SeveralObservers(observer, drawn))
    ranks.wait()
    return validate(order, setup.validation_cases, observer, ranks)


def _setup(
    order: TrainOrder, labels: LabelSet, split: Split, previous: Mapping[CaseId, Path], ranks: "Ranks"
) -> "FoldSetup":
    """Return what the fold is trained from; its cases are opened when they are asked for."""
    from core.training.fold import FoldSetup

    load = partial(load_with_previous, CaseStore(_store(order)), previous)
    return FoldSetup(
        training_cases=OpenCases(load, split.train),
        validation_cases=OpenCases(load, split.val),
        configuration=order.plan.configuration(order.configuration),
        labels=labels,
        settings=order.settings,
        folder=order.model / fold_name(order.fold),
        device=order.device,
        precision=order.precision,
        ranks=ranks,
        initial=order.pretrained,
        goes_further=order.goes_further,
        keeps_ended=order.keeps_ended,
    )


def _prepare(order: TrainOrder, observer: Observer) -> None:
    """Bring what the training needs into the model's folder: the model of the stage before, preprocessed cases."""
    before = order.plan.configuration(order.configuration).previous_stage
    if before is not None and order.previous_model is not None:
        keep_previous(order.previous_model, order.model, before)
    if order.preprocessed is None:
        preprocess(
            order.raw,
            order.plan,
            order.configuration,
            _store(order),
            observer,
            workers=order.threads,
            outside=order.outside,
        )


def _store(order: TrainOrder) -> Path:
    """Return the folder of the preprocessed cases."""
    return order.preprocessed or order.model / "preprocessed" / order.configuration


def start_weights(
    path: Path, *, fold: Fold | None, raw: Path, plan: Plan, configuration: ConfigurationName
) -> "StartWeights":
    """Read the weights of a network that was trained before, as far as they fit the one that is to be trained.

    Args:
        path: A model folder of ours or an official one, the folder of a fold, or a file of weights.
        fold: Of the model folder; None for its first.
        raw: Dataset that is to be trained on.
        plan: By which.
        configuration: Of the plan.

    Raises:
        ModelError: There are no weights that can be read.
        TrainingError: They are those of a network that has hardly anything in common with the plan's.
    """
    from core.training import pretrained

    labels = read_description(raw).label_set()
    return pretrained.start_weights(path, plan.configuration(configuration), labels, fold)


def is_first_process() -> bool:
    """Return whether this process speaks for all that train together; a single one does."""
    from core.training.distributed import is_first

    return is_first()


def find_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """Return the newest whole checkpoint in a fold's folder and how many epochs it holds; None without one.

    Raises:
        TrainingError: Every checkpoint is damaged, or was written by a newer version.
    """
    from core.training import checkpoint

    return checkpoint.find(folder)


def _case_ids(order: TrainOrder, description: DatasetDescription) -> Sequence[CaseId]:
    """Return all cases that are preprocessed, or will be; so that what is wrong is said before, not after."""
    if order.preprocessed is not None:
        return CaseStore(order.preprocessed).case_ids
    return [case.case_id for case in find_cases(order.raw, description, outside=order.outside)]


def _references(
    order: TrainOrder, description: DatasetDescription, case_ids: Sequence[CaseId]
) -> Mapping[CaseId, Path]:
    """Return the label files of cases, as the dataset has them now."""
    return references_of(case_ids, find_cases(order.raw, description, outside=order.outside))


def validate(
    order: TrainOrder, cases: Mapping[CaseId, PreprocessedCase], observer: Observer, ranks: "Ranks"
) -> EvaluationReport:
    """Segment the validation cases of a trained fold and score them against the references of the dataset.

    Each process segments its share of the cases, and the first one scores all of them. What later stages of a
    cascade refine is written for them too. A fold without validation cases gets no summary. The references are
    kept in the model's folder, for comparisons with other models.

    Raises:
        DatasetError: The dataset lacks cases.

    Source:
        Engine specification B 1.13.
    """
    from core.evaluation.evaluate import FilePair, evaluate_files, read_summary, write_summary
    from core.inference.model import load_stage

    description = read_description(order.raw)
    references = _references(order, description, list(cases))
    if not references:
        return NOTHING_SCORED
    folder = order.model / fold_name(order.fold) / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    model = load_stage(order.model, _options(order))
    targets = {case_id: folder / f"{case_id}{description.file_ending}" for case_id in cases}
    own = list(cases)[ranks.rank :: ranks.count]
    for done, case_id in enumerate(own):
        observer.report(Progress(stage="validate", done=done, total=len(own)))
        _segment(order, model, (case_id, cases[case_id]), targets[case_id], observer)
    ranks.wait()
    if not ranks.is_first:
        ranks.wait()
        return read_summary(folder / "summary.json")
    pairs = [FilePair(target, references[case_id]) for case_id, target in targets.items()]
    report = evaluate_files(pairs, model.labels, order.plan.image_reader_writer, QuietObserver(observer))
    write_summary(report, folder)
    for case_id, reference in references.items():
        _keep_reference(reference, order.model / REFERENCES_FOLDER / targets[case_id].name, order.plan)
    ranks.wait()
    observer.report(Progress(stage="validate", done=len(own), total=len(own)))
    return report


def _keep_reference(reference: Path, target: Path, plan: Plan) -> None:
    """Put a reference label map beside the model, in the format of the dataset's files, whatever its own is."""
    ending = target.name[target.name.index(".") :]
    if reference.name.endswith(ending) and not reference.with_suffix(".json").is_file():
        link_or_copy(reference, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    reader = reader_for_file(reference, plan.image_reader_writer)
    write_labels(read_labels(reference, reader), target, plan.image_reader_writer)


def _options(order: TrainOrder) -> PredictionOptions:
    """Return how a fold predicts its validation cases."""
    return PredictionOptions(folds=(order.fold,), precision=order.precision, device=order.device)


def _segment(
    order: TrainOrder,
    model: "LoadedModel",
    identified: tuple[CaseId, PreprocessedCase],
    target: Path,
    observer: Observer,
) -> None:
    """Segment a validation case, and write what the order and later stages of a cascade want of it."""
    from core.inference.export import Wanted
    from core.inference.predict import predict_logits, segment_case, segmentation_of

    (case_id, case), labels, options = identified, model.labels, _options(order)
    silent = QuietObserver(observer)
    shape = permuted(case.properties.shape_before_cropping, order.plan.transpose_backward)
    probabilities = target.with_name(f"{case_id}.npz")
    kept: AbstractContextManager[KeepPart | None] = nullcontext()
    if order.save_probabilities:
        kept = probabilities_written(
            probabilities, (len(labels.heads), *shape), has_background=not labels.has_regions
        )
    with kept as keep:
        wanted = Wanted(keep)
        if next_stages(order.plan, order.configuration):  # They need all logits side by side.
            logits_kzyx = predict_logits(model, case, options, silent)
            segmentation = segmentation_of(model, case, logits_kzyx, wanted=wanted)
            hand_on(model, case_id, case, logits_kzyx, fold=order.fold, folder=order.model)
        else:
            segmentation = segment_case(model, case, options, silent, wanted=wanted)
    if order.save_probabilities:
        write_properties(probabilities.with_suffix(".pkl"), case.properties, order.plan.image_reader_writer)
    write_labels(segmentation, target, order.plan.image_reader_writer)
