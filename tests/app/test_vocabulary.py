"""What app says of the engine without importing it, and the records that cross a process border."""

from uuid import uuid4

import pytest

from app.jobs import FINAL_STATES, LANES, PROBLEM_TYPE, TRANSITIONS, JobKind, JobState, problem_of
from app.payloads import PAYLOAD, RESULTS, ObjectRef, PlanPayload, PredictPayload, PreprocessPayload
from app.requests import CROSS_VALIDATION_FOLDS, TrainingRequest
from app.services.formats import ENDINGS
from core.domain.model import PredictionOptions
from core.errors import DatasetError
from core.io.readers import known_endings
from core.planning.presets import PRESETS
from core.training.splits import cross_validation


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_of_the_planner_may_be_asked_for(preset: str) -> None:
    request = TrainingRequest.model_validate({"dataset_id": uuid4(), "preset": preset})

    assert request.preset == preset


def test_a_job_of_the_release_before_is_still_understood() -> None:
    ref = {"key": "a", "sha256": "0", "size_bytes": 1}
    names = {"training_id": str(uuid4()), "dataset_id": str(uuid4()), "dataset_name": "Liver"}
    choices = {"preset": "default", "gpu_memory_gb": None, "configurations": None}

    payload = PAYLOAD.validate_python(
        {"kind": "plan", **names, "archive": ref, "fingerprint": None, **choices}
    )

    assert isinstance(payload, PlanPayload)
    assert (payload.plans, payload.plan_id, payload.target_spacing) == (None, None, None)


def test_a_prediction_that_the_release_before_queued_has_the_defaults() -> None:
    payload = PAYLOAD.validate_python(
        {
            "kind": "predict",
            "prediction_id": str(uuid4()),
            "model_id": str(uuid4()),
            "model_files": {},
            "channels": [],
            "file_ending": ".nii",
        }
    )

    assert isinstance(payload, PredictPayload)
    assert payload.choices.options == PredictionOptions()


def test_whatever_format_can_be_learnt_from_can_be_predicted() -> None:
    assert set(ENDINGS) == set(known_endings())


def test_the_engine_splits_as_many_cases_as_a_training_asks_for_and_no_fewer() -> None:
    cases = [f"case_{number}" for number in range(CROSS_VALIDATION_FOLDS)]

    assert len(cross_validation(cases)) == CROSS_VALIDATION_FOLDS


def test_every_kind_has_a_lane_and_all_but_the_parent_a_result() -> None:
    assert set(LANES) == set(JobKind)
    assert set(RESULTS) == set(JobKind) - {JobKind.TRAINING}


def test_nothing_leads_out_of_success_and_only_a_retry_out_of_the_other_ends() -> None:
    outs = {state: TRANSITIONS[state] for state in FINAL_STATES}

    again = {JobState.QUEUED, JobState.WAITING, JobState.PAUSED}
    assert outs == {JobState.SUCCEEDED: set(), JobState.FAILED: again, JobState.CANCELED: again}
    assert all(TRANSITIONS[state] for state in set(JobState) - FINAL_STATES)


def test_a_payload_comes_back_from_its_json() -> None:
    ref = ObjectRef(key="a", sha256="0", size_bytes=1)
    payload = PreprocessPayload(training_id=uuid4(), archive=ref, plans=ref, configuration="2d", digest="d")

    assert PAYLOAD.validate_python(payload.model_dump(mode="json")) == payload


@pytest.mark.parametrize("context", [{"case": "x"}, {"type": "mine", "detail": "mine"}])
def test_a_problem_keeps_its_own_words_beside_its_context(context: dict[str, str]) -> None:
    document = problem_of(DatasetError("case x has no label", **context))

    assert (document["type"], document["detail"]) == (f"{PROBLEM_TYPE}invalid-dataset", "case x has no label")
    assert document.get("case") == context.get("case")
