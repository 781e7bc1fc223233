"""What `nnunet-service health` says of a worker and of the API, and whether that is so."""

import os
import time
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from app import alive
from app.cli import main
from app.errors import UnavailableError
from app.jobs import Lane
from app.settings import Settings
from app.supervisor import free_port
from tests.app.conftest import Serve


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """No database has a part in this."""
    return sqlite_url


KEY = "a-key-of-this-test"


def test_lanes_in_any_order_are_the_same_worker(tmp_path: Path) -> None:
    assert alive.beat_file(tmp_path, ["train", "cpu"]) == alive.beat_file(tmp_path, {"cpu", "train"})


def test_workers_of_other_lanes_have_files_of_their_own(tmp_path: Path) -> None:
    files = {alive.beat_file(tmp_path, lanes) for lanes in (["cpu"], ["train"], ["cpu", "train"])}

    assert len(files) == 3


def test_a_touched_file_is_young_and_grows_old(tmp_path: Path) -> None:
    file = alive.beat_file(tmp_path / "alive", ["cpu"])

    alive.touch(file)

    now = time.time()
    assert alive.age_seconds(file, now) < 5
    assert alive.age_seconds(file, now + 100) > 95


def test_a_clock_that_was_set_back_makes_no_negative_age(tmp_path: Path) -> None:
    file = alive.beat_file(tmp_path, ["cpu"])
    alive.touch(file)

    assert alive.age_seconds(file, time.time() - 3600) == 0


def test_a_worker_that_never_came_has_no_age(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="is it started"):
        alive.age_seconds(alive.beat_file(tmp_path, ["cpu"]), time.time())


def test_the_command_tells_a_worker_that_lives(tmp_path: Path) -> None:
    alive.touch(_beat_file(tmp_path))

    found = _health("--lanes", "train,cpu", "--data-dir", str(tmp_path))

    assert found.exit_code == 0
    assert found.stdout == "the worker of train,cpu is alive\n"


def test_the_command_tells_a_worker_that_hangs(tmp_path: Path) -> None:
    file = _beat_file(tmp_path)
    alive.touch(file)
    long_ago = time.time() - alive.STALE_SECONDS - 10
    os.utime(file, (long_ago, long_ago))

    found = _health("--lanes", "cpu,train", "--data-dir", str(tmp_path))

    assert found.exit_code == 1
    assert "has not shown itself for" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_command_tells_a_worker_that_is_not_there(tmp_path: Path) -> None:
    found = _health("--lanes", "cpu", "--data-dir", str(tmp_path))

    assert found.exit_code == 1
    assert "is it started?" in found.stderr


def test_the_command_asks_the_api_with_its_key(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(settings.model_copy(update={"api_key": SecretStr(KEY)}))
    _ask(monkeypatch, client, key=KEY)

    found = _health()

    assert (found.exit_code, found.stdout) == (0, "the API is ready\n")


def test_an_api_that_refuses_the_key_is_not_well(
    serve: Serve, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(settings.model_copy(update={"api_key": SecretStr(KEY)}))
    _ask(monkeypatch, client, key="another key")

    found = _health()

    assert found.exit_code == 1
    assert "does not say that it is ready" in found.stderr


def test_an_api_that_is_gone_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEG_PORT", str(free_port("127.0.0.1", 0)))

    assert _health().exit_code == 1


def _beat_file(data_dir: Path) -> Path:
    folder = Settings(data_dir=data_dir).resolved_workspace_dir / alive.FOLDER_NAME
    return alive.beat_file(folder, ["cpu", "train"])


def _health(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["health", *arguments])


def _ask(monkeypatch: pytest.MonkeyPatch, client: httpx.Client, key: str) -> None:
    monkeypatch.setenv("SEG_HOST", "0.0.0.0")  # noqa: S104 - as in a container
    monkeypatch.setenv("SEG_PORT", str(client.base_url.port))
    monkeypatch.setenv("SEG_API_KEY", key)


def test_lanes_are_served_whose_workers_have_shown_themselves_of_late(tmp_path: Path) -> None:
    alive.touch(alive.beat_file(tmp_path, [Lane.CPU, Lane.TRAIN]))
    alive.touch(alive.beat_file(tmp_path, [Lane.PREDICT]))
    now = time.time()
    os.utime(alive.beat_file(tmp_path, [Lane.PREDICT]), (now - 61, now - 61))

    assert alive.served(tmp_path, now) == {Lane.CPU, Lane.TRAIN}
    assert alive.served(tmp_path / "nothing", now) == frozenset()
