"""The processes of one machine, in either mode: started together, started again when one dies, ended together."""

import ctypes
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from app.alive import answers
from app.errors import ConflictError, UnavailableError
from app.settings import Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""Between two looks at the processes."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
"""Before a process that died is started again; doubled each time, so that a broken one does not spin."""

STEADY_SECONDS = 60.0
"""A process that lived so long is healthy; its next death counts as the first."""

PORT_PATIENCE_SECONDS = 10.0
"""How long a port may still be held by a service that is just ending."""

END_MARGIN_SECONDS = 10.0
"""What the workers get beyond the grace of their jobs, before they are killed."""

PR_SET_PDEATHSIG = 1
"""Of prctl(2): which signal a process gets when its parent is gone, however that ended."""


@dataclass(slots=True)
class Program:
    """One of the service's processes."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_seconds: float = field(default=FIRST_PAUSE_SECONDS)


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Hold a data folder for this process alone; the system lets go when the process ends.

    Raises:
        ConflictError: Another service works in it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "up.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"another service works in {folder}; stop it, or choose another --data-dir"
            ) from error
        yield


def free_port(host: str, port: int) -> int:
    """Return a port that can be listened on: this one, or any if it is 0.

    Raises:
        UnavailableError: Somebody else listens on it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + PORT_PATIENCE_SECONDS
    while True:
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise UnavailableError(
                        f"{host}:{port} cannot be listened on ({error.strerror}); choose another --port"
                    ) from error
            else:
                return int(probe.getsockname()[1])
        time.sleep(LOOK_SECONDS)


def supervise(settings: Settings, commands: Mapping[str, Sequence[str]], ready: Callable[[], None]) -> None:
    """Keep processes running until SIGINT or SIGTERM; a second signal kills them.

    Args:
        settings: What the processes read; the port is a real one.
        commands: Name → command line.
        ready: Called once, when the service answers.
    """
    asked = 0

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    programs = [Program(name, command) for name, command in commands.items()]
    is_ready = False
    try:
        while not asked:
            for program in programs:
                _keep_alive(program, settings)
            if not is_ready and answers(settings):
                is_ready = True
                ready()
            time.sleep(LOOK_SECONDS)
    finally:
        _end(programs, settings.stop_grace_seconds + END_MARGIN_SECONDS, lambda: asked > 1)


def _keep_alive(program: Program, settings: Settings) -> None:
    """Start a process that does not run, once its pause is over."""
    now = time.monotonic()
    if program.process is None:
        _start(program, settings)
    elif program.process.poll() is not None:
        lived = now - program.started_at
        if lived > STEADY_SECONDS:
            program.pause_seconds = FIRST_PAUSE_SECONDS
        if lived > program.pause_seconds:
            log.warning(
                "a process died and is started again",
                extra={"program": program.name, "returncode": program.process.returncode},
            )
            program.pause_seconds = min(2 * program.pause_seconds, LONGEST_PAUSE_SECONDS)
            _start(program, settings)


def _start(program: Program, settings: Settings) -> None:
    program.started_at = time.monotonic()
    program.process = subprocess.Popen(  # noqa: S603 - our own modules
        program.command,
        env=settings.environment(),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_end_with_parent(),  # noqa: PLW1509 - this process has no threads
    )


def _end_with_parent() -> Callable[[], None]:
    """Return what a new process does first: ask the kernel for SIGTERM when this one is gone."""
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # It died in between.
            os._exit(1)

    return bind


def _end(programs: Sequence[Program], patience_seconds: float, is_urgent: Callable[[], bool]) -> None:
    """Ask all processes to end, wait, then kill what is left with everything that it started."""
    running = [program.process for program in programs if program.process is not None]
    for process in running:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + patience_seconds
    while any(process.poll() is None for process in running):
        if is_urgent() or time.monotonic() > deadline:
            for process in running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            return
        time.sleep(LOOK_SECONDS)
