"""`train`, `predict`, `evaluate`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.commands.options import (
    Configuration,
    Device,
    Out,
    Plans,
    Precision,
    Raw,
    figure,
    fold_of,
    observing,
    read_description,
    read_plan,
)
from core.domain.model import PredictionOptions, fold_name
from core.domain.progress import Observer, SeveralObservers
from core.domain.training import TrainingSettings

if TYPE_CHECKING:
    from core.pipeline import TrainOrder


def train(
    raw: Raw,
    plans: Plans,
    configuration: Configuration,
    out: Annotated[Path, typer.Option(help="Model folder; an interrupted training in it goes on.")],
    fold: Annotated[str, typer.Option(help="0, 1, … or all.")] = "0",
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    iterations_per_epoch: Annotated[int | None, typer.Option(min=1)] = None,
    validation_iterations_per_epoch: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    preprocessed: Annotated[
        Path | None, typer.Option(help="Folder of preprocessed cases; made in the model folder if not given.")
    ] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard, which shows each epoch in it.")
    ] = None,
) -> None:
    """Train one configuration on one fold, then segment and score its validation cases."""
    from core import pipeline

    values = {
        "epochs": epochs,
        "iterations_per_epoch": iterations_per_epoch,
        "validation_iterations_per_epoch": validation_iterations_per_epoch,
        "seed": seed,
    }
    order = pipeline.TrainOrder(
        raw=raw,
        plan=read_plan(plans),
        configuration=configuration,
        fold=fold_of(fold),
        settings=TrainingSettings(**{key: value for key, value in values.items() if value is not None}),
        model=out,
        preprocessed=preprocessed,
        precision=precision,
        device=device,
        outside=True,
    )
    with observing() as observer, _also_shown(tensorboard, order, observer) as both:
        report = pipeline.train(order, both)
    print(f"mean foreground Dice of the validation cases: {figure(report.foreground_mean.dice)}")


@contextmanager
def _also_shown(folder: Path | None, order: "TrainOrder", observer: Observer) -> Iterator[Observer]:
    """Show a training in TensorBoard too, if a folder for it is given; each fold in a folder of its own."""
    if folder is None:
        yield observer
        return
    from core.tensorboard import tensorboard

    with tensorboard(folder / order.configuration / fold_name(order.fold)) as shown:
        yield SeveralObservers(observer, shown)


def predict(
    model: Annotated[Path, typer.Option(help="Model folder.")],
    input: Annotated[Path, typer.Option(help="Folder of images, CASE_0000.nii.gz …")],  # noqa: A002 - its name
    out: Out,
    folds: Annotated[str | None, typer.Option(help="0,1,… ; by default all that the model has.")] = None,
    no_mirroring: Annotated[bool, typer.Option("--no-mirroring")] = False,  # noqa: FBT002 - a switch
    step_size: Annotated[float, typer.Option(min=0.05, max=1)] = 0.5,
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
        count = pipeline.predict_folder(model, input, out, options, observer)
    print(f"{count} cases segmented in {out}")


def evaluate(
    predictions: Annotated[Path, typer.Option(help="Folder of segmentations.")],
    references: Annotated[Path, typer.Option(help="Folder of references, same file names.")],
    dataset_json: Annotated[Path, typer.Option(help="dataset.json")],
    out: Out,
) -> None:
    """Score segmentations against references."""
    from core import pipeline

    with observing() as observer:
        description = read_description(dataset_json)
        report = pipeline.evaluate(predictions, references, description, out, observer)
    for key, scores in report.mean.items():
        print(f"{key}: Dice {figure(scores.dice)}")
    print(f"foreground mean: Dice {figure(report.foreground_mean.dice)}")
