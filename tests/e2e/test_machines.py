"""Several machines: workers with nothing in common but database, broker and store."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from servers import PostgresServer, RedisServer
from sqlalchemy import select

from app.db.base import open_engine, open_readers, transaction
from app.db.migrate import upgrade
from app.db.models import Epoch, Job, JobEvent
from app.jobs import EventKind, JobKind
from app.payloads import Checkpoint
from app.supervisor import free_port
from tests.e2e.running import FAST, ROOT, Service, descendants_of, is_alive, kill, wait_for
from tests.factories import Recipe, make_dataset, zip_folder

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

RECIPE = Recipe(cases=6, shape=(16, 20, 18), ending=".nii.gz")

EPOCHS = 30

Started = subprocess.Popen[str]


@dataclass
class Site:
    """A database, a broker and a store that machines share; each machine has a data folder of its own."""

    folder: Path
    shared: Mapping[str, str]
    machines: list[Path] = field(default_factory=list)

    @contextmanager
    def machine(self, *command: str, port: int = 0) -> Iterator[Started]:
        """Run one part of the service on a machine of its own."""
        data = self.folder / f"machine_{len(self.machines)}"
        self.machines.append(data)
        environment = {**os.environ, **FAST, **self.shared, "SEG_DATA_DIR": str(data), "SEG_PORT": str(port)}  # noqa: TID251
        with (self.folder / "log").open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", *command],
                cwd=ROOT,
                env=environment,
                stderr=errors,
                text=True,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def site(tmp_path: Path, postgres: PostgresServer, redis_server: RedisServer) -> Site:
    database_url = postgres.create_database(f"site_{uuid4().hex}")
    upgrade(database_url)
    shared = {
        "SEG_DATABASE_URL": database_url,
        "SEG_BROKER_URL": f"{redis_server.url.removesuffix('/0')}/3",
        "SEG_STORE_DIR": str(tmp_path / "store"),
        "SEG_CHECKPOINT_SECONDS": "0.5",
    }
    return Site(tmp_path, shared)


def test_a_training_whose_machine_dies_is_finished_by_another(site: Site) -> None:
    archive = zip_folder(make_dataset(site.folder / "raw", RECIPE), site.folder / "phantoms.zip")
    port = free_port("127.0.0.1", 0)
    with (
        ExitStack() as later,
        site.machine("api", port=port) as api,
        site.machine("worker", "--lanes", "cpu"),
        site.machine("worker", "--lanes", "train") as first,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        service = Service(api, client)
        wait_for(lambda: _if_ready(client))
        accepted = service.train(service.upload(archive), folds=[0], epochs=EPOCHS, iterations_per_epoch=2)
        wait_for(lambda: _if_stored(_train_jobs(site, accepted["id"]), epochs=4))

        _die(first)
        later.enter_context(site.machine("worker", "--lanes", "train"))
        job = service.end_of(accepted["job_id"])

        training = service.get(f"/trainings/{accepted['id']}")
    assert job["state"] == "succeeded", job["error"]
    assert [epoch["epoch"] for epoch in training["epochs"]] == list(range(EPOCHS))
    rates = [epoch["learning_rate"] for epoch in training["epochs"]]
    assert rates == sorted(rates, reverse=True)
    (train,) = _train_jobs(site, accepted["id"])
    assert (train.attempt, train.checkpoint) == (2, None)
    _require_continuous_history(site, train.id)
    assert (site.machines[3] / "workspace" / "preprocessed").is_dir()  # Fetched, for it was made elsewhere.


def test_a_paused_training_goes_on_elsewhere(site: Site) -> None:
    archive = zip_folder(make_dataset(site.folder / "raw", RECIPE), site.folder / "phantoms.zip")
    port = free_port("127.0.0.1", 0)
    with (
        ExitStack() as later,
        site.machine("api", port=port) as api,
        site.machine("worker", "--lanes", "cpu"),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        service = Service(api, client)
        wait_for(lambda: _if_ready(client))
        with site.machine("worker", "--lanes", "train"):
            accepted = service.train(
                service.upload(archive), folds=[0], epochs=EPOCHS, iterations_per_epoch=2
            )
            wait_for(lambda: len(service.get(f"/trainings/{accepted['id']}")["epochs"]) >= 3 or None)
            client.post(f"/jobs/{accepted['job_id']}/pause").raise_for_status()
            wait_for(lambda: service.get(f"/jobs/{accepted['job_id']}")["state"] == "paused" or None)
        paused = len(service.get(f"/trainings/{accepted['id']}")["epochs"])

        later.enter_context(site.machine("worker", "--lanes", "train"))
        client.post(f"/jobs/{accepted['job_id']}/resume").raise_for_status()
        job = service.end_of(accepted["job_id"])

        epochs = [epoch["epoch"] for epoch in service.get(f"/trainings/{accepted['id']}")["epochs"]]
    assert job["state"] == "succeeded", job["error"]
    assert epochs == list(range(EPOCHS))
    (train,) = _train_jobs(site, accepted["id"])
    assert (train.attempt, train.crashes) == (2, 0)
    assert _history(site, train.id)[paused] == ("epoch", paused)  # Nothing was done twice.


def _die(process: Started) -> None:
    """End a machine at once: the worker and whatever it started."""
    everything = [process.pid, *descendants_of(process.pid)]
    for pid in everything:
        kill(pid)
    process.wait()
    wait_for(lambda: None if any(is_alive(pid) for pid in everything) else everything, seconds=10)


def _if_ready(client: httpx.Client) -> bool | None:
    try:
        return client.get("/health/ready").status_code == 200 or None
    except httpx.TransportError:
        return None


def _if_stored(jobs: list[Job], epochs: int) -> Checkpoint | None:
    """Return the checkpoint that every machine can see, once it holds so many epochs."""
    if not jobs or jobs[0].checkpoint is None:
        return None
    found = Checkpoint.model_validate(jobs[0].checkpoint)
    return found if found.epochs >= epochs else None


def _train_jobs(site: Site, training_id: str) -> list[Job]:
    """Return the one train job of a training, once its plan is made."""
    return _rows(site, select(Job).where(Job.training_id == UUID(training_id), Job.kind == JobKind.TRAIN))


def _history(site: Site, job_id: UUID) -> list[tuple[str, int]]:
    """Return what was told of a training's epochs, in order: finished, or to be done again from here on."""
    rows = _rows(
        site,
        select(JobEvent)
        .where(JobEvent.job_id == job_id, JobEvent.kind != EventKind.STATE)
        .order_by(JobEvent.id),
    )
    return [(event.kind.value, event.content["epoch"]) for event in rows]


def _require_continuous_history(site: Site, job_id: UUID) -> None:
    """Whoever follows the events sees each epoch after the one before, whatever was done again."""
    expected = 0
    for kind, epoch in _history(site, job_id):
        if kind == "epoch":
            assert epoch == expected
            expected += 1
        else:
            assert epoch < expected
            expected = epoch
    assert expected == EPOCHS
    recorded = _rows(site, select(Epoch.epoch).where(Epoch.job_id == job_id).order_by(Epoch.epoch))
    assert recorded == list(range(EPOCHS))


def _rows(site: Site, query: Any) -> list[Any]:
    engine = open_engine(site.shared["SEG_DATABASE_URL"])
    with transaction(open_readers(engine)) as session:
        found = list(session.scalars(query))
    engine.dispose()
    return found
