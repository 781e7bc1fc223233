"""The round trip of an empty job: through the local dispatcher on SQLite, and through Celery, Redis and PostgreSQL.

Usage:
    make bench BENCH=round_trip
    PYTHONPATH=examples/demo python -m benchmarks.round_trip [--jobs 40] [--warm-up 5]

The empty job is an upload whose check finds that there is no dataset.json. Both modes run side by side, with
the settings that `nnunet-service up` has by default, and get their jobs in turn, one at a time. The whole is
what a client sees of POST /datasets with `Prefer: wait`; the rest of it, beside waiting and running, is the
upload, the answer, and the pause between two looks of the waiting request. A second round leaves HTTP out
and measures from the commit of the row to its claim, which is the queue alone. Nothing is asserted; the last
line is JSON.
"""

import argparse
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from servers import postgresql, redis_server
from service import running_service
from sqlalchemy import event

from app.db.base import now, open_engine, open_readers, open_sessions
from app.queue import open_queue
from app.services import datasets
from app.services.resources import Resources
from app.settings import Settings
from app.storage import LocalStore
from benchmarks.figures import machine, median, print_table, quantile

WAIT_SECONDS = 60
"""How long a client waits for its job."""

LONGEST_PAUSE_SECONDS = 1.0
"""Between two jobs. Several rounds of whoever polls, so that jobs come at every moment of such a round."""

GOLDEN_RATIO = 0.618034
"""Its multiples, less their whole part, fill the range from 0 to 1 evenly."""

Sample = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Mode:
    """A running service, and the way past its API to its tables."""

    name: str
    client: httpx.Client
    resources: Resources
    commits: list[datetime] = field(default_factory=list)
    """When each transaction of ours was committed."""

    def end_of(self, job_id: str) -> Any:
        """Wait for a job; return it."""
        response = self.client.get(f"/jobs/{job_id}", headers={"Prefer": f"wait={WAIT_SECONDS}"})
        return response.raise_for_status().json()


def main() -> None:
    """Measure both modes in turn and print a table and one JSON line."""
    arguments, described = _arguments(), machine()
    archive = _archive_without_dataset()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server, redis = stack.enter_context(postgresql()), stack.enter_context(redis_server())
        scaled = {"SEG_DATABASE_URL": server.create_database("round_trip"), "SEG_BROKER_URL": redis.url}
        modes = [
            _mode(stack, "local dispatcher, SQLite", folder / "local", {}),
            _mode(stack, "Celery, Redis, PostgreSQL", folder / "celery", scaled),
        ]
        trips = _in_turn(modes, arguments, lambda mode: _round_trip(mode, archive))
        claims = _in_turn(modes, arguments, lambda mode: _commit_to_claim(mode, archive))
    rows = [
        {
            "mode": mode.name,
            "jobs": arguments.jobs,
            **_figures(trips[mode.name]),
            **_figures(claims[mode.name]),
        }
        for mode in modes
    ]
    print_table(_lines(rows))
    print()
    print(json.dumps({"round_trip": rows, "machine": described}))


def _mode(stack: ExitStack, name: str, folder: Path, environment: Mapping[str, str]) -> Mode:
    """Start a service; whatever is opened here ends with the stack."""
    folder.mkdir()
    address = stack.enter_context(running_service(folder / "data", folder / "log", environment))
    client = stack.enter_context(httpx.Client(base_url=address, timeout=2 * WAIT_SECONDS))
    settings = Settings(
        data_dir=folder / "data",
        database_url=environment.get("SEG_DATABASE_URL"),
        broker_url=environment.get("SEG_BROKER_URL"),
    )
    engine = open_engine(settings.resolved_database_url)
    stack.callback(engine.dispose)
    resources = Resources(
        open_sessions(engine),
        open_readers(engine),
        LocalStore(settings.resolved_store_dir),
        open_queue(settings.broker_url),
    )
    mode = Mode(name, client, resources)
    event.listen(resources.sessions, "after_commit", lambda _session: mode.commits.append(now()))
    return mode


def _in_turn(
    modes: Sequence[Mode], arguments: argparse.Namespace, measure: Callable[[Mode], Sample]
) -> dict[str, list[Sample]]:
    """Give each mode one job after the other's; the first jobs warm it up and do not count."""
    samples: dict[str, list[Sample]] = {mode.name: [] for mode in modes}
    for number in range(arguments.warm_up + arguments.jobs):
        for mode in modes if number % 2 == 0 else reversed(modes):
            time.sleep(LONGEST_PAUSE_SECONDS * (number * GOLDEN_RATIO % 1))
            sample = measure(mode)
            if number >= arguments.warm_up:
                samples[mode.name].append(sample)
    return samples


def _round_trip(mode: Mode, archive: bytes) -> Sample:
    """Send the empty job as a client does, and wait for its end."""
    began = time.perf_counter()
    response = mode.client.post(
        "/datasets",
        params={"name": "Empty"},
        content=archive,
        headers={"Content-Type": "application/zip", "Prefer": f"wait={WAIT_SECONDS}"},
    )
    whole = time.perf_counter() - began
    job = mode.end_of(response.raise_for_status().json()["job_id"])
    created, started, finished = (
        datetime.fromisoformat(job[name]) for name in ("created_at", "started_at", "finished_at")
    )
    waiting, running = (started - created).total_seconds(), (finished - started).total_seconds()
    return {"whole": whole, "waiting": waiting, "running": running, "rest": whole - waiting - running}


def _commit_to_claim(mode: Mode, archive: bytes) -> Sample:
    """Write and announce the same job without the API; return how long it takes until a worker has it."""
    file = mode.resources.store.receive(len(archive))
    file.write(archive)
    submission = datasets.upload(mode.resources, "Empty", file, None)
    started = datetime.fromisoformat(mode.end_of(str(submission.job_id))["started_at"])
    return {"commit to claim": (started - mode.commits[-1]).total_seconds()}


def _archive_without_dataset() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no dataset.json here\n")
    return buffer.getvalue()


def _figures(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Return median and 95th percentile of each part, in milliseconds."""
    columns = {name: [1000 * sample[name] for sample in samples] for name in samples[0]}
    return {
        f"{name} ms": {"median": median(values), "p95": quantile(values, 0.95)}
        for name, values in columns.items()
    }


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Return the rows with both figures of a part in one cell."""
    return [
        {
            name: f"{value['median']:.0f} / {value['p95']:.0f}" if isinstance(value, dict) else value
            for name, value in row.items()
        }
        for row in rows
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--warm-up", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
