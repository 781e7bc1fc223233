"""Plans equal to the reference's, key by key, byte by byte."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import Fingerprint
from core.domain.plan import Plan
from core.planning.planner import PlannerSettings, plan_experiments
from core.planning.presets import PRESETS

SHARED = Path(__file__).resolve().parents[3] / "../shared"
GOLDENS = SHARED / "goldens/planner_goldens/dev"
RECORDED = sorted(GOLDENS.glob("*.json")) or [GOLDENS / "absent.json"]
PRESET_OF = {PRESETS.get(name).planner: name for name in PRESETS}

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not GOLDENS.is_dir(), reason="needs the recorded plans in ../shared"),
]


def planned_anew(
    recorded: dict[str, Any], options: dict[str, Any], fingerprint: Any, description: Any
) -> dict[str, Any]:
    settings = PlannerSettings(
        reader=recorded["image_reader_writer"],
        dataset_name=recorded["dataset_name"],
        preset=PRESET_OF[recorded["experiment_planner_used"]],
        gpu_memory_gb=options.get("gpu_memory_target_in_gb"),
        target_spacing=options.get("overwrite_target_spacing"),
        suppress_transpose=options.get("suppress_transpose", False),
        plans_name=options.get("plans_name"),
    )
    return plan_experiments(
        Fingerprint.model_validate(fingerprint), DatasetDescription.model_validate(description), settings
    ).to_json()


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_plans_are_the_same_text(path: Path) -> None:
    golden = json.loads(path.read_text())

    for run in golden["runs"]:
        anew = planned_anew(run["plans"], run["options"], golden["fingerprint"], golden["dataset_json"])
        assert json.dumps(anew) == json.dumps(run["plans"])


@pytest.mark.parametrize(
    "name",
    ["nnUNetPlans", "nnUNetResEncUNetMPlans", "nnUNetResEncUNetLPlans", "nnUNetResEncUNetXLPlans"],
)
def test_plans_of_the_hippocampus_are_the_same_text(name: str) -> None:
    recorded = json.loads((SHARED / f"goldens/plans/{name}.json").read_text())
    fingerprint = json.loads((SHARED / "goldens/fingerprint/dataset_fingerprint.json").read_text())
    description = json.loads((SHARED / "data/Dataset004_Hippocampus/dataset.json").read_text())

    anew = planned_anew(recorded, {"plans_name": name}, fingerprint, description)

    assert json.dumps(anew) == json.dumps(recorded)
    assert json.dumps(Plan.parse(json.dumps(recorded)).to_json()) == json.dumps(recorded)
