"""A model of the official tools, made into a folder of ours."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file

from core.domain.ensemble import ENSEMBLE_FILE, MEMBERS_FOLDER, EnsembleRecord
from core.domain.exchange import ORIGIN_FILE, CheckpointChoice, ImportOptions, ImportSummary, ModelOrigin
from core.domain.fingerprint import FINGERPRINT_FILE, Fingerprint
from core.domain.model import MODEL_FILE, PREVIOUS_FOLDER, WEIGHTS_FILE, ModelRecord, fold_name
from core.domain.names import last_part
from core.domain.postprocessing import POSTPROCESSING_FILE
from core.domain.progress import Observer, Progress
from core.domain.record import write_json
from core.domain.training import Fold
from core.errors import CancelledError, DomainError, ModelError
from core.exchange.fit import own_weights, require_fit
from core.exchange.layout import Choice, OfficialFolder
from core.exchange.model_files import Described, read_described, read_file, read_postprocessing
from core.network.official import OfficialCheckpoint, read_official_checkpoint

BATCH_NORM_TRAINER: Final = "nnUNetTrainerBN"
"""The one trainer that builds a plan's network with another norm; Engine specification B 5."""

OTHER_NETWORKS: Final = "Primus"
"""In the names of trainers that build other networks than the plan says; Engine specification A 7.8."""


def import_official(
    choice: Choice, options: ImportOptions, folder: Path, observer: Observer
) -> ImportSummary:
    """Write a model, or an ensemble of several, as a folder of ours.

    Args:
        choice: From `core.exchange.layout.choose`.
        options: Which folds and which checkpoint.
        folder: New, and empty; of a refused model nothing in it may be used.
        observer: Told after each fold, and asked whether to stop.

    Raises:
        DomainError: A model cannot be used; the sentence names the file.
        CancelledError: The observer asked to stop.
    """
    notes = [] if choice.note is None else [choice.note]
    names = _member_names(choice.models)
    first: Described | None = None
    for name, model in zip(names, choice.models, strict=True):
        within = folder if len(names) == 1 else folder / MEMBERS_FOLDER / name
        described = _import_model(model, options, within, observer, notes)
        if described.configuration.previous_stage is not None:
            earlier = choice.before.get(model.name)
            if earlier is None:
                notes.append(
                    f"the stage before {name} is not there: predict with --previous or --previous-model"
                )
            else:
                every = options.model_copy(update={"folds": None})
                _import_model(earlier, every, within / PREVIOUS_FOLDER, observer, notes)
        first = first or described
        if (described.labels, described.description.channels) != (first.labels, first.description.channels):
            raise ModelError(f"{names[0]} and {name} have other labels or channels, and make no ensemble")
    if first is None:
        raise ModelError("there is no model to import")
    if len(names) > 1:
        write_json(folder / ENSEMBLE_FILE, EnsembleRecord(members=names).to_json())
    if choice.postprocessing is not None:
        found = read_postprocessing(choice.postprocessing, first.labels)
        if found is not None:
            write_json(folder / POSTPROCESSING_FILE, found.to_json())
    folds = _folds(choice.models[0], options)
    return ImportSummary(models=names, folds=folds, notes=tuple(dict.fromkeys(notes)))


def _member_names(models: Sequence[OfficialFolder]) -> tuple[str, ...]:
    """Name each model by its configuration, or wholly where two are of one."""
    short = [model.configuration for model in models]
    return tuple(short if len(set(short)) == len(short) else [model.name for model in models])


def _folds(model: OfficialFolder, options: ImportOptions) -> tuple[Fold, ...]:
    """Return the folds to import.

    Raises:
        ModelError: One that is asked for is missing.
    """
    there = tuple(model.checkpoints)
    missing = [str(fold) for fold in options.folds or () if fold not in there]
    if missing:
        raise ModelError(
            f"{model.name} has no fold {', '.join(missing)} with checkpoint_{options.checkpoint}.pth; it has "
            f"{', '.join(map(str, there))}"
        )
    return tuple(dict.fromkeys(options.folds or there))


def _import_model(
    model: OfficialFolder, options: ImportOptions, folder: Path, observer: Observer, notes: list[str]
) -> Described:
    """Write one model as a folder of ours, whose files are those of the official one as they were."""
    described = read_described(model.path, model.configuration)
    if not described.configuration.architecture.is_unet:
        raise ModelError(
            f"the network {described.configuration.architecture.network_class_name} of {model.name} is a package's, "
            "whose size nobody can tell beforehand; only models with networks of the method are imported"
        )
    folder.mkdir(parents=True)
    folds = _folds(model, options)
    read: dict[Fold, OfficialCheckpoint] = {}
    for done, fold in enumerate(folds):
        observer.report(Progress(stage="import", done=done, total=len(folds), note=f"{model.name} {fold}"))
        if observer.stop_requested():
            raise CancelledError("the import stopped")
        file = f"{fold_name(fold)}/{model.checkpoints[fold].name}"
        checkpoint = read_official_checkpoint(model.checkpoints[fold])
        if not read:
            described = _as_trained(described, model, checkpoint, folder, notes)
        _require_same(checkpoint, model, file, read)
        require_fit(checkpoint.weights, described, file)
        (folder / fold_name(fold)).mkdir()
        save_file(own_weights(checkpoint.weights, file), folder / fold_name(fold) / WEIGHTS_FILE)
        read[fold] = checkpoint
    observer.report(Progress(stage="import", done=len(folds), total=len(folds)))
    _write_records(model, described, read, options.checkpoint, folder)
    notes += _copy_fingerprint(model.path, folder)
    return described


def _as_trained(
    described: Described,
    model: OfficialFolder,
    checkpoint: OfficialCheckpoint,
    folder: Path,
    notes: list[str],
) -> Described:
    """Write plans.json and dataset.json, and return what they say of the network that was trained.

    Raises:
        ModelError: It is one that no plan describes.
    """
    trainer = checkpoint.trainer or model.name.partition("__")[0]
    (folder / "dataset.json").write_bytes(read_file(model.path / "dataset.json"))
    plans = read_file(model.path / "plans.json")
    if OTHER_NETWORKS in trainer:
        raise ModelError(
            f"{trainer} trains another network than plans.json describes, one that is not supported"
        )
    if trainer == BATCH_NORM_TRAINER:
        plans = json.dumps(_with_batch_norm(json.loads(plans), described), indent=4).encode()
        notes.append(f"{trainer}: plans.json names the batch norm that the network was trained with")
    (folder / "plans.json").write_bytes(plans)
    return read_described(folder, described.name) if trainer == BATCH_NORM_TRAINER else described


def _with_batch_norm(plans: dict[str, Any], described: Described) -> dict[str, Any]:
    """Return plans in which the configuration has the norm that its trainer put in."""
    architecture = described.configuration.architecture.to_json()
    arguments = architecture["arch_kwargs"]
    axes = last_part(arguments["conv_op"]).removeprefix("Conv")
    arguments["norm_op"] = f"torch.nn.modules.batchnorm.BatchNorm{axes}"
    arguments["norm_op_kwargs"] = {"eps": 1e-05, "affine": True}
    own = plans["configurations"][described.name]
    return {
        **plans,
        "configurations": {**plans["configurations"], described.name: {**own, "architecture": architecture}},
    }


def _require_same(
    checkpoint: OfficialCheckpoint,
    model: OfficialFolder,
    file: str,
    before: Mapping[Fold, OfficialCheckpoint],
) -> None:
    """Refuse folds that are of different models.

    Raises:
        ModelError: The configuration or the axes of mirroring are others.
    """
    if checkpoint.configuration not in {None, model.configuration}:
        raise ModelError(
            f"{file} is of configuration {checkpoint.configuration}, but lies in {model.name}; put it where it belongs"
        )
    for fold, other in before.items():
        if other.mirror_axes != checkpoint.mirror_axes:
            raise ModelError(
                f"{file} was mirrored along {list(checkpoint.mirror_axes)}, fold {fold} along "
                f"{list(other.mirror_axes)}; import the folds that belong together with --folds"
            )


def _write_records(
    model: OfficialFolder,
    described: Described,
    read: Mapping[Fold, OfficialCheckpoint],
    choice: CheckpointChoice,
    folder: Path,
) -> None:
    """Write what of the model is neither in the plan nor in the weights.

    Raises:
        ModelError: It mirrors along axes that its patch lacks.
    """
    first = next(iter(read.values()))
    axes = len(described.configuration.patch_size)
    if any(axis >= axes for axis in first.mirror_axes):
        raise ModelError(
            f"{model.name} mirrors along axes {list(first.mirror_axes)}, but its patch has only {axes}; the "
            "checkpoint belongs to another model"
        )
    record = ModelRecord(configuration=described.name, mirror_axes=first.mirror_axes)
    write_json(folder / MODEL_FILE, record.to_json())
    origin = ModelOrigin(
        name=model.name,
        trainer=first.trainer or model.name.partition("__")[0],
        checkpoint=choice,
        epochs={str(fold): one.epochs for fold, one in read.items()},
        sha256={str(fold): sha256(model.checkpoints[fold]) for fold in read},
    )
    write_json(folder / ORIGIN_FILE, origin.to_json())


def _copy_fingerprint(source: Path, folder: Path) -> list[str]:
    """Copy the fingerprint, which prediction does not need; say so where it cannot be used."""
    if not (source / FINGERPRINT_FILE).is_file():
        return []
    try:
        content = read_file(source / FINGERPRINT_FILE)
        Fingerprint.parse(content)
    except DomainError as error:
        return [f"left out, since no prediction needs it: {error.message}"]
    (folder / FINGERPRINT_FILE).write_bytes(content)
    return []


def sha256(file: Path) -> str:
    """Return the digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
