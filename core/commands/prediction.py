"""`predict`."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands.options import (
    Device,
    Out,
    Precision,
    fold_of,
    observing,
)
from core.domain.model import PredictionOptions


def predict(
    model: Annotated[Path, typer.Option(help="Model folder.")],
    input: Annotated[Path, typer.Option(help="Folder of images, CASE_0000.nii.gz …")],  # noqa: A002 - its name
    out: Out,
    folds: Annotated[str | None, typer.Option(help="0,1,… ; by default all that the model has.")] = None,
    no_mirroring: Annotated[bool, typer.Option("--no-mirroring")] = False,  # noqa: FBT002 - a switch
    step_size: Annotated[float, typer.Option(min=0.05, max=1)] = 0.5,
    previous: Annotated[
        Path | None,
        typer.Option(help="For a later stage of a cascade: folder of what the stage before segmented."),
    ] = None,
    previous_model: Annotated[
        Path | None, typer.Option(help="Or its model folder; by default the one within the model.")
    ] = None,
    precision: Precision = "auto",
    device: Device = "auto",
) -> None:
    """Segment every image of a folder."""
    from core import pipeline

    options = PredictionOptions(
        folds=None if folds is None else tuple(fold_of(fold) for fold in folds.split(",")),
        mirroring=not no_mirroring,
        step_size=step_size,
        precision=precision,
        device=device,
    )
    with observing() as observer:
        count = pipeline.predict_folder(
            model, input, out, options, observer, previous=previous, previous_model=previous_model
        )
    print(f"{count} cases segmented in {out}")
