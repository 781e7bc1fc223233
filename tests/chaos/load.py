"""What the clients come for: a mix of small ingests, trainings and predictions, some of them steered."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from tests.chaos.clients import FINAL, HELD, POLL_SECONDS, Client, Ledger, Told
from tests.factories import Recipe, make_dataset, make_phantom, write_case, zip_folder

CLIENTS = 5
"""So many errands are under way at a time, unless told otherwise: every lane has work, and something waits."""

RECIPES = (
    Recipe(cases=5, shape=(16, 16, 14), seed=1),
    Recipe(cases=6, shape=(12, 16, 16), spacing=(2.0, 1.0, 1.0), seed=2),
    Recipe(cases=5, shape=(10, 16, 12), channels=2, seed=3),
)
"""Of the datasets; each is sent several times, so that arrays are found that an earlier job made."""

ITERATIONS = (2, 40, 150)
"""Of an epoch, one of these: most trainings are tiny, some last long enough to be killed in the middle."""

WEIGHTS: Mapping[str, int] = {
    "upload": 3,
    "upload_broken": 1,
    "train": 5,
    "train_paused": 2,
    "train_canceled": 1,
    "train_retried": 1,
    "predict": 12,
    "predict_batch": 5,
    "predict_canceled": 1,
}
"""How often clients come for what."""

STAGES_OF_TRAINING = 3
"""Jobs of a training beside its folds: plan, preprocess, select."""


@dataclass(frozen=True, slots=True)
class Material:
    """What the clients send."""

    archives: Sequence[bytes]
    """Of good datasets, as in RECIPES."""
    broken: Sequence[bytes]
    """Of datasets that verification finds problems in."""
    images: Sequence[Sequence[tuple[str, bytes]]]
    """Per recipe, the channels of a case that no training has seen."""


def make_material(folder: Path) -> Material:
    """Draw phantoms, and zip them."""
    archives, images = [], []
    for number, recipe in enumerate(RECIPES):
        made = make_dataset(folder / f"good{number}", recipe)
        archives.append(zip_folder(made, folder / f"good{number}.zip", inside="Phantoms").read_bytes())
        files = write_case(folder / "new", "Ts", f"new_{number}", make_phantom(recipe, 99), recipe)
        images.append([(file.name, file.read_bytes()) for file in files])
    return Material(archives, [_without_a_label(folder), _without_description(folder)], images)


def _without_a_label(folder: Path) -> bytes:
    made = make_dataset(folder / "unlabelled", RECIPES[0])
    next((made / "labelsTr").iterdir()).unlink()
    return zip_folder(made, folder / "unlabelled.zip").read_bytes()


def _without_description(folder: Path) -> bytes:
    made = make_dataset(folder / "undescribed", replace(RECIPES[0], cases=1))
    (made / "dataset.json").unlink()
    return zip_folder(made, folder / "undescribed.zip").read_bytes()


@dataclass
class Desk:
    """Gives the clients work until enough was sent.

    Args:
        material: What they send.
        rng: Draws the errands.
        jobs: So many are to be sent at least, see `sent`.
    """

    material: Material
    rng: random.Random
    jobs: int
    sent: int = 0
    """Jobs that run and were asked for; the parents of trainings, which never run, do not count."""
    must_go_on: bool = True
    """Whether to send more, however much was sent: there are faults left."""
    datasets: list[tuple[str, int]] = field(default_factory=list)
    """Those that are ready, with the number of their recipe."""
    models: list[tuple[str, int]] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def next(self) -> str | None:
        """Return the name of an errand; None if it is enough."""
        with self._lock:
            if self.sent >= self.jobs and not self.must_go_on:
                return None
            self.sent += 1
            return self._drawn()

    def run(self, errand: str, client: Client) -> None:
        """Do an errand."""
        getattr(self, errand)(client)

    def _drawn(self) -> str:
        """Draw an errand that can be done now."""
        if not self.datasets:
            return "upload"
        name = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if name.startswith("predict") and not self.models:
            return "train"
        return name

    def upload(self, client: Client) -> None:
        number = client.rng.randrange(len(RECIPES))
        told = self._send_dataset(client, self.material.archives[number])
        client.end_of(told)
        state = client.get(f"/datasets/{told.id}")["state"]
        if state == "ready":
            self.datasets.append((told.id, number))

    def upload_broken(self, client: Client) -> None:
        told = self._send_dataset(client, client.rng.choice(self.material.broken))
        told.dataset_state = "invalid"
        client.end_of(told)

    def train(self, client: Client) -> None:
        told, number = self._send_training(client)
        self._take_model(client, told, number)

    def train_paused(self, client: Client) -> None:
        """Pause a training, or the job of it that runs, and let it go on."""
        told, number = self._send_training(client)
        time.sleep(client.rng.uniform(1, 8))
        if client.steer(self._a_job_of(client, told), "pause"):
            time.sleep(client.rng.uniform(0.5, 4))
        for job in self._family(client, told):
            # A refusal may mean that the job is not there yet: a pause that was asked for twice, say.
            while client.state(job) in HELD and not client.steer(job, "resume"):
                time.sleep(POLL_SECONDS)
        self._take_model(client, told, number)

    def train_canceled(self, client: Client) -> None:
        told, _ = self._send_training(client, is_to_end_early=True)
        time.sleep(client.rng.uniform(0, 10))
        self._cancel(client, told)

    def train_retried(self, client: Client) -> None:
        """Cancel a training, then think better of it."""
        told, number = self._send_training(client)
        time.sleep(client.rng.uniform(1, 10))
        if self._cancel(client, told):
            told.ends = "succeeded"
            while client.state(told.job_id) == "canceled" and not client.steer(told.job_id, "retry"):
                time.sleep(POLL_SECONDS)
        self._take_model(client, told, number)

    def predict(self, client: Client) -> None:
        self._load_segmentation(client, self._send_image(client, "interactive"))

    def predict_batch(self, client: Client) -> None:
        self._load_segmentation(client, self._send_image(client, "batch"))

    def predict_canceled(self, client: Client) -> None:
        told = self._send_image(client, "batch")
        if not self._cancel(client, told):
            self._load_segmentation(client, told)

    def _send_dataset(self, client: Client, archive: bytes) -> Told:
        name = f"Phantoms {client.rng.randrange(10**9)}"
        headers = {"Content-Type": "application/zip"} | _preference(client)
        return client.create("dataset", "/datasets", params={"name": name}, content=archive, headers=headers)

    def _send_training(self, client: Client, *, is_to_end_early: bool = False) -> tuple[Told, int]:
        """Start a training; return it and the number of its dataset's recipe.

        One that is to be canceled may have no job but its plan.
        """
        dataset, number = client.rng.choice(self.datasets)
        folds: list[Any] = client.rng.choice([["all"], [0], [0, 1]])
        with self._lock:
            self.sent += 0 if is_to_end_early else STAGES_OF_TRAINING + len(folds) - 1
        request = {
            "dataset_id": dataset,
            "folds": folds,
            "epochs": client.rng.randint(3, 8),
            "iterations_per_epoch": client.rng.choice(ITERATIONS),
            "seed": client.rng.randrange(1000),
        }
        return client.create("training", "/train", json=request), number

    def _send_image(self, client: Client, urgency: str) -> Told:
        model, number = client.rng.choice(self.models)
        files = [("image", image) for image in self.material.images[number]]
        data = {"model": model, "urgency": urgency}
        return client.create("prediction", "/predict", data=data, files=files, headers=_preference(client))

    def _take_model(self, client: Client, told: Told, number: int) -> None:
        client.end_of(told)
        model = client.get(f"/trainings/{told.id}")["model_id"]
        if model is not None:
            self.models.append((model, number))

    def _load_segmentation(self, client: Client, told: Told) -> None:
        if client.end_of(told)["state"] == "succeeded":
            told.sha256 = client.digest(f"/predictions/{told.id}/segmentation")

    def _cancel(self, client: Client, told: Told) -> bool:
        """Ask for an end; return whether that came of it, since a job may be quicker."""
        if client.steer(told.job_id, "cancel"):
            told.ends = "canceled"
            if told.noun == "dataset":
                told.dataset_state = "invalid"
        client.end_of(told)
        return told.ends == "canceled"

    def _family(self, client: Client, told: Told) -> list[str]:
        """Return the ids of a training's job and those below it."""
        job = client.get(f"/jobs/{told.job_id}")
        return [told.job_id, *(child["id"] for child in job["children"])]

    def _a_job_of(self, client: Client, told: Told) -> str:
        """Draw a training as a whole, or a job of it that has not ended."""
        job = client.get(f"/jobs/{told.job_id}")
        going = [child["id"] for child in job["children"] if child["state"] not in FINAL | {"waiting"}]
        return str(client.rng.choice([told.job_id, *going]))


@contextmanager
def clients_at_work(
    addresses: Sequence[str], count: int, ledger: Ledger, desk: Desk
) -> Iterator[Sequence[Thread]]:
    """Have clients do errands until there are none left; the block yields their threads.

    Args:
        addresses: Of the service; it may have several.
        count: Of the clients.
        ledger: Where they note what they are told.
        desk: Where they get their errands.
    """
    clients = [
        Client(address, ledger, random.Random(desk.rng.random()))  # noqa: S311 - no secrets
        for address, _ in zip(cycle(addresses), range(count), strict=False)
    ]
    threads = [Thread(target=_work, args=(client, ledger, desk)) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        desk.must_go_on = False
        for thread in threads:
            thread.join()


def _work(client: Client, ledger: Ledger, desk: Desk) -> None:
    while (errand := desk.next()) is not None:
        try:
            desk.run(errand, client)
        except Exception as error:  # noqa: BLE001 - noted, so that the run fails, and the others go on
            with ledger.lock:
                ledger.complaints.append(f"{errand}: {error!r}")
    client.close()


def _preference(client: Client) -> dict[str, str]:
    """Wait for the end with the request itself, now and then: such a connection lives long enough to be cut."""
    return client.rng.choice([{}, {"Prefer": "wait=10"}])
