"""A service that runs for a benchmark: datasets sent to it, trainings on them, and the Dice of what models segment."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its customary name
from service import Client, running_service

from tests.factories import zip_folder

STRUCTURES: Mapping[str, tuple[int, ...]] = {"first": (1,), "second": (2,), "both": (1, 2)}

Json = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """A running service, and the dataset that all others are made from."""

    client: Client
    http: httpx.Client
    folder: Path
    raw: Path
    trained: int
    """Cases to learn from."""
    held_out: int
    """Cases after those, which no network sees."""
    length: Json = field(default_factory=dict)
    """Of every training: what POST /train says of epochs, seed and settings."""
    uploaded: dict[str, str] = field(default_factory=dict)

    @property
    def cases(self) -> list[str]:
        """Identifiers of all cases; the last ones are held out."""
        names = sorted(file.name.removesuffix(self.ending) for file in (self.raw / "labelsTr").iterdir())
        return names[: self.trained + self.held_out]

    @property
    def ending(self) -> str:
        """Of the files."""
        return str(json.loads((self.raw / "dataset.json").read_text())["file_ending"])


@contextmanager
def serving(folder: Path, settings: Mapping[str, str]) -> Iterator[tuple[Client, httpx.Client]]:
    """Run a service with data of its own, and return how to speak with it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        running_service(folder / "data", folder / "log", dict(settings)) as address,
        httpx.Client(base_url=address, timeout=60) as http,
    ):
        yield Client(http), http


def train(bench: Bench, request: Json) -> Json:
    """Train, and return what the service says of the training once it has ended."""
    accepted = bench.client.train(request)
    bench.client.follow(accepted["job_id"], lambda _job: None)
    return bench.client.get(f"/trainings/{accepted['id']}")


def held_out_dice(bench: Bench, model_id: str) -> list[dict[str, float]]:
    """Have the held-out images segmented; return the Dice of each structure for each of them."""
    return [_dice(bench, model_id, case) for case in bench.cases[bench.trained :]]


def upload(
    bench: Bench,
    name: str,
    *,
    cases: Sequence[str] | None = None,
    description: Json | None = None,
    annotate: Callable[[Any], Any] | None = None,
) -> None:
    """Send some cases of the dataset, annotated otherwise if need be, unless they are there already."""
    if name in bench.uploaded:
        return
    folder = bench.folder / name
    chosen = cases or bench.cases[: bench.trained]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case in chosen:
        for image in (bench.raw / "imagesTr").glob(f"{case}_????{bench.ending}"):
            shutil.copyfile(image, folder / "imagesTr" / image.name)
        label: Any = sitk.ReadImage(str(bench.raw / "labelsTr" / f"{case}{bench.ending}"))
        written: Any = label
        if annotate is not None:
            written = sitk.GetImageFromArray(annotate(sitk.GetArrayFromImage(label)))
            written.CopyInformation(label)
        sitk.WriteImage(written, str(folder / "labelsTr" / f"{case}{bench.ending}"))
    known = json.loads((bench.raw / "dataset.json").read_text())
    (folder / "dataset.json").write_text(
        json.dumps({**known, "numTraining": len(chosen), **(description or {})})
    )
    accepted = bench.client.upload_dataset(
        name, zip_folder(folder, bench.folder / f"{name}.zip", inside=name)
    )
    bench.client.follow(accepted["job_id"], lambda _job: None)
    bench.uploaded[name] = accepted["id"]


def _dice(bench: Bench, model_id: str, case: str) -> dict[str, float]:
    """Have one image segmented, and compare with its reference."""
    images = tuple(sorted((bench.raw / "imagesTr").glob(f"{case}_????{bench.ending}")))
    accepted = bench.client.predict(model_id, images)
    bench.client.follow(accepted["job_id"], lambda _job: None)
    target = bench.client.download(
        f"/predictions/{accepted['id']}/segmentation", bench.folder / f"segmentation{bench.ending}"
    )
    found_zyx, reference_zyx = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        for path in (target, bench.raw / "labelsTr" / f"{case}{bench.ending}")
    )
    return {name: _overlap(found_zyx, reference_zyx, values) for name, values in STRUCTURES.items()}


def _overlap(found_zyx: Any, reference_zyx: Any, values: Sequence[int]) -> float:
    """Return the Dice of a structure; 1 where it is in neither."""
    found, reference = np.isin(found_zyx, values), np.isin(reference_zyx, values)
    total = int(found.sum() + reference.sum())
    return 1.0 if total == 0 else 2 * int((found & reference).sum()) / total
