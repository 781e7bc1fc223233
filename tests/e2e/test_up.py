"""`nnunet-service up`: one service per folder, nothing dies for good, nothing is left behind."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.e2e.conftest import mode_of
from tests.e2e.running import ROOT, Service, is_alive, kill, require_ended, running, start, wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


@pytest.fixture(params=["laptop", "scaled"])
def mode(request: pytest.FixtureRequest) -> Mapping[str, str]:
    return mode_of(request, f"up_{uuid4().hex}", 2)


@pytest.mark.slow
def test_up_supervises_and_cleans_up(tmp_path: Path, mode: Mapping[str, str]) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    with running(data, log, mode) as service:
        _require_one_service_per_folder(data, tmp_path)
        _require_restart_of(service, "app.main")
        _require_restart_of(service, "worker.main --lanes train")
        # A Celery worker is two processes: one holds the connection to the broker, one runs jobs.
        expected = 6 if mode else 3
        ended = wait_for(lambda: _if_complete(service.descendants(), expected))

        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=60) == 0

    require_ended(ended)


@pytest.mark.slow
def test_a_killed_supervisor_leaves_no_orphans(tmp_path: Path, mode: Mapping[str, str]) -> None:
    with running(tmp_path / "data", tmp_path / "log", mode) as service:
        below = service.descendants()

        kill(service.process.pid)
        service.process.wait()

        wait_for(lambda: None if any(is_alive(pid) for pid in below) else below, seconds=30)
    with running(tmp_path / "data", tmp_path / "log", mode) as service:
        assert service.get("/health/ready")["status"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["up", "--host", "0.0.0.0"], "SEG_API_KEY"),  # noqa: S104
        (["api", "--host", "192.168.1.1"], "SEG_API_KEY"),
        (["up", "--port", "99999"], "port"),
        (["worker", "--lanes", "gpu"], "no lane gpu"),
    ],
)
def test_what_cannot_start_says_why(tmp_path: Path, arguments: list[str], words: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments, "--data-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert found.returncode in (1, 2)
    assert words in found.stderr
    assert "Traceback" not in found.stderr


def test_migrate_prepares_an_empty_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app.cli", "migrate", "--data-dir", str(tmp_path / "new")]

    for _ in range(2):
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)

    assert (tmp_path / "new" / "service.db").is_file()


def _require_one_service_per_folder(data: Path, folder: Path) -> None:
    with (folder / "second").open("wb") as errors:
        second = start(data, errors, {})
        out, _ = second.communicate(timeout=60)
    assert (second.returncode, out) == (1, "")
    assert "another service works in" in (folder / "second").read_text()


def _if_complete(found: dict[int, str], workers: int) -> dict[int, str] | None:
    return found if sum("worker.main" in command for command in found.values()) == workers else None


def _require_restart_of(service: Service, command: str) -> None:
    """Kill one of the processes; another takes its place."""
    victim = _pid_of(service, command)
    assert victim is not None
    kill(victim)

    def successor() -> int | None:
        found = _pid_of(service, command)
        return found if found not in (None, victim) else None

    wait_for(successor)
    wait_for(lambda: _is_ready(service) or None)


def _pid_of(service: Service, command: str) -> int | None:
    return next((pid for pid, found in service.descendants().items() if command in found), None)


def _is_ready(service: Service) -> bool:
    try:
        return service.client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False
