"""`plan`, `explain`, `move-plans`."""

import json
import re
import textwrap
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from core.commands.options import (
    Out,
    Plans,
    read_description,
    read_fingerprint,
    read_plan,
    read_shape,
    read_triple,
    require_other,
    sensible_memory,
)
from core.domain.dataset import DatasetDescription
from core.domain.names import plans_name_mistake
from core.domain.problems import counted
from core.errors import PlanningError

GB = 1e9


DATASET_FOLDER = re.compile(r"Dataset\d{3,}_.+")
"""Engine specification A 1.1."""


def plan(
    dataset_json: Annotated[Path, typer.Option(help="dataset.json")],
    fingerprint: Annotated[Path, typer.Option(help="dataset_fingerprint.json")],
    out: Out,
    preset: Annotated[str, typer.Option(help="Which planner.")] = "default",
    gpu_memory_gb: Annotated[
        float | None, typer.Option(help="Memory to plan for.", callback=sensible_memory)
    ] = None,
    target_spacing: Annotated[
        str | None, typer.Option(help="z,y,x in mm, in the axis order of the files; replaces the rule.")
    ] = None,
    suppress_transpose: Annotated[bool, typer.Option("--suppress-transpose")] = False,  # noqa: FBT002
    plans_name: Annotated[str | None, typer.Option()] = None,
    reader: Annotated[str | None, typer.Option(help="Reader that the plans name.")] = None,
    dataset_name: Annotated[str, typer.Option()] = "",
) -> None:
    """Configure pipelines for a fingerprint."""
    from core import pipeline
    from core.planning.planner import PlannerSettings

    require_other(out, dataset_json, fingerprint)
    mistake = None if plans_name is None else plans_name_mistake(plans_name)
    if mistake is not None:
        raise PlanningError(mistake)
    description, measured = read_description(dataset_json), read_fingerprint(fingerprint)
    values = {
        "preset": preset,
        "gpu_memory_gb": gpu_memory_gb,
        "target_spacing": None if target_spacing is None else read_triple(target_spacing),
        "suppress_transpose": suppress_transpose,
        "plans_name": plans_name,
        "reader": pipeline.reader_of(dataset_json.parent, description, measured)
        if reader is None
        else _reader(reader, description),
        "dataset_name": dataset_name or _dataset_name(dataset_json, description),
    }
    settings = PlannerSettings(**{key: value for key, value in values.items() if value is not None})
    pipeline.plan(description, measured, settings, out)


def explain(
    plans: Plans,
    image_shape: Annotated[
        str | None,
        typer.Option(help="z,y,x in voxels: also estimate the memory of predicting such an image."),
    ] = None,
    image_spacing: Annotated[
        str | None, typer.Option(help="z,y,x in mm of that image; by default that of the median case.")
    ] = None,
    fingerprint: Annotated[
        Path | None, typer.Option(help="dataset_fingerprint.json: reasons with the dataset's figures.")
    ] = None,
    dataset_json: Annotated[
        Path | None, typer.Option(help="dataset.json: number of cases, channels.")
    ] = None,
    gpu_memory_gb: Annotated[
        float | None,
        typer.Option(
            help="What they were planned for, which plans.json does not hold.", callback=sensible_memory
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002 - a switch
) -> None:
    """Say why a plan is what it is, and what predicting with it costs."""
    from core.planning.explain import explain as explained

    description = None if dataset_json is None else read_description(dataset_json)
    found = explained(
        read_plan(plans),
        fingerprint=None if fingerprint is None else read_fingerprint(fingerprint),
        description=description,
        gpu_memory_gb=gpu_memory_gb,
        image_shape=None if image_shape is None else read_shape(image_shape),
        image_spacing=None if image_spacing is None else read_triple(image_spacing),
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=4))
        return
    for name, decisions in groupby(found.decisions, key=lambda decision: decision.configuration):
        print(name or f"{found.plans_name}, all configurations")
        for decision in decisions:
            print(f"  {decision.topic}: {json.dumps(decision.value)}")
            print(textwrap.fill(decision.reason, 100, initial_indent="    ", subsequent_indent="    "))
    for cost in found.prediction:
        print(
            f"predicting {image_shape} voxels with {cost.configuration}: {counted(cost.tiles, 'tile')}, about "
            f"{cost.cpu_bytes / GB:.1f} GB on a processor, {cost.gpu_bytes / GB:.1f} GB on a GPU; {cost.reason}"
        )


def move_plans(
    plans: Plans,
    raw: Annotated[Path, typer.Option(help="Folder of the dataset that the plans are to be used for.")],
    out: Out,
    dataset_name: Annotated[str | None, typer.Option(help="By default the folder's name.")] = None,
    plans_name: Annotated[str | None, typer.Option(help="By default the plans keep their name.")] = None,
) -> None:
    """Carry the plans of one dataset over to another, for pretraining or comparison."""
    from core import pipeline

    require_other(out, plans, raw / "dataset.json")
    pipeline.move_plan(
        checked := read_plan(plans),
        raw,
        out,
        dataset_name=dataset_name or raw.resolve().name,
        plans_name=checked.plans_name if plans_name is None else plans_name,
        outside=True,
    )


def _dataset_name(dataset_json: Path, description: DatasetDescription) -> str:
    """Return the name of the folder if it is a dataset's, else the one that the description gives."""
    folder = dataset_json.resolve().parent.name
    return (
        folder if DATASET_FOLDER.fullmatch(folder) else str((description.model_extra or {}).get("name", ""))
    )


def _reader(name: str, description: DatasetDescription) -> str:
    """Check that a reader exists and reads the dataset's files."""
    from core.planning.check import reader_mistakes

    for mistake in reader_mistakes(name, description):
        raise PlanningError(mistake.message)
    return name
