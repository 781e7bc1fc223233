"""`train`: an order made of what the command line says, observers, and the one verb that it calls."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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
from core.commands.training_options import (
    Epochs,
    FoldName,
    GoesFurther,
    GroupBy,
    Iterations,
    Model,
    Preprocessed,
    Pretrained,
    PretrainedFold,
    PreviousModel,
    SaveProbabilities,
    Seed,
    SettingsFile,
    SplitsFile,
    TensorboardFolder,
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
    out: Model,
    fold: FoldName = "0",
    epochs: Epochs = None,
    iterations_per_epoch: Iterations = None,
    validation_iterations_per_epoch: Iterations = None,
    seed: Seed = None,
    settings: SettingsFile = None,
    goes_further: GoesFurther = False,  # noqa: FBT002 - a switch
    preprocessed: Preprocessed = None,
    splits: SplitsFile = None,
    group_by: GroupBy = None,
    pretrained: Pretrained = None,
    pretrained_fold: PretrainedFold = None,
    previous: PreviousModel = None,
    precision: Precision = "auto",
    device: Device = "auto",
    tensorboard: TensorboardFolder = None,
    save_probabilities: SaveProbabilities = False,  # noqa: FBT002 - a switch
) -> None:
    """Train one configuration on one fold, then segment and score its validation cases."""
    from core import pipeline

    plan = read_plan(plans)
    order = pipeline.TrainOrder(
        raw=raw,
        plan=plan,
        configuration=configuration,
        fold=fold_of(fold),
        settings=_settings(
            settings,
            epochs=epochs,
            iterations_per_epoch=iterations_per_epoch,
            validation_iterations_per_epoch=validation_iterations_per_epoch,
            seed=seed,
        ),
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
        save_probabilities=save_probabilities,
    )
    _carry_out(order, tensorboard)


def _carry_out(order: "TrainOrder", tensorboard: Path | None) -> None:
    """Train while somebody watches, and print the score."""
    from core import pipeline

    with observing() as observer, _also_shown(tensorboard, order, observer) as both:
        report = pipeline.train(order, both)
    if pipeline.is_first_process():
        print(f"mean foreground Dice of the validation cases: {figure(report.foreground_mean.dice)}")


def _settings(path: Path | None, **options: int | None) -> TrainingSettings:
    """Read the settings of a file, of which the options that were given on the command line replace some.

    Raises:
        TrainingError: There is no such setting, or it cannot have this value; every one is named.
    """
    written = {} if path is None else parse_json(read_text(path), path.name, TrainingError)
    given = {name: value for name, value in options.items() if value is not None}
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
