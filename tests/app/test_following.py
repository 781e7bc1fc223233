"""The recipes of docs/following.md, run as they stand there; MLflow is played by a module that writes down."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.db.base import transaction
from app.services import jobs
from app.services.resources import Resources
from tests.app import playing
from tests.recipes import blocks

MLFLOW = """
import contextlib, json, types, uuid

class Run:
    def __init__(self, key, name):
        self.info, self.name = types.SimpleNamespace(run_id=key), name

current = []

@contextlib.contextmanager
def start_run(run_id=None, run_name=None):
    current.append(Run(run_id or str(uuid.uuid4()), run_name))
    yield current[-1]
    current.pop()

def log_metrics(metrics, step):
    assert all(isinstance(value, int | float) for value in metrics.values())
    print(json.dumps([current[-1].name, current[-1].info.run_id, step, metrics]))
"""


def run(folder: Path, script: str, argument: object) -> list[Any]:
    """Run a recipe to its end; return what MLflow was told: name of the run, its id, step, figures."""
    # Lies beside the recipe, where Python looks first.
    (folder / "mlflow.py").write_text(MLFLOW)
    (folder / "recipe.py").write_text(script)
    done = subprocess.run(
        [sys.executable, folder / "recipe.py", str(argument)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_fold_in_a_folder_is_followed_to_its_end(tmp_path: Path) -> None:
    fold = tmp_path / "fold_0"
    fold.mkdir()
    undefined = playing.epoch(1).model_copy(update={"validation_loss": None})
    lines = [playing.epoch(0).model_dump_json(), undefined.model_dump_json()]
    (fold / "epochs.jsonl").write_text("\n".join(lines))
    (fold / "fold.json").touch()

    told = run(tmp_path, blocks("following.md")[0], fold)

    assert [(name, step) for name, _, step, _ in told] == [("fold_0", 0), ("fold_0", 1)]
    assert told[0][3]["dice hippocampus"] == 0.7
    assert told[0][3]["validation_loss"] == -0.4
    assert "validation_loss" not in told[1][3]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_training_of_the_service_is_followed_to_its_end(
    client: httpx.Client, resources: Resources, tmp_path: Path
) -> None:
    submission = playing.upload(resources)
    taken = playing.claim(resources.sessions)
    with transaction(resources.sessions) as session:
        for number in range(2):
            jobs.record_epoch(session, taken, playing.epoch(number))
    playing.finish(resources.sessions, taken)
    folder = tmp_path / "recipe"
    folder.mkdir()

    told = run(
        folder, blocks("following.md")[1], f"{client.base_url}/jobs/{submission.job_id}".replace("//j", "/j")
    )

    assert [(name, step) for name, _, step, _ in told] == [("ingest", 0), ("ingest", 1)]
    assert len({key for _, key, _, _ in told}) == 1
    assert told[1][3]["dice hippocampus"] == 0.7
    assert "title" not in told[0][3]
