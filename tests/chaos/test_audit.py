"""An audit that cannot fail is worth nothing: each finds the defect that is planted, and nothing in a sound world."""

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import remains
from tests.chaos.audit import PREDICTED, Figure, Tables, audit, orphans, read_tables, unused
from tests.chaos.clients import Told

DATASET, TRAINING, PREDICTION, MODEL = (f"00000000-0000-0000-0000-00000000000{n}" for n in range(4))

EPOCHS = 3

Row = dict[str, Any]


@dataclass
class World:
    """What a run without faults leaves."""

    tables: Tables
    store: Path
    told: list[Told]

    def figures(self) -> set[Figure]:
        return {finding.figure for finding in audit(self.tables, self.store, self.told)}

    def rows(self, table: str) -> list[Row]:
        found: list[Row] = getattr(self.tables, table)
        return found

    def job(self, kind: str) -> Row:
        return next(row for row in self.rows("jobs") if row["kind"] == kind)


@pytest.fixture
def world(tmp_path: Path) -> World:
    objects: list[Row] = []

    def stored(key: str, content: str = "content") -> Row:
        file = tmp_path / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        digest = hashlib.sha256(content.encode()).hexdigest()
        ref = {"key": key, "sha256": digest, "size_bytes": len(content)}
        objects.append(ref)
        return ref

    lines = [{"epoch": n, "learning_rate": 0.01 * (1 - n / EPOCHS) ** 0.9} for n in range(EPOCHS)]
    archive = stored("datasets/d/archive.zip")
    plans = stored("plan/plan/1/plans.json")
    arrays = stored("preprocess/preprocess/1/0/voxels.bin")
    curve = stored("train/train/2/epochs.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    weights = stored("train/train/2/weights.safetensors", "weights")
    segmentation = stored("predict/predict/1/segmentation.nii.gz")
    settings = {"settings": {"epochs": EPOCHS}, "fold": 0}
    jobs = [
        job("ingest", {"archive": archive}, {}, dataset_id=DATASET),
        job("training", None, None, training_id=TRAINING),
        job("plan", {"archive": archive}, {"plans.json": plans}, parent_id="training"),
        job("preprocess", {"plans": plans}, {"0/voxels.bin": arrays}, parent_id="training"),
        job("train", settings, {"epochs.jsonl": curve, "w": weights}, parent_id="training", fence=2),
        job("select", {}, {"fold_0/w": weights, "plans.json": plans}, parent_id="training"),
        job("predict", {}, {"segmentation.nii.gz": segmentation}, prediction_id=PREDICTION),
    ]
    told = [
        Told("dataset", "key 0", DATASET, "ingest"),
        Told("training", "key 1", TRAINING, "training"),
        Told("prediction", "key 2", PREDICTION, "predict", sha256=segmentation["sha256"]),
    ]
    tables = Tables(
        jobs=jobs,
        events=[*successes(jobs), *epochs_told(lines)],
        epochs=[{"job_id": "train", "epoch": line["epoch"], "record": line} for line in lines],
        objects=objects,
        datasets=[{"id": DATASET, "state": "ready", "archive_key": archive["key"], "fingerprint_key": None}],
        trainings=[{"id": TRAINING, "request": {"folds": [0]}, "plans_key": plans["key"]}],
        models=[{"id": MODEL, "files": {"fold_0/w": weights}}],
        predictions=[
            {"id": PREDICTION, **dict.fromkeys(PREDICTED), "segmentation_key": segmentation["key"]},
        ],
        keys=[{"key": one.key, "resource_id": one.id, "job_id": one.job_id} for one in told],
    )
    return World(copy.deepcopy(tables), tmp_path, told)


def job(kind: str, payload: Row | None, files: Row | None, **columns: Any) -> Row:
    return {
        "id": kind,
        "kind": kind,
        "state": "succeeded",
        "payload": payload,
        "result": None if files is None else {"files": files},
        "checkpoint": None,
        "error": None,
        "fence": 1,
        **dict.fromkeys(("parent_id", "dataset_id", "training_id", "prediction_id")),
        **columns,
    }


def event(number: int, job_id: str, kind: str, **columns: Any) -> Row:
    return {"id": number, "job_id": job_id, "kind": kind, "after": "running", "content": None, **columns}


def successes(jobs: list[Row]) -> list[Row]:
    return [event(number, one["id"], "state", after="succeeded") for number, one in enumerate(jobs)]


def epochs_told(lines: list[Row]) -> list[Row]:
    return [event(50 + number, "train", "epoch", content=line) for number, line in enumerate(lines)]


def test_a_sound_world_has_nothing_wrong(world: World) -> None:
    assert audit(world.tables, world.store, world.told) == []
    assert orphans(world.tables, world.store) == []
    assert unused(world.tables) == []


def lose_a_job(world: World) -> None:
    world.rows("jobs").remove(world.job("predict"))


def leave_a_job_running(world: World) -> None:
    world.job("select")["state"] = "running"


def fail_a_job(world: World) -> None:
    world.job("ingest")["state"] = "failed"


def succeed_where_a_cancel_was_granted(world: World) -> None:
    world.told[1].ends = "canceled"


def leave_a_dataset_unchecked(world: World) -> None:
    world.rows("datasets")[0]["state"] = "ingesting"


def send_another_segmentation(world: World) -> None:
    world.told[2].sha256 = "another"


def make_a_dataset_twice(world: World) -> None:
    world.rows("datasets").append({**world.tables.datasets[0], "id": MODEL})


def queue_a_prediction_twice(world: World) -> None:
    world.rows("jobs").append({**world.job("predict"), "id": "second"})


def forget_a_key(world: World) -> None:
    world.rows("keys")[0]["resource_id"] = MODEL


def train_a_fold_twice(world: World) -> None:
    world.rows("jobs").append({**world.job("train"), "id": "second"})


def succeed_twice(world: World) -> None:
    world.rows("events").append(event(99, "ingest", "state", after="succeeded"))


def succeed_under_an_older_fence(world: World) -> None:
    world.job("plan")["fence"] = 2


def succeed_without_a_word(world: World) -> None:
    world.rows("events").pop(0)


def damage_a_file(world: World) -> None:
    (world.store / "train/train/2/weights.safetensors").write_text("weight$")


def delete_a_file(world: World) -> None:
    (world.store / "datasets/d/archive.zip").unlink()


def forget_an_object(world: World) -> None:
    world.rows("objects").pop(-1)


def point_at_another_content(world: World) -> None:
    world.tables.models[0]["files"]["fold_0/w"]["sha256"] = "another"


def point_at_a_checkpoint_that_is_gone(world: World) -> None:
    gone = {"key": "train/train/1/checkpoint-1.safetensors", "sha256": "", "size_bytes": 1}
    world.job("train")["checkpoint"] = {"file": gone, "epochs": 1}


def miss_an_epoch(world: World) -> None:
    world.rows("epochs").pop(1)


def publish_an_epoch_too_few(world: World) -> None:
    file = world.store / "train/train/2/epochs.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def record_an_epoch_too_many(world: World) -> None:
    record = {**world.tables.epochs[-1]["record"], "epoch": EPOCHS}
    world.rows("epochs").append({"job_id": "train", "epoch": EPOCHS, "record": record})


def tell_an_epoch_twice(world: World) -> None:
    again = {**world.tables.events[-1], "id": 99}
    world.rows("events").append(again)


def go_back_in_secret(world: World) -> None:
    events = world.rows("events")
    events[-1]["content"], events[-2]["content"] = events[-2]["content"], events[-1]["content"]


def learn_at_another_rate(world: World) -> None:
    world.tables.epochs[1]["record"]["learning_rate"] = 0.01


@pytest.mark.parametrize(
    ("plant", "figure"),
    [
        (lose_a_job, "lost"),
        (leave_a_job_running, "lost"),
        (fail_a_job, "lost"),
        (succeed_where_a_cancel_was_granted, "lost"),
        (leave_a_dataset_unchecked, "lost"),
        (send_another_segmentation, "lost"),
        (make_a_dataset_twice, "doubled"),
        (queue_a_prediction_twice, "doubled"),
        (forget_a_key, "doubled"),
        (train_a_fold_twice, "doubled"),
        (succeed_twice, "committed_twice"),
        (succeed_under_an_older_fence, "committed_twice"),
        (succeed_without_a_word, "committed_twice"),
        (damage_a_file, "hashes_wrong"),
        (delete_a_file, "hashes_wrong"),
        (forget_an_object, "hashes_wrong"),
        (point_at_another_content, "hashes_wrong"),
        (point_at_a_checkpoint_that_is_gone, "hashes_wrong"),
        (miss_an_epoch, "epochs_missing"),
        (publish_an_epoch_too_few, "epochs_missing"),
        (record_an_epoch_too_many, "epochs_doubled"),
        (tell_an_epoch_twice, "epochs_doubled"),
        (go_back_in_secret, "epochs_wrong"),
        (learn_at_another_rate, "epochs_wrong"),
    ],
)
def test_a_planted_defect_is_found(world: World, plant: Callable[[World], None], figure: Figure) -> None:
    plant(world)

    assert figure in world.figures()


def test_epochs_that_are_done_again_after_a_step_back_are_in_order(world: World) -> None:
    last = world.rows("events")[-1]
    first_try = {**last, "content": {**last["content"], "seconds": 1}}
    back = event(98, "train", "resumed", content={"epoch": EPOCHS - 1})
    world.rows("events")[-1:] = [first_try, back, {**last, "id": 99}]

    assert world.figures() == set()


def test_files_without_a_row_and_rows_without_a_use_are_counted(world: World) -> None:
    (world.store / "train/train/1").mkdir()
    (world.store / "train/train/1/weights.safetensors").write_text("of an attempt that was cut off")
    world.rows("predictions")[0]["segmentation_key"] = None
    world.job("predict")["result"] = None

    assert orphans(world.tables, world.store) == ["train/train/1/weights.safetensors"]
    assert unused(world.tables) == ["predict/predict/1/segmentation.nii.gz"]


def test_the_tables_of_the_service_are_read_as_they_are(database_url: str) -> None:
    assert read_tables(database_url) == Tables([], [], [], [], [], [], [], [], [])


def test_tracebacks_are_counted_by_error_and_place(tmp_path: Path) -> None:
    entry = (
        "2026-01-01 00:00:0{second},000 ERROR app.api.problems: database error\n"
        "Traceback (most recent call last):\n"
        '  File "/home/someone/app/services/following.py", line {line}, in find\n'
        '  File "/home/someone/.venv/lib/python3.11/site-packages/psycopg/connection.py", line 1, in connect\n'
        "psycopg.OperationalError: port {second} refuses\n"
    )
    log = tmp_path / "log"
    log.write_text("".join(entry.format(second=second, line=7) for second in range(3)) + "and then\n")

    assert remains.tracebacks(log) == {
        "psycopg.OperationalError: port … refuses (app/services/following.py:7 find)": 3
    }
