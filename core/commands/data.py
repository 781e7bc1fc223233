"""`verify`, `convert`, `fingerprint`, `preprocess`."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands.options import (
    Configuration,
    Out,
    Plans,
    Raw,
    Workers,
    is_within,
    observing,
    read_plan,
    require_other,
)
from core.domain.conversion import Manner
from core.domain.problems import counted, some
from core.domain.record import require_writable, write_json
from core.errors import DatasetError
from core.io.cases import IMAGES_FOLDER, LABELS_FOLDER


def verify(
    raw: Raw, json_report: Annotated[Path | None, typer.Option(help="Write the report here.")] = None
) -> None:
    """Check a dataset: every problem of every case at once, how often classes occur, what deserves a look."""
    from core import pipeline
    from core.verification.outline import outline

    if json_report is not None:
        require_other(json_report, raw / "dataset.json")
        require_writable(json_report)
    with observing() as observer:
        found = pipeline.verify(raw, observer, outside=True)
    if json_report is not None:
        json_report.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_report, found.to_json())
    for line in outline(found):
        print(line)
    notes = f", {counted(len(found.notes), 'note')}" if found.notes else ""
    if found.problems:
        raise DatasetError(f"{counted(len(found.problems), 'problem')} found in {raw}{notes}")
    print(f"{len(found.cases)} cases, no problem found{notes}")


def convert(
    source: Annotated[
        Path, typer.Option("--from", help="Folder of a Medical Segmentation Decathlon or nnU-Net v1 dataset.")
    ],
    out: Annotated[Path, typer.Option(help="The new dataset folder; it must not exist, or be empty.")],
    link: Annotated[  # noqa: FBT002 - a switch
        bool, typer.Option("--link", help="Link files that stay as they are, instead of copying them.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Files at a time; by default four.", min=1)] = None,
) -> None:
    """Write a dataset of the Medical Segmentation Decathlon or of nnU-Net v1 in nnU-Net v2's layout."""
    from core import pipeline

    if is_within(out, source):
        raise DatasetError(f"{out} is within the dataset that is converted; name a folder outside {source}")
    with observing() as observer:
        done = pipeline.convert(source, out, observer, Manner(link=link, workers=workers))
    for note in done.notes:
        print(f"{note.case or 'dataset'}: note: {note.message}")
    for problem in done.problems:
        print(f"{problem.case or 'dataset'}: {problem.kind}: {problem.message}")
    if done.problems:
        raise DatasetError(f"{len(done.problems)} problems found in {source}; nothing was written")
    print(f"{done.cases} training cases and {done.further_cases} others of {done.layout} written to {out}")


def fingerprint(raw: Raw, out: Out, workers: Workers = None) -> None:
    """Measure spacings, shapes and foreground intensities of a dataset."""
    from core import pipeline

    require_other(out, raw / "dataset.json")
    with observing() as observer:
        pipeline.fingerprint(raw, out, observer, workers=workers, outside=True)


def preprocess(
    raw: Raw,
    plans: Plans,
    configuration: Configuration,
    out: Annotated[Path, typer.Option(help="Folder of cases; those in it that are still right are kept.")],
    workers: Workers = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(help="For all cases at work; by default half of what is free.", min=0.1, max=1e6),
    ] = None,
) -> None:
    """Crop, normalize and resample every case for one configuration, but for those that did not change."""
    from core import pipeline

    made = read_plan(plans)
    if any(is_within(out, raw / folder) for folder in (IMAGES_FOLDER, LABELS_FOLDER)):
        raise DatasetError(
            f"{out} holds files of the dataset; name another folder for the preprocessed cases"
        )
    with observing() as observer:
        done = pipeline.preprocess(
            raw, made, configuration, out, observer, workers=workers, memory_gb=memory_gb, outside=True
        )
    parts = [f"{counted(done.made, 'case')} preprocessed in {out}"]
    parts += [f"{done.kept} kept as they were"] if done.kept else []
    parts += [f"{done.removed} removed"] if done.removed else []
    print(", ".join(parts))
    if done.unlabelled:
        has = "has no label file" if len(done.unlabelled) == 1 else "have no label file"
        print(
            f"note: {counted(len(done.unlabelled), 'case')} {has} and can only be predicted, not trained with: "
            f"{some(done.unlabelled)}"
        )
