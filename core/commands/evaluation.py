"""`evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands.options import Out, Workers, figure, observing, read_description, require_other
from core.domain.report import TOLERANCE_MM, EvaluationOptions, Scores


def evaluate(
    predictions: Annotated[Path, typer.Option(help="Folder of segmentations.")],
    references: Annotated[Path, typer.Option(help="Folder of references, same file names.")],
    dataset_json: Annotated[Path, typer.Option(help="dataset.json")],
    out: Out,
    *,
    surface: Annotated[
        bool,
        typer.Option(
            help="Measure surface Dice, 95th percentile Hausdorff distance and difference of volumes too."
        ),
    ] = False,
    tolerance_mm: Annotated[
        float, typer.Option(help="Farthest distance at which surfaces agree.", min=0.001, max=1000)
    ] = TOLERANCE_MM,
    workers: Workers = None,
) -> None:
    """Score segmentations against references."""
    from core import pipeline

    require_other(out, dataset_json)
    options = EvaluationOptions(surface=surface, tolerance_mm=tolerance_mm)
    with observing() as observer:
        description = read_description(dataset_json)
        report = pipeline.evaluate(
            predictions, references, description, out, observer, options=options, workers=workers
        )
    for key, scores in report.mean.items():
        print(f"{key}: {_line(scores)}")
    print(f"foreground mean: {_line(report.foreground_mean)}")


def _line(scores: Scores) -> str:
    """Put scores into one line."""
    if "surface_dice" not in scores.model_fields_set:
        return f"Dice {figure(scores.dice)}"
    return (
        f"Dice {figure(scores.dice)}, surface Dice {figure(scores.surface_dice)}, "
        f"HD95 {figure(scores.hd95_mm)} mm, volume difference {figure(scores.volume_difference_ml)} ml"
    )
