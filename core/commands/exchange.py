"""`import-model`, `export-model`."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands.options import fold_of, observing
from core.domain.exchange import CheckpointChoice, ExportFormat, ImportOptions


def import_model(
    source: Annotated[
        Path, typer.Argument(metavar="ZIP|FOLDER", help="Of nnU-Net v2, or exported from here.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the model; must not exist yet.")],
    configuration: Annotated[
        str | None,
        typer.Option(
            help="Of several: 3d_fullres, or a whole name such as nnUNetTrainer__nnUNetPlans__2d; by default the "
            "only one, or the best model or ensemble if the source knows which that is."
        ),
    ] = None,
    folds: Annotated[str | None, typer.Option(help="0,1,… ; by default all there are.")] = None,
    checkpoint: Annotated[CheckpointChoice, typer.Option(help="final or best")] = "final",
) -> None:
    """Make a model folder of a model from elsewhere; nothing that it names is run."""
    from core import pipeline

    options = ImportOptions(
        configuration=configuration,
        folds=None if folds is None else tuple(fold_of(fold) for fold in folds.split(",")),
        checkpoint=checkpoint,
    )
    with observing() as observer:
        summary = pipeline.import_model(source, out, options, observer)
    for note in summary.notes:
        print(note)
    print(
        f"{' and '.join(summary.models)} in {out}, "
        f"fold{'s' * (len(summary.folds) > 1)} {', '.join(map(str, summary.folds))}"
    )


def export_model(
    folder: Annotated[Path, typer.Argument(help="Model folder.")],
    out: Annotated[Path, typer.Option(help="The zip.")],
    format: Annotated[  # noqa: A002 - its name
        ExportFormat,
        typer.Option(help="official: for nnU-Net v2; ours: for import-model, with everything."),
    ] = "official",
) -> None:
    """Write a zip of a model, for nnU-Net v2 or for another installation of this software."""
    from core import pipeline

    with observing() as observer:
        names = pipeline.export_model(folder, out, format, observer)
    print(f"{len(names)} files in {out}")
