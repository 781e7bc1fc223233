"""`python -m core <verb>`: the engine without the service; the only command line of core."""

import gc
import json
import logging
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from core.domain.conversion import Manner
from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import Fingerprint
from core.domain.geometry import Shape
from core.domain.model import PredictionOptions
from core.domain.plan import Plan
from core.domain.progress import Observer, Progress, SilentObserver
from core.domain.record import describe, parse_json, write_json
from core.domain.training import EpochRecord, Fold, TrainingSettings
from core.errors import DatasetError, DomainError, PlanningError, TrainingError

GB = 1e9

BOLD_RED = "\x1b[1;31m", "\x1b[0m"
"""What makes a terminal stress a sentence, and stop to."""

LONGEST_AXIS = 100_000
"""Voxels of an image whose prediction is estimated."""

DATASET_FOLDER = re.compile(r"Dataset\d{3,}_.+")
"""Engine specification A 1.1."""

verbs = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Analyse a dataset, plan, preprocess, train, predict and evaluate, without the service.",
)

Raw = Annotated[Path, typer.Option(help="Dataset folder: dataset.json, imagesTr, labelsTr.", readable=False)]
Out = Annotated[Path, typer.Option(help="Where the result goes.")]
Plans = Annotated[Path, typer.Option(help="plans.json")]
Configuration = Annotated[str, typer.Option(help="2d, 3d_fullres, or another one of the plans.")]
Workers = Annotated[int | None, typer.Option(help="Threads; by default one per core.", min=1)]
Precision = Annotated[Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Of the arithmetic.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1 …")]


class LineObserver(SilentObserver):
    """Says on standard error when a stage is done; for files and pipes, in which no bar can move."""

    def report(self, progress: Progress) -> None:
        """Print one line at the end of a stage."""
        if progress.done == progress.total:
            print(f"{progress.stage}: {progress.done} of {progress.total}", file=sys.stderr)

    def record_epoch(self, epoch: EpochRecord) -> None:
        """Print one line per epoch."""
        print(_epoch_line(epoch), file=sys.stderr, flush=True)


@contextmanager
def _observing() -> Iterator[Observer]:
    """Show how far a verb is, with bars if somebody watches."""
    if not sys.stderr.isatty():
        yield LineObserver()
        return
    from core.bars import shown_bars

    with shown_bars(_epoch_line) as observer:
        yield observer


def _epoch_line(epoch: EpochRecord) -> str:
    """Put what an epoch measured into one line."""
    dice = "  ".join(f"{name} {_figure(value)}" for name, value in epoch.pseudo_dice.items())
    return (
        f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, validation {_figure(epoch.validation_loss)}, "
        f"pseudo Dice {dice}, {epoch.seconds:.1f} s"
    )


@verbs.command()
def verify(
    raw: Raw, json_report: Annotated[Path | None, typer.Option(help="Write the report here.")] = None
) -> None:
    """Check a dataset: every problem of every case at once, how often classes occur, what deserves a look."""
    from core import pipeline
    from core.io.checks import counted
    from core.io.outline import outline

    with _observing() as observer:
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


@verbs.command()
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

    with _observing() as observer:
        done = pipeline.convert(source, out, observer, Manner(link=link, workers=workers))
    for note in done.notes:
        print(f"{note.case or 'dataset'}: note: {note.message}")
    for problem in done.problems:
        print(f"{problem.case or 'dataset'}: {problem.kind}: {problem.message}")
    if done.problems:
        raise DatasetError(f"{len(done.problems)} problems found in {source}; nothing was written")
    print(f"{done.cases} training cases and {done.further_cases} others of {done.layout} written to {out}")


@verbs.command()
def fingerprint(raw: Raw, out: Out, workers: Workers = None) -> None:
    """Measure spacings, shapes and foreground intensities of a dataset."""
    from core import pipeline

    with _observing() as observer:
        pipeline.fingerprint(raw, out, observer, workers=workers, outside=True)


@verbs.command()
def plan(
    dataset_json: Annotated[Path, typer.Option(help="dataset.json")],
    fingerprint: Annotated[Path, typer.Option(help="dataset_fingerprint.json")],
    out: Out,
    preset: Annotated[str, typer.Option(help="Which planner.")] = "default",
    gpu_memory_gb: Annotated[float | None, typer.Option(help="Memory to plan for.", min=0.1)] = None,
    target_spacing: Annotated[
        str | None, typer.Option(help="z,y,x in mm, in the axis order of the files; replaces the rule.")
    ] = None,
    suppress_transpose: Annotated[bool, typer.Option("--suppress-transpose")] = False,  # noqa: FBT002
    plans_name: Annotated[str | None, typer.Option()] = None,
    reader: Annotated[str | None, typer.Option(help="Reader that the plans name.")] = None,
    dataset_name: Annotated[str, typer.Option()] = "",
) -> None:
    """Configure pipelines for a fingerprint."""
    from core import pipeline
    from core.io.readers import choose_reader
    from core.planning.planner import PlannerSettings

    description = DatasetDescription.parse(_text(dataset_json))
    values = {
        "preset": preset,
        "gpu_memory_gb": gpu_memory_gb,
        "target_spacing": None if target_spacing is None else _triple(target_spacing),
        "suppress_transpose": suppress_transpose,
        "plans_name": plans_name,
        "reader": choose_reader(description, None) if reader is None else _reader(reader, description),
        "dataset_name": dataset_name or _dataset_name(dataset_json, description),
    }
    settings = PlannerSettings(**{key: value for key, value in values.items() if value is not None})
    pipeline.plan(description, _fingerprint(fingerprint), settings, out)


@verbs.command()
def explain(
    plans: Plans,
    image_shape: Annotated[
        str | None,
        typer.Option(help="z,y,x in voxels: also estimate the memory of predicting such an image."),
    ] = None,
    image_spacing: Annotated[
        str | None, typer.Option(help="z,y,x in mm of that image; by default that of the median case.")
    ] = None,
    fingerprint: Annotated[
        Path | None, typer.Option(help="dataset_fingerprint.json: reasons with the dataset's figures.")
    ] = None,
    dataset_json: Annotated[
        Path | None, typer.Option(help="dataset.json: number of cases, channels.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002 - a switch
) -> None:
    """Say why a plan is what it is, and what predicting with it costs."""
    from core.planning.explain import explain as explained

    description = None if dataset_json is None else DatasetDescription.parse(_text(dataset_json))
    found = explained(
        _plan(plans),
        fingerprint=None if fingerprint is None else _fingerprint(fingerprint),
        description=description,
        image_shape=None if image_shape is None else _shape(image_shape),
        image_spacing=None if image_spacing is None else _triple(image_spacing),
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=4))
        return
    for name, decisions in groupby(found.decisions, key=lambda decision: decision.configuration):
        print(name or f"{found.plans_name}, all configurations")
        for decision in decisions:
            print(f"  {decision.topic}: {json.dumps(decision.value)}")
            print(textwrap.fill(decision.reason, 100, initial_indent="    ", subsequent_indent="    "))
    for cost in found.prediction:
        print(
            f"predicting {image_shape} voxels with {cost.configuration}: {cost.tiles} tiles, about "
            f"{cost.cpu_bytes / GB:.1f} GB on a processor, {cost.gpu_bytes / GB:.1f} GB on a GPU; {cost.reason}"
        )


@verbs.command()
def move_plans(
    plans: Plans,
    raw: Annotated[Path, typer.Option(help="Folder of the dataset that the plans are to be used for.")],
    out: Out,
    dataset_name: Annotated[str | None, typer.Option(help="By default the folder's name.")] = None,
    plans_name: Annotated[str | None, typer.Option(help="By default the plans keep their name.")] = None,
) -> None:
    """Carry the plans of one dataset over to another, for pretraining or comparison."""
    from core import pipeline

    pipeline.move_plan(
        checked := _plan(plans),
        raw,
        out,
        dataset_name=dataset_name or raw.resolve().name,
        plans_name=plans_name or checked.plans_name,
        outside=True,
    )


@verbs.command()
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

    made = _plan(plans)
    with _observing() as observer:
        done = pipeline.preprocess(
            raw, made, configuration, out, observer, workers=workers, memory_gb=memory_gb, outside=True
        )
    parts = [f"{done.made} cases preprocessed in {out}"]
    parts += [f"{done.kept} kept as they were"] if done.kept else []
    parts += [f"{done.removed} removed"] if done.removed else []
    print(", ".join(parts))


@verbs.command()
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
        plan=_plan(plans),
        configuration=configuration,
        fold=_fold(fold),
        settings=TrainingSettings(**{key: value for key, value in values.items() if value is not None}),
        model=out,
        preprocessed=preprocessed,
        precision=precision,
        device=device,
        outside=True,
    )
    with _observing() as observer:
        report = pipeline.train(order, observer)
    print(f"mean foreground Dice of the validation cases: {_figure(report.foreground_mean.dice)}")


@verbs.command()
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
        folds=None if folds is None else tuple(_fold(fold) for fold in folds.split(",")),
        mirroring=not no_mirroring,
        step_size=step_size,
        precision=precision,
        device=device,
    )
    with _observing() as observer:
        count = pipeline.predict_folder(model, input, out, options, observer)
    print(f"{count} cases segmented in {out}")


@verbs.command()
def evaluate(
    predictions: Annotated[Path, typer.Option(help="Folder of segmentations.")],
    references: Annotated[Path, typer.Option(help="Folder of references, same file names.")],
    dataset_json: Annotated[Path, typer.Option(help="dataset.json")],
    out: Out,
) -> None:
    """Score segmentations against references."""
    from core import pipeline

    with _observing() as observer:
        description = DatasetDescription.parse(_text(dataset_json))
        report = pipeline.evaluate(predictions, references, description, out, observer)
    for key, scores in report.mean.items():
        print(f"{key}: Dice {_figure(scores.dice)}")
    print(f"foreground mean: Dice {_figure(report.foreground_mean.dice)}")


def _text(path: Path) -> str:
    """Read a small file that the user named."""
    try:
        return path.read_text()
    except UnicodeDecodeError as reason:
        raise DatasetError(f"cannot read {path}: it is no text in UTF-8; is it the right file?") from reason
    except OSError as reason:
        raise DatasetError(f"cannot read {path}: {reason.strerror}; check the path") from reason


def _dataset_name(dataset_json: Path, description: DatasetDescription) -> str:
    """Return the name of the folder if it is a dataset's, else the one that the description gives."""
    folder = dataset_json.resolve().parent.name
    return (
        folder if DATASET_FOLDER.fullmatch(folder) else str((description.model_extra or {}).get("name", ""))
    )


def _plan(path: Path) -> Plan:
    """Read a plans.json that somebody may have edited."""
    from core.planning.check import checked_plan

    return checked_plan(_text(path))


def _reader(name: str, description: DatasetDescription) -> str:
    """Check that a reader exists and reads the dataset's files."""
    from core.planning.check import reader_mistakes

    for mistake in reader_mistakes(name, description):
        raise PlanningError(mistake.message)
    return name


def _fingerprint(path: Path) -> Fingerprint:
    """Read a dataset_fingerprint.json."""
    return Fingerprint.model_validate(parse_json(_text(path), path.name, PlanningError))


def _triple(text: str) -> tuple[float, float, float]:
    """Read three positive numbers separated by commas."""
    try:
        z, y, x = (float(part) for part in text.split(","))
        if min(z, y, x) > 0 and max(z, y, x) < float("inf"):
            return (z, y, x)
    except ValueError:
        pass
    raise PlanningError(f"{text!r} is not z,y,x: three positive numbers such as 1,0.5,0.5")


def _shape(text: str) -> Shape:
    """Read three voxel counts separated by commas."""
    counts = text.split(",")
    if len(counts) == len("zyx") and all(part.strip().isdecimal() for part in counts):
        z, y, x = (int(part) for part in counts)
        if min(z, y, x) >= 1 and max(z, y, x) <= LONGEST_AXIS:
            return (z, y, x)
    raise PlanningError(
        f"{text!r} is not z,y,x: three whole numbers of voxels from 1 to {LONGEST_AXIS}, such as 40,512,512"
    )


def _fold(text: str) -> Fold:
    """Read a fold."""
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise TrainingError(f"{text!r} is no fold; give 0, 1, … or all")
    return int(text)


def _figure(value: float | None) -> str:
    """Four digits, or a dash where the value is undefined."""
    return "-" if value is None else f"{value:.4f}"


def _refuse(sentence: str) -> int:
    """Say what is wrong; return the exit status."""
    before, after = BOLD_RED if sys.stderr.isatty() else ("", "")
    print(f"{before}{sentence}{after}", file=sys.stderr)
    return 1


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; a user's mistake ends in one sentence and exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # So that names of files can be printed on every terminal.
            stream.reconfigure(errors="backslashreplace")
    try:
        given = sys.argv[1:] if arguments is None else arguments
        outcome: Any = verbs(given or ["--help"], standalone_mode=False)
    except DomainError as error:
        return _refuse(error.message)
    except ValidationError as error:
        return _refuse(f"this cannot be used: {describe(error)}")
    except OSError as error:
        return _refuse(
            f"{error.filename or 'a file'}: {error.strerror or error}; check the path, and who may use it"
        )
    except typer.Abort:
        return 130
    except Exception as error:
        told = getattr(error, "format_message", None)  # a usage error of the command line
        if told is None:
            raise
        return _refuse(f"{told().rstrip('.')}; `python -m core VERB --help` shows what a verb takes")
    return outcome if isinstance(outcome, int) else 0


if __name__ == "__main__":
    status = main()
    gc.freeze()  # To search all that was imported for garbage once more would take 60 ms.
    sys.exit(status)
