"""The last job of a training: the configuration that segments best, put together as a model that can predict."""

import json
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from app.payloads import ObjectRef, SelectPayload, SelectResult, TrainResult, ValidationScore, WorkOrder
from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import FINGERPRINT_FILE
from core.domain.model import MODEL_FILE, PREVIOUS_FOLDER, fold_name
from core.domain.plan import ConfigurationName
from core.domain.progress import Observer
from core.domain.record import write_json
from core.domain.splits import SPLITS_FILE
from core.domain.training import Fold
from worker.expected import expected_image
from worker.observer import Message, result_message
from worker.planning import PLANS_FILE
from worker.preprocessed import read_plan
from worker.provenance import versions, weights_of
from worker.training import MODEL_FILES
from worker.workspace import Workspace, link_or_copy


def select(order: WorkOrder, payload: SelectPayload, workspace: Workspace, observer: Observer) -> Message:
    """Choose the configuration that segments its validation cases best, and put the model together."""
    best, mean_dice, reason = _best(
        [
            result
            for result in order.trained
            if not payload.configurations or result.configuration in payload.configurations
        ]
    )
    folds = [result for result in order.trained if result.configuration == best]
    reused: dict[str, ObjectRef] = {FINGERPRINT_FILE: payload.fingerprint}
    folders, stage = [""], best
    reused |= _model_of(order, payload, best, "")
    while stage in payload.previous_stages:
        stage = payload.previous_stages[stage]
        folders.append(f"{folders[-1]}{PREVIOUS_FOLDER}/")
        reused |= _model_of(order, payload, stage, folders[-1])
    outbox = workspace.outbox(order)
    raw = workspace.raw_dataset(payload.archive, observer)
    for folder in folders:
        link_or_copy(raw / "dataset.json", outbox / folder / "dataset.json")
    write_json(outbox / "provenance.json", _provenance(order, payload, reused))
    result = SelectResult(
        files=reused,
        configuration=best,
        folds=tuple(result.fold for result in folds),
        mean_dice=mean_dice,
        reason=reason,
        image=expected_image(
            read_plan(workspace, payload.plans),
            DatasetDescription.parse((raw / "dataset.json").read_bytes()),
            best,
        ),
    )
    made = [file for file in outbox.rglob("*") if file.is_file()]
    return result_message(result, {file.relative_to(outbox).as_posix(): file for file in made})


def _model_of(
    order: WorkOrder, payload: SelectPayload, configuration: ConfigurationName, folder: str
) -> dict[str, ObjectRef]:
    """Return the files of a configuration's model that its trainings left, below a folder of the whole model."""
    results = [result for result in order.trained if result.configuration == configuration]
    files = {
        f"{folder}{fold_name(result.fold)}/{name}": ref
        for result in results
        for name, ref in sorted(result.files.items())
        if name in MODEL_FILES
    }
    common = {
        f"{folder}{name}": results[0].files[name]
        for name in (MODEL_FILE, SPLITS_FILE)
        if name in results[0].files
    }
    return files | common | {f"{folder}{PLANS_FILE}": payload.plans}


def _best(results: Sequence[TrainResult]) -> tuple[ConfigurationName, float | None, str]:
    """Return the configuration with the highest mean Dice over its validation cases, its Dice and why.

    Compared are the folds that all configurations have: the first stage of a cascade may have more.

    Source:
        Engine specification B 7.6: mean over cases per label, then over labels; the first wins a tie.
    """
    folds: dict[ConfigurationName, set[Fold]] = defaultdict(set)
    for result in results:
        folds[result.configuration].add(result.fold)
    compared = set.intersection(*folds.values())
    cases: dict[ConfigurationName, list[ValidationScore]] = {name: [] for name in folds}
    for result in results:
        if result.fold in compared:
            cases[result.configuration].extend(result.validation)
    scored = {name: _mean_dice(scores) for name, scores in cases.items()}
    best = max(scored, key=lambda name: -1.0 if scored[name] is None else float(scored[name] or 0.0))
    figures = ", ".join(
        f"{name} {'not measured' if dice is None else f'{dice:.4f}'}" for name, dice in scored.items()
    )
    return best, scored[best], f"mean Dice of the validation cases: {figures}"


def _mean_dice(scores: Iterable[ValidationScore]) -> float | None:
    """Average over cases per label, then over labels, leaving out what is undefined."""
    per_label: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        for name, dice in score.dice.items():
            if dice is not None:
                per_label[name].append(dice)
    return fmean(fmean(values) for values in per_label.values()) if per_label else None


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
