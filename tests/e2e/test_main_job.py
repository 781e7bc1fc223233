"""From a zipped dataset to a model, through crashes: the real service on phantoms."""

import sys
from typing import Any

import pytest
from sqlalchemy import select

from app.db.models import Job, JobEvent, StoredObject
from app.jobs import JobKind, JobState
from tests.e2e.conftest import EPOCHS, RECIPE, World
from tests.e2e.running import Service, wait_for
from tests.factories import case_name

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


def test_the_dataset_shows_what_is_in_it(world: World) -> None:
    assert world.dataset["labels"] == {"background": 0, "left": 1, "right": 2}
    assert world.dataset["channels"] == ["channel0"]
    assert [case["case"] for case in world.dataset["cases"]] == [case_name(n) for n in range(RECIPE.cases)]
    assert world.dataset["cases"][0]["shape"] == list(RECIPE.shape)


def test_a_training_that_was_interrupted_three_times_succeeds(world: World) -> None:
    assert world.job["state"] == "succeeded", world.job["error"]
    assert (world.job["progress"]["percent"], world.job["queue"]["position"]) == (100, None)
    assert world.job["result"] == {"training_id": world.training["id"], "model_id": world.model_id}
    assert [job["kind"] for job in world.job["children"]] == ["plan", "preprocess", "train", "select"]
    assert {job["state"] for job in world.job["children"]} == {"succeeded"}
    assert world.job["children"][2]["attempt"] == 4


def test_each_interruption_is_on_record(world: World) -> None:
    rows = world.rows(
        select(JobEvent.note)
        .join(Job, Job.id == JobEvent.job_id)
        .where(Job.kind == JobKind.TRAIN, JobEvent.before == JobState.RUNNING)
        .where(JobEvent.after == JobState.QUEUED)
        .order_by(JobEvent.id)
    )

    assert [note for (note,) in rows] == [
        "its process was killed by signal 9, probably because the machine ran out of memory",
        "its worker fell silent",
        "the worker was asked to end",
    ]


def test_every_epoch_is_recorded_once(world: World) -> None:
    epochs = world.training["epochs"]

    assert [epoch["epoch"] for epoch in epochs] == list(range(EPOCHS))
    assert all(set(epoch["pseudo_dice"]) == {"left", "right"} for epoch in epochs)
    rates = [epoch["learning_rate"] for epoch in epochs]
    assert rates == sorted(rates, reverse=True)


def test_the_model_has_learnt(world: World) -> None:
    assert len(world.training["validation"]) == 2
    for score in world.training["validation"]:
        assert set(score["dice"]) == {"left", "right"}
        assert min(score["dice"].values()) > 0.5
    model = world.service.get(f"/models/{world.model_id}")
    assert model["mean_dice"] == world.training["mean_dice"] > 0.5


def test_what_is_in_the_store_is_what_the_tables_say(world: World) -> None:
    stored = world.data / "store"
    files = {str(file.relative_to(stored)) for file in stored.rglob("*") if file.is_file()}

    assert {key for (key,) in world.rows(select(StoredObject.key))} == files


def test_no_outbox_is_left(world: World) -> None:
    assert list((world.data / "workspace" / "outbox").iterdir()) == []


def test_a_second_training_preprocesses_and_measures_nothing_again(world: World) -> None:
    preprocessed = world.data / "workspace" / "preprocessed"
    before = {file: file.stat().st_mtime_ns for file in preprocessed.rglob("*") if file.suffix != ".lock"}
    accepted = world.service.train(
        world.dataset, folds=["all"], epochs=1, iterations_per_epoch=1, name="on all cases"
    )

    job = world.service.end_of(accepted["job_id"])

    assert job["state"] == "succeeded", job["error"]
    after = {file: file.stat().st_mtime_ns for file in preprocessed.rglob("*") if file.suffix != ".lock"}
    assert after == before
    model = world.service.get(f"/models/{job['result']['model_id']}")
    assert (model["name"], model["folds"]) == ("on all cases", ["all"])


def test_a_training_is_canceled_while_it_runs(world: World) -> None:
    accepted = world.service.train(world.dataset, folds=[1, 2], epochs=500, iterations_per_epoch=50)
    running = wait_for(lambda: _running_train(world.service, accepted["job_id"]))
    assert running["progress"]["stage"] == "train"

    answer = world.service.client.post(f"/jobs/{accepted['job_id']}/cancel")
    job = world.service.end_of(accepted["job_id"])

    assert answer.status_code in (200, 202), answer.text
    assert job["state"] == "canceled"
    assert job["error"]["detail"] == "canceled by request"
    states = {child["title"]: child["state"] for child in job["children"]}
    assert set(states.values()) == {"succeeded", "canceled"}
    assert all(child["error"]["detail"] for child in job["children"] if child["state"] == "canceled")
    assert world.service.get(f"/trainings/{accepted['id']}")["model_id"] is None


def test_the_log_tells_the_story_and_no_accident(world: World) -> None:
    log = world.log.read_text()

    assert "Traceback" not in log
    assert "job started" in log


def _running_train(service: Service, job_id: str) -> Any:
    children = service.get(f"/jobs/{job_id}")["children"]
    return next(
        (one for one in children if one["kind"] == "train" and one["progress"]["stage"] == "train"), None
    )
