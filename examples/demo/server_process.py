"""A server as a process of one's own: started, asked whether it answers, crashed, ended, never left behind."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 60.0
"""A server that recovers from a crash on a busy machine takes a while to answer."""

STOP_SECONDS = 30.0
"""After each request to end, before the next, less polite one."""

LOOK_SECONDS = 0.05
"""Between two looks whether a server answers."""

LAST_WORDS = 2000
"""Characters of a server's log that an error shows."""

ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath}
"""Of all servers. Nothing is inherited: a PGDATA or PGPORT would point at somebody else's server."""

GUARD = """
read -r _
kill -s "$1" "$2"
looks=300
while kill -0 "$2" && [ "$looks" -gt 0 ]; do sleep 0.1; looks=$((looks - 1)); done
rm -rf "$3"
"""
"""Waits until its input ends, which happens when we are gone, however that ended; then it clears up for us."""


class ServerError(Exception):
    """A server cannot be used; the sentence says why."""


class ServerMissingError(ServerError):
    """This machine has no such server."""


class ServerFailedError(ServerError):
    """A server did not start."""


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody else whom a server runs as, where we are root."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Program:
    """How a server is started, asked whether it answers, and ended."""

    name: str
    command: Sequence[str | Path]
    folder: Path
    """Everything of the server lies in it."""
    answers: Callable[[], bool]
    end: signal.Signals
    """Ends the server at once, but in good order."""
    crash: signal.Signals
    """Ends it as a crash does."""
    account: Account | None = None
    """None: ourselves."""


class Server:
    """A server's process, which can be stopped and started again on the same port and files.

    Args:
        program: What runs.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the server's first process.

        Raises:
            ServerError: It was stopped.
        """
        if self._process is None:
            raise ServerError(f"the {self._program.name} server is stopped")
        return self._process.pid

    def start(self) -> None:
        """Start the server, unless it runs, and wait until it answers.

        Raises:
            ServerFailedError: It ended, or does not answer in time.
        """
        if self._process is None or self._process.poll() is not None:
            self.stop()  # Clears away what is left of a process that died by itself.
            self._process = _launch(self._program)
            self._guard = _guard(self._process, self._program)
        _await_answer(self._process, self._program)

    def stop(self, *, crash: bool = False) -> None:
        """End the server, if it runs, and wait until it is gone; its files stay.

        Args:
            crash: End it without any order, as if it had died.
        """
        if self._process is not None:
            requests = (self._program.crash, signal.SIGKILL)
            _end(self._process, requests if crash else (self._program.end, *requests))
            self._process = None
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def restart(self, *, crash: bool = False) -> None:
        """Stop the server and start it again.

        Args:
            crash: Stop it without any order, as if it had died.

        Raises:
            ServerFailedError: It did not come back.
        """
        self.stop(crash=crash)
        self.start()


@contextmanager
def running(server: Server) -> Iterator[None]:
    """Start a server; stop it at the end, whatever happens.

    Raises:
        ServerFailedError: It did not start.
    """
    try:
        server.start()
        yield
    finally:
        server.stop()


def identity(account: Account | None) -> dict[str, Any]:
    """Return what `subprocess` needs to run something as an account."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def _launch(program: Program) -> subprocess.Popen[bytes]:
    """Start a server as a child of ours that Ctrl-C does not reach: whoever uses it ends first."""
    with _log_file(program).open("ab") as log:
        return subprocess.Popen(
            program.command,
            cwd=program.folder,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **identity(program.account),
        )


def _guard(process: subprocess.Popen[bytes], program: Program) -> subprocess.Popen[bytes]:
    """Start what ends the server and removes its folder, should we be killed before we can.

    The kernel could end the server, too (PR_SET_PDEATHSIG), but it does so already when the thread ends that
    started it, leaves the folder behind, and only Linux has it.
    """
    ending = program.end.name.removeprefix("SIG")
    return subprocess.Popen(
        ["/bin/sh", "-c", GUARD, "guard", ending, str(process.pid), program.folder],
        cwd="/",
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _await_answer(process: subprocess.Popen[bytes], program: Program) -> None:
    """Wait until the server does what it is for.

    Raises:
        ServerFailedError: It ended, or does not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if program.answers():
            return
        time.sleep(LOOK_SECONDS)
    words = _log_file(program).read_text(errors="replace")[-LAST_WORDS:]
    raise ServerFailedError(f"the {program.name} server did not start; its last words:\n{words}")


def _log_file(program: Program) -> Path:
    return program.folder / "server.log"


def _end(process: subprocess.Popen[bytes], requests: Sequence[signal.Signals]) -> None:
    """Ask a process to end, ever less politely, and wait until it is gone."""
    for request in requests:
        process.send_signal(request)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return
    process.wait()
