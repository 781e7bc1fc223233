"""The verbs about plans: plan, move."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import Fingerprint
from core.domain.geometry import Spacing
from core.domain.names import plans_name_mistake
from core.domain.plan import Plan
from core.domain.record import require_writable, write_json
from core.errors import DatasetError, PlanError
from core.io.cases import CaseFiles, find_cases, read_description
from core.io.readers import choose_reader

if TYPE_CHECKING:
    from core.planning.planner import PlannerSettings


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a user may choose about planning."""

    dataset_name: str = ""
    preset: str = "default"
    gpu_memory_gb: float | None = None
    target_spacing: Spacing | None = None
    """Millimetres (z, y, x) in the axis order of the files; None for what the rules find."""
    suppress_transpose: bool = False
    plans_name: str | None = None
    """None for the preset's."""


def plan(
    description: DatasetDescription, measured: Fingerprint, settings: "PlannerSettings", out: Path
) -> Plan:
    """Plan for a fingerprint and write plans.json.

    Raises:
        PlanningError: No plan can be made.
        UnknownNameError: There is no such preset.
    """
    from core.planning.planner import plan_experiments

    require_writable(out)
    made = plan_experiments(measured, description, settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, made.to_json())
    return made


def plan_dataset(raw: Path, measured: Fingerprint, request: PlanRequest, out: Path) -> Plan:
    """Plan for a dataset folder, with the reader that its images need, and write plans.json.

    Raises:
        PlanningError: No plan can be made.
        UnknownNameError: There is no such preset.
    """
    from core.planning.planner import PlannerSettings

    description = read_description(raw)
    settings = PlannerSettings(
        reader=_reader(raw, description),
        dataset_name=request.dataset_name,
        preset=request.preset,
        gpu_memory_gb=request.gpu_memory_gb,
        target_spacing=request.target_spacing,
        suppress_transpose=request.suppress_transpose,
        plans_name=request.plans_name,
    )
    return plan(description, measured, settings, out)


def move_plan(
    made: Plan, raw: Path, out: Path, *, dataset_name: str, plans_name: str, outside: bool = False
) -> Plan:
    """Carry a plan over to another dataset, and write plans.json.

    Args:
        made: Of the dataset that it was made for.
        raw: Folder of the other dataset.
        out: The new plans.json.
        dataset_name: Of the other dataset.
        plans_name: What to call the plan there.
        outside: See `verify`.

    Raises:
        DatasetError: The dataset has no image.
        PlanError: The plan does not suit the dataset, and every mistake is named; or it cannot be named so.
        ImageError: No reader understands the dataset's images.
    """
    from core.planning.check import checked_plan
    from core.planning.move import moved_plan

    mistake = plans_name_mistake(plans_name)
    if mistake is not None and plans_name != made.plans_name:
        raise PlanError(mistake, plans_name=plans_name)
    require_writable(out)
    description = read_description(raw)
    reader = _reader(raw, description, outside=outside, permissive=True)
    moved = moved_plan(made, dataset_name=dataset_name, plans_name=plans_name, reader=reader)
    checked = checked_plan(json.dumps(moved.to_json()), description)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, checked.to_json())
    return checked


def reader_of(folder: Path, description: DatasetDescription, measured: Fingerprint) -> str:
    """Choose the reader that a plan names, where its dataset may not be at hand.

    Args:
        folder: Where dataset.json lies; if there are images beside it, the first of them decides.
        description: Names a reader, or a file ending.
        measured: Tells whether the images are volumes, where there are none to look at.

    Raises:
        ImageError: No reader has the ending, or none can read the first image.
        UnknownNameError: The dataset insists on a reader that does not exist.
    """
    images = next((case.images[:1] for case in _cases(folder, description)), ())
    has_volumes = any(shape[0] > 1 for shape in measured.shapes_after_crop)
    return choose_reader(description, next(iter(images), None), has_volumes=has_volumes)


def _cases(folder: Path, description: DatasetDescription) -> tuple[CaseFiles, ...]:
    """Return the training cases of a folder; none where it is not a dataset's."""
    try:
        return find_cases(folder, description, outside=True)
    except DatasetError:
        return ()


def _reader(
    raw: Path, description: DatasetDescription, *, outside: bool = False, permissive: bool = False
) -> str:
    """Choose the reader of a dataset by its first image."""
    for case in find_cases(raw, description, outside=outside):
        for path in case.images[:1]:
            return choose_reader(description, path, permissive=permissive)
    raise DatasetError(
        f"the dataset has no training image named CASE_0000{description.file_ending}; add images to imagesTr"
    )
