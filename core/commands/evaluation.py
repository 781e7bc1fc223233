"""`evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands.options import Out, figure, observing, read_description, require_other


def evaluate(
    predictions: Annotated[Path, typer.Option(help="Folder of segmentations.")],
    references: Annotated[Path, typer.Option(help="Folder of references, same file names.")],
    dataset_json: Annotated[Path, typer.Option(help="dataset.json")],
    out: Out,
) -> None:
    """Score segmentations against references."""
    from core import pipeline

    require_other(out, dataset_json)
    with observing() as observer:
        description = read_description(dataset_json)
        report = pipeline.evaluate(predictions, references, description, out, observer)
    for key, scores in report.mean.items():
        print(f"{key}: Dice {figure(scores.dice)}")
    print(f"foreground mean: Dice {figure(report.foreground_mean.dice)}")
