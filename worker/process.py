"""A child process from its parent's side: work goes in, messages come out, and how it ended is told."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread

from core.domain.record import Record
from worker.observer import Message


class DeathError(Exception):
    """Processes have ended without saying how their work did; the text says how they ended."""


class Child:
    """A process that carries out assignments; its messages arrive in a queue.

    Args:
        module: What runs in it.
        environment: Of the process, without the settings of the service and their secrets; None: this process's.
        arguments: Of the module.
    """

    def __init__(
        self, module: str, environment: Mapping[str, str] | None, arguments: Sequence[str] = ()
    ) -> None:
        command = [sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
            start_new_session=True,
        )
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._reader = Thread(target=self._read, name=f"messages of {module}", daemon=True)
        self._reader.start()

    def send(self, record: Record) -> None:
        """Hand over work, or a wish; a child that is dead already is noticed by `next`.

        From a thread: an order can be longer than a pipe holds, and the lease does not wait for its reader.
        """
        Thread(target=self._write, args=(record,), name="assignment", daemon=True).start()

    def next(self, timeout_seconds: float) -> Message | None:
        """Return the next message, or None if there was none in time."""
        with suppress(Empty):
            return self._messages.get(timeout=timeout_seconds)
        return None

    @property
    def is_alive(self) -> bool:
        """Whether more messages may come."""
        return self._reader.is_alive() or not self._messages.empty()

    def ask_to_stop(self) -> None:
        """Ask for a checkpoint and an end."""
        self._process.terminate()

    def kill(self) -> None:
        """End the child and whatever it started, unless it has ended; its number may be another's then."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def cause_of_death(self) -> str:
        """Say how the child ended."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "its process was killed by signal 9, probably because the machine ran out of memory"
        return f"its process ended by signal {-code}" if code < 0 else f"its process ended with status {code}"

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def _write(self, record: Record) -> None:
        if self._process.stdin is None:
            raise TypeError("a child is started with a pipe as its input")
        with suppress(BrokenPipeError, ValueError):  # The latter: the pipe was closed meanwhile.
            self._process.stdin.write(record.model_dump_json() + "\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        """Collect messages until the child's output ends, in the middle of a line if it was killed."""
        for line in self._process.stdout or ():
            with suppress(json.JSONDecodeError):
                self._messages.put(json.loads(line))
