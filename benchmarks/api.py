"""The API under load: requests a second, latency, memory, time to start, what it imports; Linux.

Usage:
    make bench BENCH=api
    PYTHONPATH=examples/demo python -m benchmarks.api [--seconds 10] [--clients 16] [--starts 5]

`GET /jobs/{id}` of a finished upload and of a finished training with its children, on SQLite and on a
PostgreSQL of its own, one after the other. Only the API runs beside the load; no worker does. The load
shares the cores with what it measures, so what it takes of them is told. Nothing is asserted; the last line
is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from servers import postgresql

from app.alive import answers
from app.db.base import open_engine, open_readers, open_sessions
from app.db.migrate import upgrade
from app.queue import PolledQueue
from app.services.resources import Resources
from app.settings import Settings
from app.storage import LocalStore
from app.supervisor import free_port
from benchmarks.figures import machine, median, print_table
from tests.app import playing

START_SECONDS = 60.0
"""An API that is not ready by then never will be."""

LOOK_SECONDS = 0.005
"""Between two looks whether the API is ready; its start takes about a hundred times as long."""

WARM_UP_SECONDS = 2.0
"""Fills the pools of threads and connections before anything is measured."""

IMPORTS = """
import json, sys
import app.main
print(json.dumps({"modules": len(sys.modules), "torch": "torch" in sys.modules}))
"""


@dataclass(frozen=True, slots=True)
class Api:
    """A running API process."""

    settings: Settings
    pid: int
    start_seconds: float

    @property
    def memory_mib(self) -> float:
        """What of it is in memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 1024**2, 1)

    @property
    def cpu_seconds(self) -> float:
        """What it has computed so far, for itself and in the kernel."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, after_name[11:13])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Site:
    """A database with finished jobs, and the API in front of it."""

    database: str
    settings: Settings
    paths: dict[str, str]


def main() -> None:
    """Measure both databases and print tables and one JSON line."""
    arguments, described = _arguments(), machine()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(postgresql())
        sites = [
            _site("SQLite", folder / "sqlite", None),
            _site("PostgreSQL", folder / "postgresql", server.create_database("api")),
        ]
        starts = [_starts(site, arguments.starts) for site in sites]
        apis = [stack.enter_context(_running(site.settings)) for site in sites]
        fresh = [api.memory_mib for api in apis]
        loads = [
            _load(site, api, name, arguments)
            for name in sites[0].paths
            for site, api in zip(sites, apis, strict=True)
        ]
        processes = [
            {"database": site.database, "start_s": start, "fresh_mib": before, "loaded_mib": api.memory_mib}
            for site, start, before, api in zip(sites, starts, fresh, apis, strict=True)
        ]
    imports = json.loads(_output_of([sys.executable, "-c", IMPORTS]))
    print_table(loads)
    print()
    print_table(processes)
    print(f"\nimporting app.main loads {imports['modules']} modules; torch among them: {imports['torch']}\n")
    print(json.dumps({"loads": loads, "processes": processes, "imports": imports, "machine": described}))


def _site(database: str, folder: Path, database_url: str | None) -> Site:
    """Make a database and play an upload and a training of five folds in it, from beginning to end."""
    folder.mkdir()
    settings = Settings(data_dir=folder, database_url=database_url)
    upgrade(settings.resolved_database_url)
    engine = open_engine(settings.resolved_database_url)
    resources = Resources(
        open_sessions(engine), open_readers(engine), LocalStore(settings.resolved_store_dir), PolledQueue()
    )
    uploaded = playing.upload(resources)
    playing.finish(resources.sessions, playing.claim(resources.sessions), playing.ingest_result(cases=10))
    trained = playing.training(resources, uploaded.id)
    playing.play_all(resources.sessions)
    engine.dispose()
    jobs: dict[str, UUID] = {"upload": uploaded.job_id, "training, 8 children": trained.job_id}
    return Site(database, settings, {name: f"/jobs/{job_id}" for name, job_id in jobs.items()})


@contextmanager
def _running(settings: Settings) -> Iterator[Api]:
    """Start the API on a free port; end it."""
    settings = settings.model_copy(update={"port": free_port(settings.host, 0)})
    with (settings.data_dir / "log").open("ab") as log:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "app.main"], env=settings.environment(), stderr=log)
        try:
            while not answers(settings):
                if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                    raise SystemExit((settings.data_dir / "log").read_text())
                time.sleep(LOOK_SECONDS)
            yield Api(settings, process.pid, time.perf_counter() - began)
        finally:
            process.terminate()
            process.wait()


def _starts(site: Site, count: int) -> float:
    """Return the median time from the start of the process to the first time that it is ready."""
    seconds = []
    for _ in range(count):
        with _running(site.settings) as api:
            seconds.append(api.start_seconds)
    return median(seconds)


def _load(site: Site, api: Api, name: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Ask for one job for a while."""
    settings = api.settings
    command = [sys.executable, "-m", "benchmarks.load", settings.host, str(settings.port), site.paths[name]]
    command += ["--clients", str(arguments.clients), "--seconds"]
    _output_of([*command, str(WARM_UP_SECONDS)])
    before = api.cpu_seconds
    figures = json.loads(_output_of([*command, str(arguments.seconds)]))
    api_cpu_ms = round(1000 * (api.cpu_seconds - before) / figures.pop("requests"), 3)
    return {"database": site.database, "job": name, **figures, "api_cpu_ms_per_request": api_cpu_ms}


def _output_of(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--starts", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
