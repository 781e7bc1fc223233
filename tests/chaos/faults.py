"""What goes wrong: processes are killed or frozen, Redis and PostgreSQL fail; drawn by a seed, written down."""

import os
import random
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from servers import PostgresServer, RedisServer

from tests.e2e.running import descendants_of

FREEZE_SECONDS = (1.5, 3.5)
"""So many leases a frozen worker sleeps: it wakes when its job is somebody else's, who is at work on it."""

FREEZING = "worker_frozen"
"""Twice as often as the others: it takes one that is busy, and another with nothing to do, to put fences to the test."""

LOOK_SECONDS = 0.1

CHILD_SECONDS = 5.0
"""How long to wait for a child to kill; there is none between two jobs."""

CHILDREN = ("worker.child", "worker.predictor")


@dataclass(frozen=True, slots=True)
class Process:
    """One of the service's processes."""

    pid: int
    parent: int
    command: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was made to go wrong."""

    at: float
    """Seconds since the run began."""
    kind: str
    victim: str


@dataclass
class Saboteur:
    """Makes things go wrong, one after the other.

    Args:
        pids: Of the service's first process, per machine.
        rng: Draws what goes wrong.
        lease_seconds: Of the service.
        postgres: None in laptop mode.
        redis: As above.
    """

    pids: Collection[int]
    rng: random.Random
    lease_seconds: float
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    faults: list[Fault] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _kinds: list[str] = field(default_factory=list)
    """Those that are next: a deck, shuffled anew when it is empty, so that each comes often enough."""

    def strike(self) -> Fault:
        """Let something go wrong, and write down what."""
        while True:
            if not self._kinds:
                self._kinds = [*self._ways(), FREEZING]
                self.rng.shuffle(self._kinds)
            kind = self._kinds.pop()
            victim = self._ways()[kind]()
            if victim is not None:
                fault = Fault(time.monotonic() - self._began, kind, victim)
                self.faults.append(fault)
                return fault

    def _ways(self) -> Mapping[str, Callable[[], str | None]]:
        """Return what can go wrong; each does it and names its victim, or None if there was none."""
        ways: dict[str, Callable[[], str | None]] = {
            "api_killed": lambda: self._kill(self._api()),
            "worker_killed": lambda: self._kill(self._worker()),
            "child_killed": lambda: self._kill(self._child()),
            FREEZING: self._freeze,
        }
        if self.postgres is not None:
            ways["postgres_restarted"] = self._restart_postgres
        if self.redis is not None:
            ways["upper_worker_killed"] = lambda: self._kill(self._upper_worker())
            ways["redis_emptied"] = self._empty_redis
            ways["redis_restarted"] = self._restart_redis
        return ways

    def _kill(self, victim: Process | None) -> str | None:
        if victim is None:
            return None
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
        return _named(victim)

    def _freeze(self) -> str | None:
        """Have a worker sleep for longer than its lease, in the middle of whatever it does."""
        victim = self._worker()
        if victim is None:
            return None
        seconds = self.lease_seconds * self.rng.uniform(*FREEZE_SECONDS)
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGSTOP)
            try:
                time.sleep(seconds)
            finally:
                os.kill(victim.pid, signal.SIGCONT)
        return f"{_named(victim)} for {seconds:.1f} s"

    def _empty_redis(self) -> str:
        assert self.redis is not None
        self.redis.empty()
        return "Redis"

    def _restart_redis(self) -> str:
        assert self.redis is not None
        self.redis.restart(crash=True)
        return "Redis"

    def _restart_postgres(self) -> str:
        assert self.postgres is not None
        self.postgres.restart(crash=True)
        return "PostgreSQL"

    def _api(self) -> Process | None:
        return self._one_of([one for one in self._processes() if "app.main" in one.command])

    def _worker(self) -> Process | None:
        """Draw a process that runs jobs, and beats for them: rather one that has a child."""
        found = list(self._processes())
        workers = [one for one in found if "worker.main" in one.command]
        above = {one.parent for one in workers}
        runs_jobs = [one for one in workers if one.pid not in above and self._is_complete(one)]
        at_work = {one.parent for one in found if "worker.child" in one.command}
        return self._one_of([one for one in runs_jobs if one.pid in at_work] or runs_jobs)

    def _is_complete(self, worker: Process) -> bool:
        """Whether this is no upper process of a Celery worker that has yet to start its lower one."""
        return self.redis is None or worker.parent not in self.pids

    def _upper_worker(self) -> Process | None:
        """Draw a process of Celery's that holds the connection to the broker."""
        found = [one for one in self._processes() if "worker.main" in one.command and one.parent in self.pids]
        return self._one_of(found)

    def _child(self) -> Process | None:
        """Draw a process that computes, as soon as there is one."""
        deadline = time.monotonic() + CHILD_SECONDS
        while time.monotonic() < deadline:
            found = [one for one in self._processes() if any(name in one.command for name in CHILDREN)]
            at_work = [one for one in found if "worker.child" in one.command]
            victim = self._one_of(at_work if at_work and self.rng.random() < 2 / 3 else found)
            if victim is not None:
                return victim
            time.sleep(LOOK_SECONDS)
        return None

    def _one_of(self, processes: list[Process]) -> Process | None:
        return self.rng.choice(processes) if processes else None

    def _processes(self) -> Iterator[Process]:
        found = {pid: command for first in self.pids for pid, command in descendants_of(first).items()}
        for pid, command in found.items():
            with suppress(OSError):
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if stat[0] != "Z":
                    yield Process(pid, int(stat[1]), command.strip())


def _named(process: Process) -> str:
    """Name a process for a person."""
    return f"{process.command.partition(' -m ')[2] or process.command} (pid {process.pid})"
