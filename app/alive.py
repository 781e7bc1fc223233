"""How processes show that they are alive: the API answers, a worker touches a file whose age tells."""

import http.client
import socket
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path

from app.errors import UnavailableError
from app.jobs import Lane
from app.settings import Settings

FOLDER_NAME = "alive"
"""Within the workspace; holds one file per worker."""

ANSWER_SECONDS = 5.0
"""How long the API may take to say that it is ready."""

STALE_SECONDS = 60.0
"""A worker touches its file every few seconds; one that has not done so for this long hangs or is gone."""

EVERY_ADDRESS: Mapping[str, str] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not listened on
"""Where a service that listens on every address is asked from its own machine."""


def answers(settings: Settings) -> bool:
    """Whether the API says that it is ready."""
    key = settings.api_key
    headers = {} if key is None else {"X-API-Key": key.get_secret_value()}
    host = EVERY_ADDRESS.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=ANSWER_SECONDS)
    try:
        with closing(connection):
            connection.request("GET", "/health/ready", headers=headers)
            return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def beat_file(folder: Path, lanes: Collection[str]) -> Path:
    """Return the file of this machine's worker of some lanes; machines may share the folder."""
    return folder / "+".join([socket.gethostname(), *sorted(lanes)])


def touch(file: Path) -> None:
    """Show that this worker is alive now."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def served(folder: Path, now: float) -> frozenset[Lane]:
    """Return the lanes whose workers have shown themselves in a folder of late.

    Args:
        folder: Of the workers' files.
        now: Seconds since the epoch.
    """
    files = [file for file in folder.glob("*") if age_seconds(file, now) <= STALE_SECONDS]
    return frozenset(lane for lane in Lane if any(lane in file.name.split("+")[1:] for file in files))


def age_seconds(file: Path, now: float) -> float:
    """Return how long ago a worker showed itself.

    Args:
        file: Of the worker.
        now: Seconds since the epoch.

    Raises:
        UnavailableError: It has never done so.
    """
    try:
        return max(0.0, now - file.stat().st_mtime)
    except FileNotFoundError as error:
        raise UnavailableError(f"no worker has shown itself as {file.name}; is it started?") from error


def require_beat(file: Path, now: float) -> None:
    """Check that a worker has shown itself of late.

    Raises:
        UnavailableError: It has not.
    """
    age = age_seconds(file, now)
    if age > STALE_SECONDS:
        raise UnavailableError(
            f"the worker {file.name} has not shown itself for {age:.0f} s; its log tells more"
        )


def require_answer(settings: Settings) -> None:
    """Check that the API is ready.

    Raises:
        UnavailableError: It is not.
    """
    if not answers(settings):
        raise UnavailableError(
            f"the API at {settings.host}:{settings.port} does not say that it is ready; its log tells more"
        )
