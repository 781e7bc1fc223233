"""`predict`."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.commands.options import (
    Device,
    Out,
    Precision,
    fold_of,
    observing,
)
from core.domain.model import PredictionOptions
from core.errors import ModelError

if TYPE_CHECKING:
    from core.inference.ensemble import TrainedModel


def _part(text: str) -> tuple[int, int]:
    """Read `k/n`.

    Raises:
        BadParameter: It is none.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise typer.BadParameter(f"{text!r} is no part; write 1/3, 2/3 or 3/3 for each third of the images")
    return int(found[1]), int(found[2])


def predict(
    model: Annotated[
        Path,
        typer.Option(help="Model folder, an ensemble's, a folder that holds several, or a zip of these."),
    ],
    input: Annotated[Path, typer.Option(help="Folder of images, CASE_0000.nii.gz …")],  # noqa: A002 - its name
    out: Out,
    configuration: Annotated[
        str | None, typer.Option(help="Which model, where there are several: 2d, 3d_fullres …")
    ] = None,
    folds: Annotated[str | None, typer.Option(help="0,1,… ; by default all that the model has.")] = None,
    part: Annotated[
        str, typer.Option(help="k/n: every n-th image from the k-th on, for several machines.")
    ] = "1/1",
    overwrite: Annotated[  # noqa: FBT002 - a switch
        bool, typer.Option("--overwrite", help="Segment again what is in the output folder.")
    ] = False,
    save_probabilities: Annotated[  # noqa: FBT002 - a switch
        bool,
        typer.Option(
            "--save-probabilities", help="CASE.npz and CASE.pkl as well, 4 bytes per class and voxel."
        ),
    ] = False,
    uncertainty: Annotated[  # noqa: FBT002 - a switch
        bool,
        typer.Option(
            "--uncertainty",
            help="Where folds and mirrorings are unsure or disagree, 0 to 1: uncertainty/CASE_uncertainty.nii.gz.",
        ),
    ] = False,
    no_mirroring: Annotated[bool, typer.Option("--no-mirroring")] = False,  # noqa: FBT002 - a switch
    no_postprocessing: Annotated[  # noqa: FBT002 - a switch
        bool,
        typer.Option("--no-postprocessing", help="Leave out what the model's postprocessing.json removes."),
    ] = False,
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
    """Segment the images of a folder; those that have been segmented are left as they are."""
    from core import pipeline

    options = PredictionOptions(
        folds=None if folds is None else tuple(fold_of(fold) for fold in folds.split(",")),
        mirroring=not no_mirroring,
        postprocessing=not no_postprocessing,
        step_size=step_size,
        precision=precision,
        device=device,
    )
    which = pipeline.FolderOptions(
        part=_part(part), overwrite=overwrite, probabilities=save_probabilities, uncertainty=uncertainty
    )
    if previous is not None and previous_model is not None:
        raise ModelError("give what the stage before segmented or its model, not both")
    with observing() as observer, pipeline.opened_model(model, observer, configuration) as folder:
        loaded = pipeline.load(folder, options, previous_model=previous_model, alone=previous is not None)
        print(_means(loaded, device), file=sys.stderr)
        done = pipeline.segment_folder(loaded, input, out, options, observer, previous=previous, which=which)
    there = f", {done.present} were there already" if done.present else ""
    print(f"{done.segmented} cases segmented in {out}{there}")


def _means(model: "TrainedModel", wanted: str) -> str:
    """Say what computes, and why."""
    from core.network.device import device_reason

    precision = model.precision
    return (
        f"device {model.device}: {device_reason(wanted, model.device)}; "
        f"precision {precision.name}: {precision.reason}"
    )
