"""The jobs of a training: what waits for what, what one's end means for the others and for the parent."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from app.db.base import transaction
from app.db.models import Job, StoredObject, TrainedModel
from app.jobs import JobKind, JobState
from app.payloads import VALIDATED_FILE, PlannedConfiguration, PlanResult, SelectPayload, TrainPayload
from app.services import jobs, stages, steering
from app.services.resources import Resources
from core.domain.training import Fold
from tests.app import playing


def children(resources: Resources, parent_id: UUID) -> list[Job]:
    with transaction(resources.readers) as session:
        return list(session.scalars(select(Job).where(Job.parent_id == parent_id).order_by(Job.created_at)))


def test_a_plan_brings_the_other_jobs(resources: Resources) -> None:
    dataset_id = playing.ready_dataset(resources)
    submission = playing.training(resources, dataset_id, configurations=["2d", "3d_fullres"], folds=[0, 3])

    playing.finish(resources.sessions, playing.claim(resources.sessions))

    jobs_made = [(job.kind, job.state) for job in children(resources, submission.job_id)]
    assert jobs_made == [
        (JobKind.PLAN, JobState.SUCCEEDED),
        *[(JobKind.PREPROCESS, JobState.QUEUED), *[(JobKind.TRAIN, JobState.WAITING)] * 2] * 2,
        (JobKind.SELECT, JobState.WAITING),
    ]


CASCADE = PlanResult(
    files={},
    configurations=("2d", "3d_cascade_fullres"),
    planned=(
        PlannedConfiguration(name="2d"),
        PlannedConfiguration(name="3d_lowres"),
        PlannedConfiguration(name="3d_fullres"),
        PlannedConfiguration(name="3d_cascade_fullres", previous_stage="3d_lowres"),
    ),
)


@pytest.mark.parametrize(
    ("folds", "needed"), [((0,), (0, 1, 2, 3, 4)), ((6, 1), (6, 1, 0, 2, 3, 4)), (("all",), ("all",))]
)
def test_the_stage_before_is_trained_on_every_fold_and_first(
    folds: tuple[Fold, ...], needed: tuple[Fold, ...]
) -> None:
    assert stages.stages(CASCADE, folds, 5) == [
        stages.Stage("2d", None, folds),
        stages.Stage("3d_lowres", None, needed),
        stages.Stage("3d_cascade_fullres", "3d_lowres", folds),
    ]


def test_a_later_stage_waits_for_all_folds_of_the_one_before(resources: Resources) -> None:
    submission = playing.training(
        resources, playing.ready_dataset(resources), configurations=["3d_cascade_fullres"], folds=[0]
    )
    plan = playing.claim(resources.sessions)
    made = playing.typical_result(plan)
    assert isinstance(made, PlanResult)
    playing.finish(
        resources.sessions,
        plan,
        CASCADE.model_copy(update={"files": made.files, "configurations": ("3d_cascade_fullres",)}),
    )

    played = playing.play_all(resources.sessions)

    trained = [one.order.payload for one in played if one.kind is JobKind.TRAIN]
    names = [(one.configuration, one.fold) for one in trained if isinstance(one, TrainPayload)]
    assert names == [*[("3d_lowres", fold) for fold in range(5)], ("3d_cascade_fullres", 0)]
    cascade = next(
        one.order
        for one in played
        if isinstance(one.order.payload, TrainPayload) and one.order.payload.configuration != "3d_lowres"
    )
    assert [one.fold for one in cascade.trained] == [0, 1, 2, 3, 4]
    last = played[-1].order.payload
    assert isinstance(last, SelectPayload)
    assert last.configurations == ("3d_cascade_fullres",)
    assert last.previous_stages == {"3d_cascade_fullres": "3d_lowres"}
    assert playing.job_row(resources.sessions, submission.job_id).state is JobState.SUCCEEDED


def test_a_training_goes_through_to_its_model(resources: Resources) -> None:
    submission = playing.training(
        resources, playing.ready_dataset(resources), folds=[0, 1], epochs=7, seed=3, name="Ours"
    )

    played = playing.play_all(resources.sessions)

    assert [one.kind for one in played] == [
        JobKind.PLAN,
        JobKind.PREPROCESS,
        JobKind.TRAIN,
        JobKind.TRAIN,
        JobKind.SELECT,
    ]
    payload = played[2].order.payload
    assert isinstance(payload, TrainPayload)
    assert (payload.fold, payload.settings.epochs, payload.settings.seed) == (0, 7, 3)
    assert [one.fold for one in played[-1].order.trained] == [0, 1]
    parent = playing.job_row(resources.sessions, submission.job_id)
    with transaction(resources.readers) as session:
        model = session.scalars(select(TrainedModel)).one()
    assert parent.state is JobState.SUCCEEDED
    assert parent.result == {"training_id": str(submission.id), "model_id": str(model.id)}
    assert (model.name, model.channels, model.folds) == ("Ours", ["MRI"], [0, 1])


def test_what_folds_segmented_is_kept_until_the_model_is_there(resources: Resources) -> None:
    dataset_id = playing.ready_dataset(resources)
    submission = playing.training(resources, dataset_id, configurations=["2d", "3d_fullres"], folds=[0, 1])

    payloads = [one.order.payload for one in playing.play_all(resources.sessions)]

    wanted = [one for one in payloads if isinstance(one, TrainPayload)]
    assert [one.kept for one in wanted] == ["probabilities"] * 4
    assert [one.ensembling for one in payloads if isinstance(one, SelectPayload)] == [True]
    with transaction(resources.readers) as session:
        known = set(session.scalars(select(StoredObject.key)))
    assert any(key.endswith("weights.safetensors") for key in known)
    assert not [key for key in known if key.endswith(VALIDATED_FILE)]
    with transaction(resources.readers) as session:
        trained = select(Job.result).where(Job.kind == JobKind.TRAIN, Job.parent_id == submission.job_id)
        results = list(session.scalars(trained))
    assert [set(result["files"]) for result in results] == [{"weights.safetensors"}] * 4


@pytest.mark.parametrize(
    "body", [{"configurations": ["2d"]}, {"configurations": ["2d", "3d_fullres"], "ensembling": False}]
)
def test_probabilities_are_kept_only_for_ensembles(resources: Resources, body: dict[str, Any]) -> None:
    playing.training(resources, playing.ready_dataset(resources), folds=[0], **body)

    payloads = [one.order.payload for one in playing.play_all(resources.sessions)]

    assert {one.kept for one in payloads if isinstance(one, TrainPayload)} == {"segmentations"}
    assert not any(one.ensembling for one in payloads if isinstance(one, SelectPayload))


def test_nothing_is_kept_of_folds_that_are_not_compared(resources: Resources) -> None:
    playing.training(
        resources,
        playing.ready_dataset(resources),
        configurations=["2d", "3d_cascade_fullres"],
        folds=[0],
    )
    plan = playing.claim(resources.sessions)
    made = playing.typical_result(plan)
    assert isinstance(made, PlanResult)
    playing.finish(resources.sessions, plan, CASCADE.model_copy(update={"files": made.files}))

    payloads = [one.order.payload for one in playing.play_all(resources.sessions)]

    kept = {(one.configuration, one.fold): one.kept for one in payloads if isinstance(one, TrainPayload)}
    assert {key for key, what in kept.items() if what == "probabilities"} == {
        ("2d", 0),
        ("3d_cascade_fullres", 0),
    }
    assert {what for key, what in kept.items() if key[0] == "3d_lowres"} == {"nothing"}


def test_jobs_of_the_release_before_compare_single_configurations() -> None:
    ref = {"key": "a", "sha256": "0" * 64, "size_bytes": 1}
    common = {"training_id": str(uuid4()), "archive": ref, "plans": ref, "fingerprint": ref}

    select_payload = SelectPayload.model_validate(common)
    train_payload = TrainPayload.model_validate({**common, "configuration": "2d", "fold": 0, "settings": {}})

    assert (select_payload.ensembling, train_payload.kept) == (False, "segmentations")


def test_the_parent_runs_while_its_children_do(resources: Resources) -> None:
    submission = playing.training(resources, playing.ready_dataset(resources))
    before = playing.job_row(resources.sessions, submission.job_id).state

    playing.claim(resources.sessions)

    assert before is JobState.QUEUED
    parent = playing.job_row(resources.sessions, submission.job_id)
    assert parent.state is JobState.RUNNING
    assert parent.started_at is not None


def test_a_training_whose_plan_fails_has_failed_with_its_words(resources: Resources) -> None:
    submission = playing.training(resources, playing.ready_dataset(resources))

    playing.fail(resources.sessions, playing.claim(resources.sessions), "the plan has no 3d_fullres")

    parent = playing.job_row(resources.sessions, submission.job_id)
    assert parent.state is JobState.FAILED
    assert parent.error is not None
    assert (parent.error["detail"], parent.error["job"]) == ("the plan has no 3d_fullres", "plan")


def test_what_waited_for_a_failed_job_is_canceled_and_says_why(resources: Resources) -> None:
    submission = playing.training(resources, playing.ready_dataset(resources), folds=[0, 1])
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    playing.fail(resources.sessions, playing.claim(resources.sessions), "case 7 has no label")

    found = {job.kind: job for job in children(resources, submission.job_id)}
    assert found[JobKind.TRAIN].state is JobState.CANCELED
    assert (found[JobKind.TRAIN].error or {})["detail"] == (
        "canceled because preprocess 3d_fullres failed: case 7 has no label"
    )
    assert found[JobKind.SELECT].state is JobState.CANCELED
    assert playing.job_row(resources.sessions, submission.job_id).state is JobState.FAILED
    assert playing.try_claim(resources.sessions) is None


def test_other_folds_go_on_after_one_has_failed(resources: Resources) -> None:
    submission = playing.training(resources, playing.ready_dataset(resources), folds=[0, 1])
    for _ in range(2):
        playing.finish(resources.sessions, playing.claim(resources.sessions))

    playing.fail(resources.sessions, playing.claim(resources.sessions))
    between = playing.job_row(resources.sessions, submission.job_id).state
    playing.play_all(resources.sessions)

    assert between is JobState.RUNNING
    assert playing.job_row(resources.sessions, submission.job_id).state is JobState.FAILED
    found = playing.states(resources.sessions)
    assert found[JobKind.TRAIN] == [JobState.FAILED, JobState.SUCCEEDED]
    assert found[JobKind.SELECT] == [JobState.CANCELED]


def test_canceling_a_training_cancels_all_its_jobs(resources: Resources) -> None:
    submission = playing.training(resources, playing.ready_dataset(resources), folds=[0, 1])
    for _ in range(2):
        playing.finish(resources.sessions, playing.claim(resources.sessions))
    running = playing.claim(resources.sessions)

    with transaction(resources.sessions) as session:
        steering.cancel(session, submission.job_id)
    between = playing.states(resources.sessions)
    with transaction(resources.sessions) as session:
        jobs.give_back(session, running, "asked to stop")

    assert between[JobKind.TRAINING] == [JobState.CANCELING]
    assert between[JobKind.TRAIN] == [JobState.CANCELING, JobState.CANCELED]
    parent = playing.job_row(resources.sessions, submission.job_id)
    assert parent.state is JobState.CANCELED
    assert (parent.error or {})["detail"] == "canceled by request"
    assert playing.try_claim(resources.sessions) is None


def test_a_training_that_has_not_begun_is_canceled_at_once(resources: Resources) -> None:
    submission = playing.training(resources, playing.ready_dataset(resources))

    with transaction(resources.sessions) as session:
        assert steering.cancel(session, submission.job_id).state is JobState.CANCELED

    assert playing.try_claim(resources.sessions) is None


def test_canceling_one_fold_ends_the_training_when_the_others_are_done(resources: Resources) -> None:
    submission = playing.training(resources, playing.ready_dataset(resources), folds=[0, 1])
    for _ in range(2):
        playing.finish(resources.sessions, playing.claim(resources.sessions))
    fold = next(job for job in children(resources, submission.job_id) if job.kind is JobKind.TRAIN)

    with transaction(resources.sessions) as session:
        steering.cancel(session, fold.id)
    playing.play_all(resources.sessions)

    parent = playing.job_row(resources.sessions, submission.job_id)
    assert parent.state is JobState.CANCELED
    assert "train 3d_fullres fold 0" in (parent.error or {})["detail"]


def test_a_second_training_reuses_the_fingerprint(resources: Resources) -> None:
    dataset_id = playing.ready_dataset(resources)
    playing.training(resources, dataset_id)
    first = playing.claim(resources.sessions)
    playing.finish(resources.sessions, first)

    playing.training(resources, dataset_id)

    while (taken := playing.claim(resources.sessions)).kind is not JobKind.PLAN:
        playing.finish(resources.sessions, taken)
    assert taken.order.payload.model_dump()["fingerprint"]["key"] == (
        playing.stored(first, "dataset_fingerprint.json").key
    )


def test_a_training_that_the_release_before_began_goes_on(resources: Resources) -> None:
    submission = playing.training(resources, playing.ready_dataset(resources), folds=[0])
    for _ in range(2):
        playing.finish(resources.sessions, playing.claim(resources.sessions))
    with transaction(resources.sessions) as session:
        done = session.scalars(select(Job).where(Job.kind == JobKind.PREPROCESS)).one()
        done.result = {"cases": 6}
        done.payload = {name: value for name, value in (done.payload or {}).items() if name != "digest"}

    taken = playing.claim(resources.sessions)
    playing.finish(resources.sessions, taken)
    playing.play_all(resources.sessions)

    assert (taken.kind, taken.order.preprocessed) == (JobKind.TRAIN, None)
    assert playing.job_row(resources.sessions, submission.job_id).state is JobState.SUCCEEDED
