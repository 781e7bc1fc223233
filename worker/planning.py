"""The planning job: fingerprint a dataset unless somebody did, plan for it, and say what is to be trained."""

from collections.abc import Mapping
from pathlib import Path

from app.payloads import ObjectRef, PlannedConfiguration, PlanPayload, PlanResult, WorkOrder
from app.services.stages import stages_before
from core import pipeline
from core.domain.fingerprint import FINGERPRINT_FILE, Fingerprint
from core.domain.plan import ConfigurationName
from core.domain.progress import Observer
from core.errors import PlanError
from worker.observer import Message, result_message
from worker.preprocessed import preprocessing_digest, read_plan
from worker.workspace import Workspace

PLANS_FILE = "plans.json"

DEFAULT_CONFIGURATIONS = ("3d_fullres", "2d")
"""What a training takes when the request leaves it open: the first that the plan has, else whatever it has."""


def plan(order: WorkOrder, payload: PlanPayload, workspace: Workspace, observer: Observer) -> Message:
    """Fingerprint the dataset and plan for it; what is there already is taken as it is."""
    outbox = workspace.outbox(order)
    reused: dict[str, ObjectRef] = {}
    files: dict[str, Path] = {}
    if payload.fingerprint is None:
        measured = files[FINGERPRINT_FILE] = outbox / FINGERPRINT_FILE
        pipeline.fingerprint(workspace.raw_dataset(payload.archive, observer), measured, observer)
    else:
        reused[FINGERPRINT_FILE] = payload.fingerprint
        measured = workspace.store.path(payload.fingerprint)
    if payload.plans is None:
        files[PLANS_FILE] = outbox / PLANS_FILE
        raw, request = workspace.raw_dataset(payload.archive, observer), _plan_request(payload)
        made = pipeline.plan_dataset(raw, _fingerprint(measured), request, files[PLANS_FILE])
    else:
        reused[PLANS_FILE] = payload.plans
        made = read_plan(workspace, payload.plans)
    stages = {name: made.configuration(name).previous_stage for name in made.configurations}
    chosen = () if payload.training_id is None else _configurations(stages, payload.configurations)
    result = PlanResult(
        files=reused,
        configurations=chosen,
        planned=tuple(PlannedConfiguration(name=name, previous_stage=one) for name, one in stages.items()),
        digests={
            name: preprocessing_digest(payload.archive, made, name)
            for one in chosen
            for name in (one, *stages_before(stages, one))
        },
    )
    return result_message(result, files)


def _plan_request(payload: PlanPayload) -> pipeline.PlanRequest:
    """Return what the planner needs to know of a payload."""
    return pipeline.PlanRequest(
        dataset_name=payload.dataset_name,
        preset=payload.preset,
        gpu_memory_gb=payload.gpu_memory_gb,
        target_spacing=payload.target_spacing,
        suppress_transpose=payload.suppress_transpose,
        plans_name=payload.plans_name,
    )


def _fingerprint(path: Path) -> Fingerprint:
    """Read a fingerprint that the engine wrote."""
    return Fingerprint.model_validate_json(path.read_text())


def _configurations(
    stages: Mapping[ConfigurationName, str | None], wanted: tuple[ConfigurationName, ...] | None
) -> tuple[ConfigurationName, ...]:
    """Return the configurations to train.

    Args:
        stages: Every configuration of the plan, and the one whose segmentation it refines, if it does.
        wanted: What was asked for; None for what the plan suggests.

    Raises:
        PlanError: The plan does not have one that was asked for, or only later stages of cascades.
    """
    trainable = [name for name, previous in stages.items() if previous is None]
    if wanted is None:
        found = next((name for name in (*DEFAULT_CONFIGURATIONS, *trainable) if name in trainable), None)
        if found is None:
            raise PlanError(
                "every configuration of the plan refines another one's segmentation; add one without previous_stage"
            )
        return (found,)
    missing = [name for name in wanted if name not in stages]
    if missing:
        raise PlanError(
            f"the plan has no configuration {', '.join(missing)} for this dataset; ask for: {', '.join(stages)}",
            missing=[*missing],
        )
    return wanted
