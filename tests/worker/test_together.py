"""A training that two processes do together for the child that has the job: real processes on real cases."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core import pipeline
from core.domain.progress import Progress
from core.domain.training import EpochRecord, TrainingSettings
from core.errors import CancelledError, TrainingError
from tests.core.pipeline.bench import SETTINGS, architecture, cascade_plan, dataset
from tests.e2e.running import descendants_of, kill, require_ended, wait_for
from tests.factories import Recipe
from tests.worker.running import meanwhile
from worker.partner import Shared, Task
from worker.process import DeathError
from worker.together import fitting, train_together

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

RECIPE = Recipe(cases=4, shape=(12, 18, 16))
FULL = "3d_fullres"


class Watcher:
    """Notes what is told, and asks to stop when it is to."""

    def __init__(self) -> None:
        self.epochs: list[EpochRecord] = []
        self.stages: set[str] = set()
        self.is_stopping = False

    def report(self, progress: Progress) -> None:
        self.stages.add(progress.stage)

    def record_epoch(self, epoch: EpochRecord) -> None:
        self.epochs.append(epoch)

    def stop_requested(self) -> bool:
        return self.is_stopping


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("together") / "raw", RECIPE)


def task_in(raw: Path, model: Path, **settings: Any) -> Task:
    return Task(
        raw=raw,
        plan=cascade_plan(),
        configuration=FULL,
        fold=0,
        settings=TrainingSettings.model_validate(
            SETTINGS | {"epochs": 2, "iterations_per_epoch": 3} | settings
        ),
        model=model,
        threads=1,
    )


def shared(task: Task) -> Shared:
    return Shared(task=task, job_id="42", log_format="plain", log_level="INFO")


def test_what_is_shared_arrives_as_it_was_sent(raw: Path, tmp_path: Path) -> None:
    task = task_in(raw, tmp_path / "model", loss="ce").model_copy(update={"previous": (tmp_path / "before",)})

    shared(task).write(tmp_path / "shared.json")

    read = Shared.model_validate_json((tmp_path / "shared.json").read_bytes()).task
    assert read == task
    assert read.plan.to_json() == task.plan.to_json()


def test_two_processes_train_what_one_trains(raw: Path, tmp_path: Path) -> None:
    alone, together = Watcher(), Watcher()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = pipeline.train(task_in(raw, tmp_path / "one").order(), alone)
    torch.set_num_threads(threads)

    two = train_together(shared(task_in(raw, tmp_path / "two")), 2, tmp_path, together)

    losses = [[epoch.train_loss for epoch in watcher.epochs] for watcher in (alone, together)]
    assert losses[1] == pytest.approx(losses[0], abs=5e-3)  # In bfloat16; float32 agrees to 2e-7.
    assert two.foreground_mean.dice == pytest.approx(one.foreground_mean.dice, abs=0.02)
    assert {"train", "validate"} <= together.stages
    assert (tmp_path / "two" / "fold_0" / "weights.safetensors").is_file()


def partners(watcher: Watcher) -> list[int]:
    """Return the two processes that train, in the order of their ranks, once an epoch is done."""

    def found() -> list[int] | None:
        everything = descendants_of(os.getpid())
        pids = sorted(pid for pid, command in everything.items() if "-m worker.partner" in command)
        return pids if watcher.epochs and len(pids) == 2 else None

    return wait_for(found, seconds=60)


def test_a_wish_to_stop_ends_all_processes_with_a_checkpoint(raw: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    task = task_in(raw, tmp_path / "model", epochs=5000)

    pids: list[int] = []

    def ask_to_stop() -> None:
        pids.extend(partners(watcher))
        watcher.is_stopping = True

    with meanwhile(ask_to_stop), pytest.raises(CancelledError):
        train_together(shared(task), 2, tmp_path, watcher)

    found = pipeline.find_checkpoint(tmp_path / "model" / "fold_0")
    assert found is not None
    assert found[1] >= len(watcher.epochs) > 0
    require_ended(pids)


def test_the_death_of_one_process_ends_all_and_is_no_mistake_of_ours(raw: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    task = task_in(raw, tmp_path / "model", epochs=5000)

    pids: list[int] = []

    def kill_one() -> None:
        pids.extend(partners(watcher))
        kill(pids[1])

    with meanwhile(kill_one), pytest.raises(DeathError, match="a process of the training died"):
        train_together(shared(task), 2, tmp_path, watcher)

    require_ended(pids)


def test_an_error_on_purpose_arrives_with_its_sentence(raw: Path, tmp_path: Path) -> None:
    task = task_in(raw, tmp_path / "model").model_copy(update={"fold": -1})

    with pytest.raises(TrainingError, match="fold -1 does not exist") as raised:
        train_together(shared(task), 2, tmp_path, Watcher())

    assert (raised.value.kind, raised.value.context) == ("training-failed", {"fold": -1})


def test_processes_end_with_the_one_that_asked_for_them(raw: Path, tmp_path: Path) -> None:
    shared(task_in(raw, tmp_path / "model", epochs=5000)).write(tmp_path / "shared.json")
    program = (
        "import os, time; from worker.process import Child;"
        f"child = Child('worker.launcher', None, ('2', {str(tmp_path / 'shared.json')!r}, str(os.getpid())));"
        "time.sleep(1000)"
    )
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", program], os.environ)  # noqa: TID251
    started = wait_for(lambda: list(descendants_of(pid)) if len(descendants_of(pid)) >= 3 else None)

    kill(pid)
    os.waitpid(pid, 0)

    require_ended(started)


def test_no_more_processes_than_samples_and_one_for_batch_norm() -> None:
    plan = cascade_plan()
    assert fitting(8, plan.configuration(FULL)) == plan.configuration(FULL).batch_size
    network = architecture(3)
    network["arch_kwargs"]["norm_op"] = "torch.nn.modules.batchnorm.BatchNorm3d"
    full = plan.configurations[FULL] | {"architecture": network}
    batch_norm = plan.model_copy(update={"configurations": {FULL: full}})
    assert fitting(8, batch_norm.configuration(FULL)) == 1
