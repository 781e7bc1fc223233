"""One service and one trained model for all end-to-end tests, in both modes: trained through interruptions."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers import PostgresServer, RedisServer
from sqlalchemy import Row, Select

from app.db.base import open_engine, open_readers, transaction
from tests.e2e.running import Service, is_alive, kill, require_ended, running, wait_for
from tests.factories import Recipe, make_dataset, zip_folder

RECIPE = Recipe(cases=6, shape=(16, 20, 18), ending=".nii.gz")

EPOCHS = 24

TRAINING = {"folds": [0], "epochs": EPOCHS, "iterations_per_epoch": 2, "seed": 1}


@dataclass
class World:
    """A running service with a trained model."""

    service: Service
    data: Path
    log: Path
    database_url: str
    dataset: Any
    training: Any
    job: Any

    @property
    def model_id(self) -> str:
        """Of the trained model."""
        return str(self.training["model_id"])

    def rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """Read the database."""
        engine = open_engine(self.database_url)
        with transaction(open_readers(engine)) as session:
            found = session.execute(query).all()
        engine.dispose()
        return found


def mode_of(request: pytest.FixtureRequest, name: str, redis_number: int) -> dict[str, str]:
    """Return how a service runs, as settings: on SQLite with pollers, or on PostgreSQL, Redis and Celery.

    Args:
        request: Its parameter is `laptop` or `scaled`.
        name: Of a new database.
        redis_number: Which of Redis's databases carries the messages; other tests use others.
    """
    if request.param == "laptop":
        return {}
    postgres: PostgresServer = request.getfixturevalue("postgres")
    redis: RedisServer = request.getfixturevalue("redis_server")
    broker_url = f"{redis.url.removesuffix('/0')}/{redis_number}"
    return {"SEG_DATABASE_URL": postgres.create_database(name), "SEG_BROKER_URL": broker_url}


@pytest.fixture(scope="session", params=["laptop", "scaled"])
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    mode = mode_of(request, "end_to_end", 1)
    folder = tmp_path_factory.mktemp("service")
    archive = zip_folder(make_dataset(folder / "raw", RECIPE), folder / "phantoms.zip", inside="Phantoms")
    data, log = folder / "data", folder / "log"
    with running(data, log, mode) as service:
        dataset = service.upload(archive)
        assert dataset["state"] == "ready", dataset["problems"]
        accepted = service.train(dataset, **TRAINING)
        _wait_for_epochs(service, accepted["id"], 2)
        _kill_the_training_child(service)
        _wait_for_epochs(service, accepted["id"], 6)
        _kill_the_service(service)
    with running(data, log, mode) as service:
        _wait_for_epochs(service, accepted["id"], 10)
        _end_the_service(service)
    with running(data, log, mode) as service:
        job = service.end_of(accepted["job_id"])
        training = service.get(f"/trainings/{accepted['id']}")
        url = mode.get("SEG_DATABASE_URL", f"sqlite:///{data / 'service.db'}")
        yield World(service, data, log, url, dataset, training, job)


def _wait_for_epochs(service: Service, training_id: str, count: int) -> None:
    wait_for(lambda: len(service.get(f"/trainings/{training_id}")["epochs"]) >= count or None)


def _kill_the_training_child(service: Service) -> None:
    """Kill the process that trains."""
    child = next(pid for pid, command in service.descendants().items() if "worker.child" in command)
    kill(child)
    wait_for(lambda: None if is_alive(child) else child)


def _kill_the_service(service: Service) -> None:
    """Kill every process of the service but those that compute; those must end by themselves."""
    everything = {service.process.pid: "up"} | service.descendants()
    for pid, command in everything.items():
        if "worker.child" not in command and "worker.predictor" not in command:
            kill(pid)
    service.process.wait()
    require_ended(everything)


def _end_the_service(service: Service) -> None:
    """Ask the service to end, as Ctrl-C does."""
    everything = service.descendants()
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(60) == 0
    require_ended(everything)
