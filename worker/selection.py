"""The last job of a training: what segments best, a configuration or an ensemble, put together as a model."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from app.payloads import (
    ENSEMBLE_SIGN,
    VALIDATED_FILE,
    ObjectRef,
    SelectPayload,
    SelectResult,
    TrainResult,
    WorkOrder,
)
from core import pipeline
from core.domain.dataset import CaseId, DatasetDescription
from core.domain.fingerprint import FINGERPRINT_FILE
from core.domain.model import MODEL_FILE, fold_name
from core.domain.plan import ConfigurationName
from core.domain.progress import Observer
from core.domain.record import write_json
from core.domain.selection import Selection
from core.domain.splits import SPLITS_FILE
from core.domain.training import Fold
from core.errors import DomainError
from core.pipeline import selection
from core.pipeline.cascades import keep_previous
from core.pipeline.selection import SelectOrder
from worker.archive import room_in_workspace
from worker.expected import expected_image
from worker.observer import Message, result_message
from worker.packing import bring_unpacked
from worker.planning import PLANS_FILE
from worker.preprocessed import read_plan
from worker.provenance import versions, weights_of
from worker.training import MODEL_FILES
from worker.workspace import Workspace, link_or_copy


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A model's folder, and how well it does."""

    folder: Path
    configurations: tuple[ConfigurationName, ...]
    folds: tuple[Fold, ...]
    mean_dice: float | None
    reason: str


def select(
    order: WorkOrder,
    payload: SelectPayload,
    workspace: Workspace,
    observer: Observer,
    *,
    workers: int | None,
) -> Message:
    """Choose what segments the validation cases best, and put it together as one model.

    Raises:
        DomainError: What the folds left does not belong together.
        CancelledError: The observer asked to stop.
    """
    outbox = workspace.outbox(order)
    raw = workspace.raw_dataset(payload.archive, observer)
    fetched = _Fetched(workspace, observer)
    trained = _gathered(order, payload, outbox / "trained", raw / "dataset.json", fetched)
    wanted = SelectOrder(models=(), out=outbox / "model", ensembling=payload.ensembling, workers=workers)
    chosen = _chosen(_candidates(order, payload), trained, wanted, fetched)
    reused = {path: ref for path, file in _files(chosen.folder) if (ref := fetched.origin(file)) is not None}
    write_json(chosen.folder / "provenance.json", _provenance(order, payload, reused))
    made = {path: file for path, file in _files(chosen.folder) if path not in reused}
    result = SelectResult(
        files={},
        paths=tuple(made),
        reused=reused,
        configuration=ENSEMBLE_SIGN.join(chosen.configurations),
        folds=chosen.folds,
        mean_dice=chosen.mean_dice,
        reason=chosen.reason,
        image=expected_image(
            read_plan(workspace, payload.plans),
            DatasetDescription.parse((raw / "dataset.json").read_bytes()),
            chosen.configurations[0],
        ),
    )
    return result_message(result, {str(number): file for number, file in enumerate(made.values())})


def _candidates(order: WorkOrder, payload: SelectPayload) -> list[TrainResult]:
    """Return what there is to choose from: a stage that only others needed is not among it."""
    wanted = payload.configurations
    return [result for result in order.trained if not wanted or result.configuration in wanted]


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Return all files of a folder with their paths there."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return [(file.relative_to(folder).as_posix(), file) for file in files]


class _Fetched:
    """Brings objects from the store, and knows them again wherever they are linked to.

    Args:
        workspace: That has the store.
        observer: Told of progress; asked whether to stop.
    """

    def __init__(self, workspace: Workspace, observer: Observer) -> None:
        self._workspace, self.observer = workspace, observer
        self._by_place: dict[tuple[int, int], ObjectRef] = {}

    def bring(self, ref: ObjectRef, target: Path) -> None:
        """Put an object where a file is to be."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with room_in_workspace():
            self._workspace.fetch_file(ref, target, self.observer)
        self._by_place[_place(target)] = ref

    def unpack(self, ref: ObjectRef, folder: Path) -> None:
        """Put what a zip of a fold holds into its model's folder."""
        bring_unpacked(ref, folder, self._workspace, self.observer)

    def origin(self, file: Path) -> ObjectRef | None:
        """Return the object that a file is; None for one that was made here, or is a copy."""
        return self._by_place.get(_place(file))


def _place(file: Path) -> tuple[int, int]:
    """Return what all links to the same bytes share."""
    status = file.stat()
    return status.st_dev, status.st_ino


def _gathered(
    order: WorkOrder, payload: SelectPayload, folder: Path, description: Path, fetched: _Fetched
) -> dict[ConfigurationName, Path]:
    """Bring what all folds left into a model's folder per configuration, each with the model of its stage before."""
    folders: dict[ConfigurationName, Path] = {}
    for result in order.trained:  # Earlier stages come before later ones.
        model = folder / result.configuration
        if result.configuration not in folders:
            folders[result.configuration] = model
            fetched.bring(payload.plans, model / PLANS_FILE)
            fetched.bring(payload.fingerprint, model / FINGERPRINT_FILE)
            link_or_copy(description, model / "dataset.json")
            for name in (MODEL_FILE, SPLITS_FILE):
                if name in result.files:
                    fetched.bring(result.files[name], model / name)
        for name in MODEL_FILES:
            if name in result.files:
                fetched.bring(result.files[name], model / fold_name(result.fold) / name)
    for name, model in folders.items():
        before = payload.previous_stages.get(name)
        if before in folders:
            keep_previous(folders[before], model, before)
    return folders


def _chosen(
    results: Sequence[TrainResult],
    trained: Mapping[ConfigurationName, Path],
    wanted: SelectOrder,
    fetched: _Fetched,
) -> _Chosen:
    """Compare what can be compared, and keep every trained fold of the best.

    Args:
        results: To choose from.
        trained: Folder per configuration.
        wanted: Says how, and where the model goes.
        fetched: Brings what was segmented.

    Raises:
        DomainError: What the folds left cannot be compared.
    """
    names = tuple(dict.fromkeys(result.configuration for result in results))
    compared, left_out = _compared_folds(results, names)
    if not compared:
        return _uncompared(results, trained)
    for result in results:
        if result.fold in compared:
            fetched.unpack(result.files[VALIDATED_FILE], trained[result.configuration])
    ordered = replace(wanted, models=[trained[name] for name in names], folds=compared)
    found = _selected(ordered, fetched.observer)
    networks = pipeline.networks_of(wanted.out)
    for network, name in networks.items():
        _add_folds(trained[name], network)
    folds = _folds_of(results, list(networks.values()))
    reason = f"{found.reason}{''.join(f'; {note}' for note in left_out)}"
    return _Chosen(wanted.out, tuple(networks.values()), folds, found.dice_postprocessed, reason)


def _selected(order: SelectOrder, observer: Observer) -> Selection:
    """Select as the engine does; what it says of folders is said of configurations.

    Raises:
        DomainError: What the folds left cannot be compared.
    """
    try:
        return selection.select(order, observer)
    except DomainError as error:
        raise type(error)(error.message.replace(f"{order.models[0].parent}/", ""), **error.context) from error


def _compared_folds(
    results: Sequence[TrainResult], names: Sequence[ConfigurationName]
) -> tuple[list[Fold], list[str]]:
    """Return the folds that every configuration validated, each case once, and what is to be said of others.

    The first stage of a cascade may have more folds. Folds beyond a cross-validation draw cases of their own, and
    splits of one's own may name a case twice: of folds that share one, the first counts.
    """
    cases: dict[ConfigurationName, dict[Fold, set[CaseId]]] = {name: {} for name in names}
    for result in results:
        if result.validation and result.fold != "all" and VALIDATED_FILE in result.files:
            cases[result.configuration][result.fold] = {score.case for score in result.validation}
    compared: list[Fold] = []
    shared: list[Fold] = []
    seen: set[CaseId] = set()
    for fold, validated in cases[names[0]].items():
        if any(fold not in others for others in cases.values()):
            continue
        if seen & validated:
            shared.append(fold)
        else:
            compared.append(fold)
            seen |= validated
    notes = [f"fold {fold} was not compared, since it validated cases of another one" for fold in shared]
    return compared, notes


def _uncompared(results: Sequence[TrainResult], trained: Mapping[ConfigurationName, Path]) -> _Chosen:
    """Take the configuration that scored best in the folds that all have, as far as anything was scored; else the first."""
    scores: dict[ConfigurationName, dict[Fold, float]] = {result.configuration: {} for result in results}
    for result in results:
        if result.mean_dice is not None:
            scores[result.configuration][result.fold] = result.mean_dice
    common = set.intersection(*(set(folds) for folds in scores.values()))
    means = {
        name: fmean(folds[fold] for fold in common) if common else None for name, folds in scores.items()
    }
    best = max(means, key=lambda name: -1.0 if (mean := means[name]) is None else mean)
    figures = ", ".join(
        f"{name} {'not measured' if mean is None else f'{mean:.4f}'}" for name, mean in means.items()
    )
    what = "of cases that they were trained on" if common == {"all"} else "of the folds"
    reason = f"there are no segmentations of validation cases to compare; mean Dice {what}: {figures}"
    return _Chosen(trained[best], (best,), _folds_of(results, [best]), means[best], reason)


def _folds_of(results: Sequence[TrainResult], members: Sequence[ConfigurationName]) -> tuple[Fold, ...]:
    """Return the folds that all members of a model have, in the order in which they were asked for."""
    folds = [[result.fold for result in results if result.configuration == name] for name in members]
    return tuple(fold for fold in folds[0] if all(fold in others for others in folds))


def _add_folds(trained: Path, network: Path) -> None:
    """Give a model the folds that were not compared as well: that of all cases, or more of an earlier stage."""
    for folder in trained.glob("fold_*"):
        if not (network / folder.name).is_dir():
            for file in folder.rglob("*"):
                if file.is_file():
                    link_or_copy(file, network / file.relative_to(trained))


def _provenance(order: WorkOrder, payload: SelectPayload, files: Mapping[str, ObjectRef]) -> dict[str, Any]:
    """Say where a model comes from: what went in, by hash, and what computed it."""
    return {
        "version": 1,
        "training_id": str(payload.training_id),
        "dataset_sha256": payload.archive.sha256,
        "plans_sha256": payload.plans.sha256,
        "weights_sha256": weights_of(files),
        "validation": [json.loads(result.model_dump_json(exclude={"files"})) for result in order.trained],
        "versions": versions(),
        "machine": platform.machine(),
    }
