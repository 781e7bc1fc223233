"""The protocol between a worker and its child, with real processes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from app.services.resources import Resources
from app.settings import Settings
from tests.app import playing
from tests.worker import plays
from tests.worker.conftest import Order
from worker import lifecycle
from worker.child import Assignment
from worker.machine import Worker
from worker.observer import Message
from worker.process import Child

PATIENCE_SECONDS = 20

Ask = Callable[[str], Assignment]


@pytest.fixture
def ask(worker: Worker, resources: Resources, order: Order) -> Ask:
    """Return an assignment for a play."""

    def assign(play: str) -> Assignment:
        order(play)
        return lifecycle._assignment(worker, playing.claim(resources.sessions))

    return assign


@pytest.fixture
def child(settings: Settings) -> Iterator[Child]:
    with closing(Child(plays.MODULE, plays.environment(settings))) as started:
        yield started


def ending(child: Child) -> Message:
    """Return the last message of an assignment."""
    return next(message for message in messages(child) if message["event"] not in ("progress", "epoch"))


def messages(child: Child) -> Iterator[Message]:
    while (message := child.next(PATIENCE_SECONDS)) is not None:
        yield message


def is_running(pid: int) -> bool:
    """Whether a process computes; one that ended but was not collected by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def has_ended(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def test_what_libraries_print_does_not_disturb(child: Child, ask: Ask) -> None:
    child.send(ask("noisy"))

    message = ending(child)

    assert (message["event"], message["result"]["reader"]) == ("result", "noisy")


def test_an_error_on_purpose_becomes_its_problem_document(child: Child, ask: Ask) -> None:
    child.send(ask("refuses"))

    assert ending(child) == {
        "event": "error",
        "problem": {
            "type": "urn:nnunet-service:problem:invalid-dataset",
            "title": "Invalid dataset",
            "detail": "case 7 has no label; add it",
            "code": "invalid-dataset",
            "case": "case_7",
        },
    }


@pytest.mark.parametrize(
    ("play", "code"),
    [("mistaken", "internal-error"), ("hungry", "out-of-memory"), ("crowded", "storage-full")],
)
def test_any_other_error_says_its_kind_and_not_its_text(child: Child, ask: Ask, play: str, code: str) -> None:
    child.send(ask(play))

    message = ending(child)

    assert (message["event"], message["problem"]["code"]) == ("error", code)
    assert "secret" not in str(message)


def test_a_child_that_is_asked_to_stop_says_so_and_takes_the_next_job(child: Child, ask: Ask) -> None:
    child.send(ask("patient"))
    assert child.next(PATIENCE_SECONDS) == {
        "event": "progress", "stage": "train", "done": 1, "total": 9, "note": ""
    }  # fmt: skip
    child.ask_to_stop()

    assert ending(child) == {"event": "canceled"}
    child.send(ask("noisy"))
    assert ending(child)["event"] == "result"


def test_a_child_that_was_killed_is_noticed(child: Child, ask: Ask) -> None:
    child.send(ask("killed"))

    assert child.cause_of_death() == (
        "its process was killed by signal 9, probably because the machine ran out of memory"
    )


def test_secrets_of_the_service_stay_with_it(
    settings: Settings, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEG_API_KEY", "a secret key")
    with closing(Child(plays.MODULE, plays.environment(settings))) as child:
        child.send(ask("settings_seen"))

        assert child.next(PATIENCE_SECONDS) == {
            "event": "progress", "stage": "names", "done": 0, "total": 0, "note": ""
        }  # fmt: skip


def test_the_number_of_threads_reaches_the_arithmetic(settings: Settings) -> None:
    assert settings.child_environment()["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("play", [None, "patient"])
def test_a_child_ends_when_its_input_does(settings: Settings, ask: Ask, play: str | None) -> None:
    command = [sys.executable, "-m", plays.MODULE]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=plays.environment(settings)
    ) as process:
        assert process.stdin is not None
        if play is not None:
            process.stdin.write(ask(play).model_dump_json().encode() + b"\n")
        process.stdin.close()

        assert process.wait(PATIENCE_SECONDS) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal")
@pytest.mark.parametrize("play", ["patient", "stubborn"])
def test_a_child_ends_when_its_parent_is_killed(settings: Settings, ask: Ask, play: str) -> None:
    parent = """
import sys, time
from tests.worker import plays
from worker.child import Assignment
from worker.lifecycle import Child
from app.settings import Settings
child = Child(plays.MODULE, plays.environment(Settings()))
child.send(Assignment.model_validate_json(sys.stdin.readline()))
child.next(20)
print(child._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=plays.environment(settings),
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(ask(play).model_dump_json() + "\n")
        process.stdin.flush()
        pid = int(process.stdout.readline())
        assert is_running(pid)
        process.kill()

    assert has_ended(pid)


def test_a_child_of_one_job_ends_in_order(settings: Settings, ask: Ask) -> None:
    assignment = ask("noisy")
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", lifecycle.CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=plays.environment(settings),
                text=True,
            )
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(assignment.model_dump_json() + "\n")
        process.stdin.flush()

        assert '"event": "result"' in process.stdout.read()
        assert process.wait(PATIENCE_SECONDS) == 0
        assert "Fatal" not in process.stderr.read()


def test_closing_a_child_leaves_no_process(settings: Settings) -> None:
    child = Child(plays.MODULE, plays.environment(settings))
    pid = child._process.pid

    child.close()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
