"""Makes plans with the real planner, and plays the jobs that make them."""

import copy
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from app.jobs import JobKind
from app.payloads import PlannedConfiguration, PlanPayload, PlanResult
from app.services.claims import Claim
from app.services.resources import Resources
from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import Fingerprint
from core.domain.plan import Plan
from core.planning.planner import PlannerSettings, plan_experiments
from tests.app import playing

FINGERPRINT = Fingerprint.model_validate(
    {
        "foreground_intensity_properties_per_channel": {
            "0": {
                "max": 200.0,
                "mean": 100.0,
                "median": 100.0,
                "min": 1.0,
                "percentile_00_5": 2.0,
                "percentile_99_5": 190.0,
                "std": 20.0,
            }
        },
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [(36, 50, 35)] * 6,
        "spacings": [(1.0, 1.0, 1.0)] * 6,
    }
)

JSON = {"Content-Type": "application/json"}


def planned(preset: str = "default", **settings: Any) -> Plan:
    """Plan for the dataset that `playing` plays."""
    description = DatasetDescription.model_validate(playing.DESCRIPTION)
    choices = PlannerSettings(
        reader="SimpleITKIO", dataset_name="Hippocampus", preset=preset, gpu_memory_gb=8, **settings
    )
    return plan_experiments(FINGERPRINT, description, choices)


def file(preset: str = "default", **changes: Any) -> dict[str, Any]:
    """Return a plans.json whose 3d_fullres has some other entries."""
    values = copy.deepcopy(planned(preset).to_json())
    values["configurations"]["3d_fullres"] |= changes
    return values


def put(
    client: httpx.Client, dataset_id: UUID | str, name: str, values: object, **headers: str
) -> httpx.Response:
    """Upload a plans.json."""
    sent = {**JSON, **{key.replace("_", "-"): value for key, value in headers.items()}}
    return client.put(f"/datasets/{dataset_id}/plans/{name}", content=json.dumps(values), headers=sent)


def finish(resources: Resources, folder: Path, taken: Claim) -> None:
    """End a `plan` job as a worker does: with files in the store."""
    payload = taken.order.payload
    assert isinstance(payload, PlanPayload)
    assert taken.kind is JobKind.PLAN
    plan = planned(payload.preset, plans_name=payload.plans_name, target_spacing=payload.target_spacing)
    files = {} if payload.fingerprint is None else {"dataset_fingerprint.json": payload.fingerprint}
    for name, content in (("plans.json", plan), ("dataset_fingerprint.json", FINGERPRINT)):
        key = f"{taken.kind}/{taken.job_id}/{taken.fence}/{name}"
        text = json.dumps(content.to_json()).encode()
        files[name] = files.get(name) or playing.publish(resources, folder, key, text)
    stages = tuple(
        PlannedConfiguration(name=name, previous_stage=plan.configuration(name).previous_stage)
        for name in plan.configurations
    )
    playing.finish(resources.sessions, taken, PlanResult(files=files, configurations=(), planned=stages))


def ready_plan(
    client: httpx.Client, resources: Resources, folder: Path, dataset_id: UUID, **body: Any
) -> Any:
    """Ask for a plan, play its job, and read it."""
    answer = client.post(f"/datasets/{dataset_id}/plans", json=body)
    assert answer.status_code == 202, answer.text
    finish(resources, folder, playing.claim(resources.sessions))
    return client.get(answer.json()["links"]["self"]).json()
