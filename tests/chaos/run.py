"""One run: the service, clients, faults, then the audit of what they left."""

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Literal
from uuid import uuid4

import servers

from tests.chaos import remains
from tests.chaos.audit import Finding, Tables, audit, orphans, read_tables, story_of, unused
from tests.chaos.clients import FINAL, Ledger
from tests.chaos.faults import Fault, Saboteur
from tests.chaos.load import CLIENTS, Desk, clients_at_work, make_material
from tests.e2e.running import Service, running

Mode = Literal["scaled", "laptop"]

LEASE_SECONDS = 3.0

SETTINGS: Mapping[str, str] = {
    "SEG_LEASE_SECONDS": str(LEASE_SECONDS),
    "SEG_HEARTBEAT_SECONDS": "1",
    "SEG_CHECKPOINT_SECONDS": "2",
    "SEG_THREADS": "1",
    "SEG_STOP_GRACE_SECONDS": "5",
    # A job that kills its worker again and again fails for good; here it is we who kill it.
    "SEG_MAX_CRASHES": "20",
}

CALM_SECONDS = (0.0, 6.0)
"""Between two faults: the service is at work again, or has not yet got over the last one."""

FIRST_CALM_SECONDS = 4.0
"""Before the first fault, so that there is work to disturb."""

SPEAK_SECONDS = 10.0
"""Between two lines of progress."""

LAST_LINES = 40
"""Of the service's log, shown where a run failed."""

SHOWN = 20
"""Findings and orphans that are told in words."""

GIVEN_BACK = ("running", "queued")
"""The step of a job whose worker or child is gone."""

ZERO_FIGURES = (
    "lost",
    "doubled",
    "committed_twice",
    "hashes_wrong",
    "epochs_missing",
    "epochs_doubled",
    "epochs_wrong",
    "complaints",
    "processes_left",
)
"""What must be zero in the end."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to run."""

    mode: Mode
    faults: int
    jobs: int
    seed: int
    clients: int = CLIENTS


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left behind."""

    order: Order
    faults: Sequence[Fault]
    ledger: Ledger
    tables: Tables
    findings: Sequence[Finding]
    orphans: Sequence[str]
    unused: Sequence[str]
    processes_left: Sequence[str]
    log: Path
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, doubled or damaged."""
        figures = self.figures()
        return not any(figures[name] for name in ZERO_FIGURES)

    def figures(self) -> dict[str, Any]:
        """Return everything that can be counted."""
        counts = Counter[str](finding.figure for finding in self.findings)
        states = Counter(row["state"] for row in self.tables.jobs)
        kinds = Counter(row["kind"] for row in self.tables.jobs)
        values = {name: counts.get(name, 0) for name in ZERO_FIGURES}
        return {
            "mode": self.order.mode,
            "seed": self.order.seed,
            "faults": len(self.faults),
            "faults_by_kind": dict(sorted(Counter(fault.kind for fault in self.faults).items())),
            "jobs": len(self.tables.jobs) - kinds["training"],
            "trainings": kinds["training"],
            "states": dict(sorted(states.items())),
            **values,
            "complaints": len(self.ledger.complaints),
            "processes_left": len(self.processes_left),
            "orphan_objects": len(self.orphans),
            "unused_objects": len(self.unused),
            "attempts_total": sum(row["attempt"] for row in self.tables.jobs),
            "given_back": sum((row["before"], row["after"]) == GIVEN_BACK for row in self.tables.events),
            "steps_back": sum(row["kind"] == "resumed" for row in self.tables.events),
            "requests": self.ledger.requests,
            "requests_repeated": self.ledger.repeated,
            "tracebacks": sum(remains.tracebacks(self.log).values()),
            "seconds": round(self.seconds, 1),
        }


def run(order: Order, folder: Path, say: Callable[[str], None]) -> Outcome:
    """Start the service, let clients and faults loose, and look at what they left.

    Args:
        order: What to run.
        folder: Empty; holds everything of the run.
        say: Told how it goes.
    """
    began = time.monotonic()
    rng = random.Random(order.seed)  # noqa: S311 - draws what can be drawn again, no secrets
    data, log = folder / "data", folder / "service.log"
    data.mkdir()
    ledger = Ledger()
    desk = Desk(make_material(folder), random.Random(rng.random()), order.jobs)  # noqa: S311 - as above
    mark = {"CHAOS_RUN": uuid4().hex}
    with _backends(order.mode, data) as (url, settings, postgres, redis):
        with _machines(order.mode, folder, {**SETTINGS, **settings, **mark}) as machines:
            saboteur = Saboteur([one.process.pid for one in machines], rng, LEASE_SECONDS, postgres, redis)
            addresses = [str(one.client.base_url) for one in machines]
            with clients_at_work(addresses, order.clients, ledger, desk) as threads:
                watch = _Watch(order, desk, ledger, saboteur, say)
                time.sleep(FIRST_CALM_SECONDS)
                while len(saboteur.faults) < order.faults and _can_go_on(machines, threads):
                    watch.strike()
                    time.sleep(rng.uniform(*CALM_SECONDS))
                desk.must_go_on = False
                while any(thread.is_alive() for thread in threads):
                    watch.speak()
                    time.sleep(1)
            ended = [one.process.returncode for one in machines if one.process.poll() is not None]
            ledger.complaints.extend(f"`up` ended by itself: {code}" for code in ended)
        tables = read_tables(url)
    store = data / "store"
    return Outcome(
        order=order,
        faults=saboteur.faults,
        ledger=ledger,
        tables=tables,
        findings=audit(tables, store, ledger.told),
        orphans=orphans(tables, store),
        unused=unused(tables),
        processes_left=remains.processes(mark),
        log=log,
        seconds=time.monotonic() - began,
    )


class _Watch:
    """Strikes, and tells how the run goes."""

    def __init__(
        self, order: Order, desk: Desk, ledger: Ledger, saboteur: Saboteur, say: Callable[[str], None]
    ) -> None:
        self._order, self._desk, self._ledger, self._saboteur, self._say = order, desk, ledger, saboteur, say
        self._began = self._spoke_at = time.monotonic()

    def strike(self) -> None:
        fault = self._saboteur.strike()
        number = len(self._saboteur.faults)
        self._say(f"{fault.at:6.1f} s  fault {number:2d}: {fault.kind:20s} {fault.victim}")
        self.speak()

    def speak(self) -> None:
        now = time.monotonic()
        if now - self._spoke_at >= SPEAK_SECONDS:
            self._spoke_at = now
            told, ended = len(self._ledger.told), self._ledger.ended
            self._say(
                f"{now - self._began:6.1f} s  {len(self._saboteur.faults)} of {self._order.faults} faults; "
                f"{self._desk.sent} jobs sent, at least {self._order.jobs} are to be; "
                f"{ended} of {told} requests have come to their end"
            )


def _can_go_on(machines: Sequence[Service], threads: Sequence[Thread]) -> bool:
    are_up = all(one.process.poll() is None for one in machines)
    return are_up and any(thread.is_alive() for thread in threads)


@contextmanager
def _machines(mode: Mode, folder: Path, settings: Mapping[str, str]) -> Iterator[list[Service]]:
    """Run the service; in scaled mode twice, as on two machines that share database, broker and store.

    What a frozen worker was at, the other machine takes up, from the checkpoint in the store: they share no
    workspace.
    """
    data, log = folder / "data", folder / "service.log"
    with ExitStack() as stack:
        machines = [stack.enter_context(running(data, log, settings))]
        if mode == "scaled":
            shared = {**settings, "SEG_STORE_DIR": str(data / "store")}
            machines.append(stack.enter_context(running(folder / "second", log, shared)))
        yield machines


@contextmanager
def _backends(
    mode: Mode, data: Path
) -> Iterator[tuple[str, Mapping[str, str], servers.PostgresServer | None, servers.RedisServer | None]]:
    """Run what the service of a mode needs; yield the database's address and the settings that name all."""
    if mode == "laptop":
        yield f"sqlite:///{data / 'service.db'}", {}, None, None
        return
    with servers.postgresql(durable=False) as postgres, servers.redis_server() as redis:
        url = postgres.create_database("chaos")
        yield url, {"SEG_DATABASE_URL": url, "SEG_BROKER_URL": redis.url}, postgres, redis


def describe(outcome: Outcome) -> Iterator[str]:
    """Yield the lines of a summary, the most telling last."""
    for seen, count in remains.tracebacks(outcome.log).most_common():
        yield f"traceback, {count} times: {seen}"
    for key in outcome.orphans[:SHOWN]:
        yield f"file without a row: {key}"
    for key in outcome.unused[:SHOWN]:
        yield f"row without a use: {key}"
    for title, lines in (
        ("wrong", [f"{one.figure}: {one.sentence}" for one in outcome.findings]),
        ("complaint", outcome.ledger.complaints),
        ("process left", outcome.processes_left),
    ):
        for line in lines[:SHOWN]:
            yield f"{title}: {line}"
    if not outcome.is_good:
        yield from _what_hangs(outcome)
    yield ""
    for name, value in outcome.figures().items():
        shown = (
            ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
        )
        yield f"  {name:18s} {shown}{'   must be 0' if name in ZERO_FIGURES and value else ''}"


def _what_hangs(outcome: Outcome) -> Iterator[str]:
    """Yield the story of every job that has not ended as it must, and the service's last words."""
    ends = {one.job_id: one.ends for one in outcome.ledger.told}
    for row in outcome.tables.jobs:
        if row["state"] not in FINAL or ends.get(row["id"], row["state"]) != row["state"]:
            yield story_of(outcome.tables, row["id"])
    yield "the service's last words:"
    yield from outcome.log.read_text(errors="replace").splitlines()[-LAST_LINES:]


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
