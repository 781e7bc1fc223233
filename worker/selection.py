"""The last job of a training: the configuration that segments best, put together as a model that can predict."""

import json
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from app.payloads import ObjectRef, SelectPayload, SelectResult, TrainResult, ValidationScore, WorkOrder
from core.domain.fingerprint import FINGERPRINT_FILE
from core.domain.model import MODEL_FILE, fold_name
from core.domain.plan import ConfigurationName
from core.domain.progress import Observer
from core.domain.record import write_json
from worker.observer import Message, result_message
from worker.planning import PLANS_FILE
from worker.provenance import versions, weights_of
from worker.workspace import Workspace, link_or_copy


def select(order: WorkOrder, payload: SelectPayload, workspace: Workspace, observer: Observer) -> Message:
    """Choose the configuration that segments its validation cases best, and put the model together."""
    best, mean_dice, reason = _best(order.trained)
    folds = [result for result in order.trained if result.configuration == best]
    reused = {
        f"{fold_name(result.fold)}/{name}": ref
        for result in folds
        for name, ref in sorted(result.files.items())
        if name != MODEL_FILE
    }
    reused |= {
        MODEL_FILE: folds[0].files[MODEL_FILE],
        PLANS_FILE: payload.plans,
        FINGERPRINT_FILE: payload.fingerprint,
    }
    outbox = workspace.outbox(order)
    link_or_copy(workspace.raw_dataset(payload.archive, observer) / "dataset.json", outbox / "dataset.json")
    write_json(outbox / "provenance.json", _provenance(order, payload, reused))
    result = SelectResult(
        files=reused,
        configuration=best,
        folds=tuple(result.fold for result in folds),
        mean_dice=mean_dice,
        reason=reason,
    )
    return result_message(result, {file.name: file for file in outbox.iterdir()})


def _best(results: Iterable[TrainResult]) -> tuple[ConfigurationName, float | None, str]:
    """Return the configuration with the highest mean Dice over its validation cases, its Dice and why.

    Source:
        Engine specification B 7.6: mean over cases per label, then over labels; the first wins a tie.
    """
    cases: dict[ConfigurationName, list[ValidationScore]] = defaultdict(list)
    for result in results:
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
