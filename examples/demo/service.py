"""The service as a process of its own, and the HTTP client that talks to it."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 120
"""The first start imports and migrates; on a slow disk that takes a while."""

STOP_SECONDS = 60
POLL_SECONDS = 1.0

PATIENCE_SECONDS = 20.0
"""So long the service may be away while a job is followed: it starts a process that died again."""

ADDRESS = re.compile(r"https?://[\w.\-:\[\]]+")

Json = dict[str, Any]


class DemoError(Exception):
    """The service refused something, or a job failed; the sentence is the service's own."""


@contextmanager
def running_service(data_dir: Path, log_file: Path, settings: Mapping[str, str]) -> Iterator[str]:
    """Start `nnunet-service up` on loopback and a free port; stop it at the end, whatever happens.

    Args:
        data_dir: Of the service; nothing outside it is touched.
        log_file: What the service writes.
        settings: Further environment variables (SEG_...).

    Yields:
        The address.

    Raises:
        DemoError: It did not start.
    """
    program = Path(sys.executable).with_name("nnunet-service")
    command: list[str | Path] = [program, "up", "--host", "127.0.0.1", "--port", "0", "--data-dir", data_dir]
    # The demo's service must not pick up the settings of one that this machine runs in earnest.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SEG_")}  # noqa: TID251
    environment |= settings
    with log_file.open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True, start_new_session=True
        )
        try:
            yield _address(process, log_file)
        finally:
            _stop(process)


def _address(process: subprocess.Popen[str], log_file: Path) -> str:
    """Wait for the line with the address; later lines are read and dropped, so that no pipe fills up."""
    lines: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    deadline = time.monotonic() + START_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            break
        if line is None:
            break
        if found := ADDRESS.search(line):
            return found.group()
    raise DemoError(f"the service did not start; its last words:\n{log_file.read_text()[-2000:]}")


def _stop(process: subprocess.Popen[str]) -> None:
    """Ask the service to stop; it takes its workers along."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Client:
    """The REST calls that the demo makes.

    Args:
        http: With the service's address as base.
    """

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, path: str) -> Json:
        """Read one resource."""
        return _checked(self._http.get(path))

    def download(self, path: str, target: Path) -> Path:
        """Save a file."""
        response = self._http.get(path)
        _checked(response)
        target.write_bytes(response.content)
        return target

    def upload_dataset(self, name: str, archive: Path) -> Json:
        """POST /datasets, as a raw body that is streamed from disk."""
        with archive.open("rb") as body:
            response = self._http.post(
                "/datasets", params={"name": name}, content=body, headers={"Content-Type": "application/zip"}
            )
        return _checked(response)

    def train(self, request: Json) -> Json:
        """POST /train."""
        return _checked(self._http.post("/train", json=request))

    def predict(self, model_id: str, images: tuple[Path, ...]) -> Json:
        """POST /predict, one `image` per channel."""
        files = [("image", (image.name, image.read_bytes())) for image in images]
        return _checked(self._http.post("/predict", data={"model": model_id}, files=files))

    def follow(self, job_id: str, watch: Callable[[Json], None]) -> Json:
        """Poll a job until it ends.

        Args:
            job_id: As the 202 gave it.
            watch: Shown every state of the job.

        Raises:
            DemoError: It did not succeed, or the service is gone.
        """
        last_seen = time.monotonic()
        while True:
            try:
                job = self.get(f"/jobs/{job_id}")
            except httpx.TransportError as error:
                if time.monotonic() - last_seen > PATIENCE_SECONDS:
                    raise DemoError(f"the service is gone ({error}); its log tells more") from error
                time.sleep(POLL_SECONDS)
                continue
            last_seen = time.monotonic()
            watch(job)
            if job["state"] == "succeeded":
                return job
            if job["state"] in ("failed", "canceled"):
                reason = (job.get("error") or {}).get("detail", "it did not say why")
                raise DemoError(f"the {job['kind']} job {job['state']}: {reason}")
            time.sleep(POLL_SECONDS)


def _checked(response: httpx.Response) -> Json:
    """Return the JSON body, if there is one; turn a problem document into its sentence."""
    is_json = "json" in response.headers.get("content-type", "")
    body: Json = response.json() if is_json else {}
    if response.is_success:
        return body
    problems = "".join(
        f"\n  {one.get('case') or ''} {one.get('message', one)}" for one in body.get("errors", ())
    )
    raise DemoError(f"{response.status_code}: {body.get('detail', response.text[:500])}{problems}")
