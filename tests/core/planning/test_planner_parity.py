"""Plans equal to the reference's, key by key, byte by byte, through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.__main__ import main
from core.domain.plan import Plan
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
    recorded: dict[str, Any], options: dict[str, Any], fingerprint: Path, description: Path
) -> str:
    """Plan by the command line, and return the file's content without its layout."""
    out = description.parent / "plans.json"
    arguments = {
        "--dataset-json": description,
        "--fingerprint": fingerprint,
        "--preset": PRESET_OF[recorded["experiment_planner_used"]],
        "--gpu-memory-gb": options.get("gpu_memory_target_in_gb"),
        "--target-spacing": ",".join(map(repr, options.get("overwrite_target_spacing", ()))) or None,
        "--plans-name": options.get("plans_name"),
        "--out": out,
    }
    given = [str(part) for pair in arguments.items() if pair[1] is not None for part in pair]
    switches = ["--suppress-transpose"] if options.get("suppress_transpose") else []
    assert main(["plan", *given, *switches]) == 0
    return json.dumps(json.loads(out.read_text()))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_plans_are_the_same_text(tmp_path: Path, path: Path) -> None:
    golden = json.loads(path.read_text())
    folder = tmp_path / golden["dataset_name"]
    folder.mkdir()
    fingerprint, description = folder / "dataset_fingerprint.json", folder / "dataset.json"
    fingerprint.write_text(json.dumps(golden["fingerprint"]))
    description.write_text(json.dumps(golden["dataset_json"]))

    for run in golden["runs"]:
        anew = planned_anew(run["plans"], run["options"], fingerprint, description)
        assert anew == json.dumps(run["plans"])


@pytest.mark.parametrize(
    "name",
    ["nnUNetPlans", "nnUNetResEncUNetMPlans", "nnUNetResEncUNetLPlans", "nnUNetResEncUNetXLPlans"],
)
def test_plans_of_the_hippocampus_are_the_same_text(tmp_path: Path, name: str) -> None:
    recorded = json.loads((SHARED / f"goldens/plans/{name}.json").read_text())
    folder = tmp_path / "Dataset004_Hippocampus"
    folder.mkdir()
    description = folder / "dataset.json"
    description.write_bytes((SHARED / "data/Dataset004_Hippocampus/dataset.json").read_bytes())
    fingerprint = SHARED / "goldens/fingerprint/dataset_fingerprint.json"

    anew = planned_anew(recorded, {"plans_name": name}, fingerprint, description)

    assert anew == json.dumps(recorded)
    assert json.dumps(Plan.parse(json.dumps(recorded)).to_json()) == json.dumps(recorded)
