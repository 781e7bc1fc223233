"""The whole service in processes of its own, as `nnunet-service up` starts it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

ROOT = Path(__file__).resolve().parents[2]

PATIENCE_SECONDS = 120.0
"""Longer than any single step takes on a busy machine."""

FAST = {"SEG_LEASE_SECONDS": "4", "SEG_HEARTBEAT_SECONDS": "0.5", "SEG_THREADS": "1"}
"""A dead worker's job is taken back soon."""

T = TypeVar("T")


@dataclass
class Service:
    """A running service and a client of it."""

    process: subprocess.Popen[str]
    client: httpx.Client

    def get(self, path: str) -> Any:
        """Read a resource."""
        response = self.client.get(path)
        response.raise_for_status()
        return response.json()

    def end_of(self, job_id: str, seconds: float = PATIENCE_SECONDS) -> Any:
        """Return a job once it has ended."""
        return wait_for(lambda: _if_ended(self.get(f"/jobs/{job_id}")), seconds)

    def upload(self, archive: Path, name: str = "Phantoms") -> Any:
        """Send a zipped dataset, wait for its check, and return it."""
        response = self.client.post(
            "/datasets",
            params={"name": name},
            content=archive.read_bytes(),
            headers={"Content-Type": "application/zip", "Prefer": "wait=60"},
        )
        assert response.status_code == 200, response.text
        return self.get(response.json()["links"]["self"])

    def train(self, dataset: Any, **request: Any) -> Any:
        """Start a training and return what was accepted."""
        response = self.client.post("/train", json={"dataset_id": dataset["id"], **request})
        assert response.status_code == 202, response.text
        assert response.headers["Location"].endswith(f"/jobs/{response.json()['job_id']}")
        return response.json()

    def predict(self, model_id: str, image: Path, **options: str) -> Any:
        """Send an image to a model, wait for the end, and return the prediction."""
        job = self.end_of(self.send(model_id, image, **options)["job_id"])
        assert job["state"] == "succeeded", job["error"]
        return self.get(f"/predictions/{job['result']['prediction_id']}")

    def send(self, model_id: str, image: Path, **options: str) -> Any:
        """Send an image to a model and return what was accepted."""
        response = self.client.post(
            "/predict",
            files={"image": (image.name, image.read_bytes())},
            data={"model": model_id, **options},
        )
        assert response.status_code == 202, response.text
        return response.json()

    def segmentation(self, prediction: Any, path: Path) -> Path:
        """Save the label map of a prediction."""
        response = self.client.get(prediction["links"]["segmentation"])
        assert response.status_code == 200, response.text
        assert response.headers["content-disposition"].endswith(f'{prediction["file_ending"]}"')
        path.write_bytes(response.content)
        return path

    def descendants(self) -> dict[int, str]:
        """Return the service's processes below `up`, with their command lines."""
        return descendants_of(self.process.pid)


def _if_ended(job: Any) -> Any:
    return job if job["state"] in ("succeeded", "failed", "canceled") else None


def wait_for(look: Callable[[], T | None], seconds: float = PATIENCE_SECONDS) -> T:
    """Look again and again until there is something."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    return found


def require_ended(pids: Iterable[int]) -> None:
    """See that processes end; the system may need a moment after those that started them have."""
    ended = list(pids)
    wait_for(lambda: None if any(is_alive(pid) for pid in ended) else ended, seconds=20)


@contextmanager
def running(folder: Path, log: Path, settings: Mapping[str, str]) -> Iterator[Service]:
    """Start the service on a data folder, in the mode that the settings say; end it, if it still runs."""
    with log.open("ab") as errors:
        process = start(folder, errors, settings)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("nnU-Net Service is ready at "), log.read_text()
            with httpx.Client(base_url=line.split()[-1], timeout=PATIENCE_SECONDS) as client:
                yield Service(process, client)
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def start(folder: Path, errors: Any, settings: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start `up` on a free port."""
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", "up", "--port", "0", "--data-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **FAST, **settings},  # noqa: TID251 - the environment of a process that is started
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )


def descendants_of(pid: int) -> dict[int, str]:
    """Return all processes that a process started, and theirs."""
    found: dict[int, str] = {}
    children = [int(one) for one in _read(f"/proc/{pid}/task/{pid}/children").split()]
    for child in children:
        found[child] = _read(f"/proc/{child}/cmdline").replace("\0", " ")
        found |= descendants_of(child)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    state = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return bool(state) and state[0] != "Z"


def kill(pid: int) -> None:
    """End a process as the kernel does when memory runs out."""
    os.kill(pid, signal.SIGKILL)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
