"""`train`: settings from a file and from options, observers, and the one verb that it calls."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from core.commands.options import (
    Configuration,
    Device,
    Plans,
    Precision,
    Raw,
    figure,
    fold_of,
    observing,
    read_plan,
    read_text,
)
from core.domain.model import fold_name
from core.domain.plan import ConfigurationName, Plan
from core.domain.progress import Observer, SeveralObservers
from core.domain.record import describe, parse_json
from core.domain.splits import Grouping, parse_patients, parse_splits
from core.domain.training import Split, TrainingSettings
from core.errors import TrainingError

if TYPE_CHECKING:
    from core.pipeline import TrainOrder
    from core.training.pretrained import StartWeights


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
    settings: Annotated[
        Path | None, typer.Option(help="JSON file of settings, see docs/training.md; options go before it.")
    ] = None,
    goes_further: Annotated[  # noqa: FBT002 - a switch
        bool, typer.Option("--continue", help="Go on with more epochs than the training was begun with.")
    ] = False,
    preprocessed: Annotated[
        Path | None, typer.Option(help="Folder of preprocessed cases; made in the model folder if not given.")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="JSON list of splits; by default splits_final.json of the dataset.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="Keep the cases of a patient together: an expression whose first group is the patient in a case "
            "identifier, such as '^([^_]+)_', or a .json file of cases, each with its patient."
        ),
    ] = None,
    pretrained: Annotated[
        Path | None,
        typer.Option(
            help="Begin with these weights: a model folder, ours or official, or a file of weights."
        ),
    ] = None,
    pretrained_fold: Annotated[
        str | None, typer.Option(help="Which fold of the pretrained model; its first if not given.")
    ] = None,
    previous: Annotated[
        Path | None,
        typer.Option(
            help="For a later stage of a cascade: model folder of the stage before, of which every fold is trained."
        ),
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
    plan = read_plan(plans)
    order = pipeline.TrainOrder(
        raw=raw,
        plan=plan,
        configuration=configuration,
        fold=fold_of(fold),
        settings=_settings(settings, {key: value for key, value in values.items() if value is not None}),
        model=out,
        preprocessed=preprocessed,
        splits=_splits(splits, group_by),
        pretrained=_start_weights(pretrained, pretrained_fold, raw, plan, configuration),
        previous=() if previous is None else (pipeline.next_stage_folder(previous, configuration),),
        previous_model=previous,
        precision=precision,
        device=device,
        outside=True,
        goes_further=goes_further,
    )
    with observing() as observer, _also_shown(tensorboard, order, observer) as both:
        report = pipeline.train(order, both)
    if pipeline.is_first_process():
        print(f"mean foreground Dice of the validation cases: {figure(report.foreground_mean.dice)}")


def _settings(path: Path | None, given: Mapping[str, Any]) -> TrainingSettings:
    """Read the settings of a file, of which the options on the command line replace some.

    Raises:
        TrainingError: There is no such setting, or it cannot have this value; every one is named.
    """
    written = {} if path is None else parse_json(read_text(path), path.name, TrainingError)
    try:
        return TrainingSettings.model_validate_json(json.dumps({**written, **given}))
    except ValidationError as error:
        known = ", ".join(sorted(TrainingSettings.model_fields))
        where = "the settings" if path is None else path.name
        raise TrainingError(f"{where} cannot be used: {describe(error)}; settings are: {known}") from error


def _start_weights(
    path: Path | None, fold: str | None, raw: Path, plan: Plan, configuration: ConfigurationName
) -> "StartWeights | None":
    """Read the weights to begin with if there are any, and say in two lines what of them is taken.

    Raises:
        TrainingError: There is a fold, but no model; or the model is another network than the plan's.
        ModelError: There are no weights that can be read.
    """
    from core import pipeline

    if path is None:
        if fold is not None:
            raise TrainingError("--pretrained-fold goes with --pretrained; name the model too")
        return None
    chosen = None if fold is None else fold_of(fold)
    initial = pipeline.start_weights(path, fold=chosen, raw=raw, plan=plan, configuration=configuration)
    if pipeline.is_first_process():
        print("\n".join(initial.record.summary()), flush=True)
    return initial


def _splits(path: Path | None, group_by: str | None) -> tuple[Split, ...] | Grouping | None:
    """Read the splits that the user wants, or how patients are known.

    Raises:
        TrainingError: The file cannot be used, or both are given.
    """
    if path is not None and group_by is not None:
        raise TrainingError("--splits and --group-by contradict each other; give one of them")
    if path is not None:
        return parse_splits(read_text(path), path.name)
    if group_by is None:
        return None
    if group_by.endswith(".json"):
        return Grouping(patients=parse_patients(read_text(Path(group_by)), Path(group_by).name))
    if not group_by:
        raise TrainingError("--group-by is empty; give an expression such as '^([^_]+)_', or a .json file")
    return Grouping(pattern=group_by)


@contextmanager
def _also_shown(folder: Path | None, order: "TrainOrder", observer: Observer) -> Iterator[Observer]:
    """Show a training in TensorBoard too, if a folder for it is given; each fold in a folder of its own."""
    if folder is None:
        yield observer
        return
    from core.tensorboard import tensorboard

    with tensorboard(folder / order.configuration / fold_name(order.fold)) as shown:
        yield SeveralObservers(observer, shown)
