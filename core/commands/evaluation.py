"""`evaluate`, `ensemble`, `select`, `postprocess`: what is done with segmentations of many cases."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands.options import Out, Workers, figure, fold_of, observing, read_description, require_other
from core.domain.postprocessing import Postprocessing
from core.domain.report import TOLERANCE_MM, EvaluationOptions, Scores
from core.errors import ModelError

Further = Annotated[list[Path] | None, typer.Argument(help="Further folders.", show_default=False)]


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


def ensemble(
    inputs: Annotated[list[Path], typer.Option(help="Folders of predictions with probabilities.")],
    out: Out,
    further: Further = None,
    *,
    save_probabilities: Annotated[bool, typer.Option(help="Write the means too.")] = False,
    workers: Workers = None,
) -> None:
    """Average the probabilities of several models, case by case."""
    from core.pipeline import ensembling

    folders = [*inputs, *(further or ())]
    with observing() as observer:
        cases = ensembling.ensemble(
            folders, out, observer, save_probabilities=save_probabilities, workers=workers
        )
    print(f"{cases} cases averaged over {len(folders)} models: {out}")


def select(
    models: Annotated[list[Path], typer.Option(help="Folders of trained models with validated folds.")],
    out: Annotated[Path, typer.Option(help="New folder for the best, as a model.")],
    further: Further = None,
    *,
    references: Annotated[
        Path | None,
        typer.Option(help="Folder of the dataset's label maps; looked for near the models if not given."),
    ] = None,
    folds: Annotated[
        str | None, typer.Option(help="Folds to compare, such as 0,1,2; those of the models if not given.")
    ] = None,
    disable_ensembling: Annotated[bool, typer.Option(help="Compare single models only.")] = False,
    segmentations: Annotated[
        Path | None, typer.Option(help="Keep every candidate's segmentations of all cases in this folder.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Find the best model, or ensemble of two, and its postprocessing, by cross-validation."""
    from core.pipeline import selection as selecting

    order = selecting.SelectOrder(
        models=[*models, *(further or ())],
        out=out,
        references=references,
        folds=None if folds is None else [fold_of(fold.strip()) for fold in folds.split(",")],
        ensembling=not disable_ensembling,
        segmentations=segmentations,
        workers=workers,
    )
    with observing() as observer:
        selection = selecting.select(order, observer)
    for candidate in selection.candidates:
        print(f"{candidate.name}: Dice {figure(candidate.dice)}")
    print(f"{selection.reason}.")
    print(f"Dice after postprocessing: {figure(selection.dice_postprocessed)}")
    for note in selection.notes:
        print(note)


def postprocess(
    input: Annotated[Path, typer.Option(help="Folder of segmentations.")],  # noqa: A002 - the option's name
    out: Out,
    *,
    postprocessing: Annotated[
        Path | None, typer.Option(help="Apply this: postprocessing.json, also the reference's, or its pkl.")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="Or find what helps, by this folder of references, and apply that.")
    ] = None,
    dataset_json: Annotated[
        Path | None, typer.Option(help="dataset.json; the one among the segmentations if not given.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Remove what is known not to belong to a segmentation, or find out what that is."""
    from core.pipeline import postprocessing as processing

    if (postprocessing is None) == (references is None):
        raise ModelError("give --postprocessing to apply one, or --references to find one, and not both")
    description = read_description(dataset_json or input / "dataset.json")
    with observing() as observer:
        if references is None:
            known = processing.read_postprocessing(postprocessing or input)
            processing.postprocess(input, out, known, description, observer, workers=workers)
        else:
            found = processing.determine_postprocessing(
                input, references, out, description, observer, workers=workers
            )
            known = found.postprocessing
            for trial in found.trials:
                print(
                    f"{_group(trial.keep_largest)}: Dice {figure(trial.before)} -> {figure(trial.after)}"
                    f"{', accepted' * trial.accepted}"
                )
    print(_summary(known))


def _summary(postprocessing: Postprocessing) -> str:
    """Say what a postprocessing does."""
    if not postprocessing.keep_largest:
        return "nothing is removed"
    groups = ", then of ".join(map(_group, postprocessing.keep_largest))
    return f"kept only the largest component of {groups}"


def _group(labels: tuple[int, ...]) -> str:
    """Name labels that are looked at together."""
    return f"label{'s' * (len(labels) > 1)} {'+'.join(map(str, labels))}"
