"""A model of ours as it travels: which of its files are taken along, and how they are checked where they arrive."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.domain.ensemble import ENSEMBLE_FILE, MEMBERS_FOLDER, EnsembleRecord
from core.domain.exchange import ORIGIN_FILE, CheckpointChoice, ImportOptions, ImportSummary, ModelOrigin
from core.domain.fingerprint import FINGERPRINT_FILE, Fingerprint
from core.domain.model import (
    BEST_WEIGHTS_FILE,
    FOLD_FILE,
    MODEL_FILE,
    PREVIOUS_FOLDER,
    WEIGHTS_FILE,
    FoldRecord,
    ModelRecord,
    fold_name,
)
from core.domain.postprocessing import POSTPROCESSING_FILE
from core.domain.pretraining import PRETRAINED_FILE, PretrainedRecord
from core.domain.progress import Observer, Progress
from core.domain.record import describe, write_json
from core.domain.selection import SELECTION_FILE, Selection
from core.domain.training import Fold
from core.errors import CancelledError, ModelError
from core.exchange.fit import own_weights, require_fit
from core.exchange.model_files import Described, read_described, read_file, read_postprocessing

File = tuple[str, bytes | Path]
"""Name in an archive, and what it holds; a path is read before the next file is asked for."""

MOST_STAGES: Final = 3
"""Of a cascade."""

WEIGHTS_FILES: Final[Mapping[CheckpointChoice, str]] = {"final": WEIGHTS_FILE, "best": BEST_WEIGHTS_FILE}


def import_own(source: Path, options: ImportOptions, folder: Path, observer: Observer) -> ImportSummary:
    """Write what can be used of a folder of ours, a model's or an ensemble's, to another one.

    Args:
        source: Holds model.json or ensemble.json.
        options: Of an ensemble, `configuration` chooses a member.
        folder: New, and empty; of a refused model nothing in it may be used.
        observer: Told after each fold, and asked whether to stop.

    Raises:
        DomainError: A model cannot be used; the sentence names the file.
        CancelledError: The observer asked to stop.
    """
    if not (source / ENSEMBLE_FILE).is_file():
        return _single(source, options, folder, observer)
    record = EnsembleRecord.parse(read_file(source / ENSEMBLE_FILE))
    if options.configuration is not None:
        if options.configuration not in record.members:
            raise ModelError(
                f"the ensemble has no member {options.configuration}; it has {', '.join(record.members)}"
            )
        member = source / MEMBERS_FOLDER / options.configuration
        return _single(member, options.model_copy(update={"configuration": None}), folder, observer)
    folds: tuple[Fold, ...] = ()
    labels = None
    for name in record.members:
        within = folder / MEMBERS_FOLDER / name
        described, folds = _import(source / MEMBERS_FOLDER / name, options, within, observer)
        labels = labels or described.labels
        if described.labels != labels:
            raise ModelError(
                f"{name} has other labels than {record.members[0]}, and makes no ensemble with it"
            )
        _keep_decisions(source / MEMBERS_FOLDER / name, within, described)
    _keep_decisions(source, folder, described)
    write_json(folder / ENSEMBLE_FILE, record.to_json())
    return ImportSummary(models=record.members, folds=folds)


def _single(source: Path, options: ImportOptions, folder: Path, observer: Observer) -> ImportSummary:
    """Write one model."""
    described, folds = _import(source, options, folder, observer)
    _keep_decisions(source, folder, described)
    if options.configuration not in {None, described.name}:
        raise ModelError(f"the model is of configuration {described.name}, not {options.configuration}")
    return ImportSummary(models=(described.name,), folds=folds)


def _keep_decisions(source: Path, folder: Path, described: Described) -> None:
    """Write what is removed from every segmentation, if anything is, and why the model was chosen."""
    _copy(source, folder, SELECTION_FILE, Selection.parse)
    found = read_postprocessing(source, described.labels)
    if found is not None:
        write_json(folder / POSTPROCESSING_FILE, found.to_json())


def _import(
    source: Path, options: ImportOptions, folder: Path, observer: Observer, stages: int = 1
) -> tuple[Described, tuple[Fold, ...]]:
    """Write one model, and the stages of a cascade before it."""
    record = ModelRecord.parse(read_file(source / MODEL_FILE))
    described = read_described(source, record.configuration)
    axes = len(described.configuration.patch_size)
    if not set(record.mirror_axes) <= set(range(axes)):
        raise ModelError(
            f"{MODEL_FILE} mirrors axes {list(record.mirror_axes)}, but the patch has only {axes}"
        )
    folder.mkdir(parents=True)
    folds = own_folds(source, WEIGHTS_FILES[options.checkpoint], options.folds)
    for done, fold in enumerate(folds):
        observer.report(Progress(stage="import", done=done, total=len(folds), note=str(fold)))
        if observer.stop_requested():
            raise CancelledError("the import stopped")
        file = Path(fold_name(fold)) / WEIGHTS_FILES[options.checkpoint]
        weights = read_fitting(source, file, described)
        (folder / fold_name(fold)).mkdir()
        save_file(own_weights(weights, str(file)), folder / fold_name(fold) / WEIGHTS_FILE)
        _copy(source, folder, f"{fold_name(fold)}/{FOLD_FILE}", FoldRecord.model_validate_json)
        _copy(source, folder, f"{fold_name(fold)}/{PRETRAINED_FILE}", PretrainedRecord.model_validate_json)
    observer.report(Progress(stage="import", done=len(folds), total=len(folds)))
    for name in ("plans.json", "dataset.json"):
        (folder / name).write_bytes(read_file(source / name))
    write_json(folder / MODEL_FILE, record.to_json())
    _copy(source, folder, ORIGIN_FILE, ModelOrigin.model_validate_json)
    _copy(source, folder, FINGERPRINT_FILE, Fingerprint.parse)
    before = source / PREVIOUS_FOLDER
    if described.configuration.previous_stage is not None and before.is_dir() and stages < MOST_STAGES:
        every = options.model_copy(update={"folds": None})
        _import(before, every, folder / PREVIOUS_FOLDER, observer, stages + 1)
    return described, folds


def read_fitting(source: Path, file: Path, described: Described) -> dict[str, Tensor]:
    """Read a fold's weights that are those of the plan's network.

    Raises:
        ModelError: The file is damaged, or its tensors are others.
    """
    try:
        weights: dict[str, Tensor] = load_file(source / file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read: {error}; copy it again", file=str(file)) from error
    if described.configuration.architecture.is_unet:  # What a package's network has, prediction finds out.
        require_fit(weights, described, str(file))
    return weights


def own_folds(source: Path, file: str, wanted: tuple[Fold, ...] | None = None) -> tuple[Fold, ...]:
    """Return the folds of a model of ours that have weights, numbered ones first.

    Raises:
        ModelError: There is none, or one that is wanted is missing.
    """
    names = [path.parent.name.removeprefix("fold_") for path in source.glob(f"fold_*/{file}")]
    numbered: list[Fold] = sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)
    there = [*numbered, "all"] if "all" in names else numbered
    missing = [str(fold) for fold in wanted or () if fold not in there]
    if missing or not there:
        listed = ", ".join(map(str, there)) or "none"
        raise ModelError(
            f"{source.name} has no fold {', '.join(missing)}".rstrip() + f" with {file}; it has {listed}"
        )
    return tuple(dict.fromkeys(wanted or there))


def _copy(source: Path, folder: Path, name: str, parse: Callable[[bytes], object]) -> None:
    """Copy a record if there is one.

    Raises:
        DomainError: It cannot be used.
    """
    if not (source / name).is_file():
        return
    content = read_file(source / name)
    try:
        parse(content)
    except ValidationError as error:
        raise ModelError(f"{name} cannot be used: {describe(error)}", file=name) from error
    (folder / name).write_bytes(content)


def own_files(folder: Path, top: str = "") -> Iterator[File]:
    """Yield the files of a model or an ensemble of ours, of which an import makes the same.

    Args:
        folder: Of the model.
        top: Begins their names.

    Raises:
        ModelError: It is none.
    """
    if (folder / ENSEMBLE_FILE).is_file():
        record = EnsembleRecord.parse(read_file(folder / ENSEMBLE_FILE))
        yield f"{top}{ENSEMBLE_FILE}", read_file(folder / ENSEMBLE_FILE)
        for name in record.members:
            yield from own_files(folder / MEMBERS_FOLDER / name, f"{top}{MEMBERS_FOLDER}/{name}/")
    else:
        yield from _model_files(folder, top)
    yield from _present(folder, top, (POSTPROCESSING_FILE, SELECTION_FILE))


def _model_files(folder: Path, top: str) -> Iterator[File]:
    """Yield the files of a model, and of the stages of a cascade before it."""
    ModelRecord.parse(read_file(folder / MODEL_FILE))
    for fold in own_folds(folder, WEIGHTS_FILE):
        yield f"{top}{fold_name(fold)}/{WEIGHTS_FILE}", folder / fold_name(fold) / WEIGHTS_FILE
        yield from _present(
            folder / fold_name(fold), f"{top}{fold_name(fold)}/", (FOLD_FILE, PRETRAINED_FILE)
        )
    yield from _present(
        folder, top, (MODEL_FILE, "plans.json", "dataset.json", FINGERPRINT_FILE, ORIGIN_FILE)
    )
    if (folder / PREVIOUS_FOLDER / MODEL_FILE).is_file():
        yield from _model_files(folder / PREVIOUS_FOLDER, f"{top}{PREVIOUS_FOLDER}/")


def _present(folder: Path, top: str, names: Iterable[str]) -> Iterator[File]:
    """Yield small files, as far as they are there."""
    for name in names:
        if (folder / name).is_file():
            yield f"{top}{name}", read_file(folder / name)
