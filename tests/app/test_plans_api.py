"""Plans over HTTP: made, taken from another dataset, read with reasons, uploaded, deleted, trained with."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import delete, select, text, update

from app.db.base import transaction
from app.db.models import Dataset, DatasetCase, DatasetPlan, Job, StoredObject, Training
from app.jobs import JobKind, JobState
from app.payloads import ObjectRef, PlanPayload
from app.services import kept_plans
from app.services.resources import Resources
from app.settings import Settings
from core.planning.presets import PRESETS
from tests.app import plans, playing

POSTGRES = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
"""Where writers of different rows work at the same time; SQLite has one writer anyway."""


@pytest.fixture
def dataset_id(resources: Resources) -> UUID:
    return playing.ready_dataset(resources)


def ask(client: httpx.Client, dataset_id: UUID | str, **body: Any) -> httpx.Response:
    headers = body.pop("headers", {})
    return client.post(f"/datasets/{dataset_id}/plans", json=body, headers=headers)


def problem_of(response: httpx.Response, status: int) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    assert response.status_code == status, response.text
    return str(response.json()["detail"])


def files_in_store(settings: Settings) -> set[str]:
    folder = settings.resolved_store_dir
    found = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix() for file in found}


def rows_of_objects(resources: Resources) -> set[str]:
    with transaction(resources.readers) as session:
        return set(session.scalars(select(StoredObject.key)))


def wait_for_waiting(resources: Resources, transactions: int) -> None:
    """Wait until so many transactions wait for somebody's lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 20
    while True:
        with transaction(resources.readers) as session:
            if session.scalar(waiting) == transactions:
                return
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.01)


# Making a plan.


def test_planning_is_accepted_with_a_job_to_follow(client: httpx.Client, dataset_id: UUID) -> None:
    response = ask(client, dataset_id, preset="resenc_m", gpu_memory_gb=12, target_spacing=[3, 1, 1])

    body = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/jobs/{body['job_id']}"
    assert body["state"] == "planning"
    job = client.get(f"/jobs/{body['job_id']}").json()
    assert (job["kind"], job["title"]) == ("plan", "plan nnUNetResEncUNetMPlans")
    assert job["links"]["plan"] == body["links"]["self"]
    plan = client.get(body["links"]["self"]).json()
    assert (plan["state"], plan["origin"], plan["plan"]) == ("planning", "planned", None)
    assert plan["job_id"] == body["job_id"]
    assert (plan["decisions"], plan["prediction"], plan["configurations"]) == ([], None, [])
    assert plan["request"]["target_spacing"] == [3.0, 1.0, 1.0]


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_a_plan_is_called_as_its_preset_says(
    client: httpx.Client, dataset_id: UUID, preset: str | None
) -> None:
    response = ask(client, dataset_id, **({} if preset is None else {"preset": preset}))

    expected = PRESETS.get(preset or "default").plans_name
    assert client.get(response.json()["links"]["self"]).json()["name"] == expected


def test_the_worker_learns_all_that_was_chosen(
    client: httpx.Client, resources: Resources, dataset_id: UUID
) -> None:
    ask(client, dataset_id, name="mine", target_spacing=[3, 1, 1], suppress_transpose=True, gpu_memory_gb=12)

    payload = playing.claim(resources.sessions).order.payload

    assert isinstance(payload, PlanPayload)
    assert (payload.plans_name, payload.preset, payload.training_id) == ("mine", "default", None)
    assert (payload.target_spacing, payload.suppress_transpose) == ((3, 1, 1), True)
    assert (payload.gpu_memory_gb, payload.fingerprint, payload.plans) == (12, None, None)


def test_a_finished_plan_is_read_with_its_reasons(
    client: httpx.Client, resources: Resources, tmp_path: Path, dataset_id: UUID
) -> None:
    body = plans.ready_plan(client, resources, tmp_path, dataset_id)

    assert (body["state"], body["name"]) == ("ready", "nnUNetPlans")
    assert body["plan"] == plans.file()
    assert body["configurations"] == ["2d", "3d_fullres"]
    topics = {one["topic"] for one in body["decisions"]}
    assert topics
    assert all(one["reason"] for one in body["decisions"])
    assert body["prediction"] is None
    job = client.get(body["links"]["job"]).json()
    assert job["result"] == {"dataset_id": str(dataset_id), "plan": "nnUNetPlans"}
    listed = client.get(f"/datasets/{dataset_id}/plans").json()["items"]
    assert [(one["name"], one["state"], one["configurations"]) for one in listed] == [
        ("nnUNetPlans", "ready", ["2d", "3d_fullres"])
    ]


def test_reasons_name_the_memory_that_was_asked_for(
    client: httpx.Client, resources: Resources, tmp_path: Path, dataset_id: UUID
) -> None:
    def said(body: Any) -> str:
        return " ".join(one["reason"] for one in body["decisions"])

    chosen = plans.ready_plan(client, resources, tmp_path, dataset_id, gpu_memory_gb=4, name="small")
    usual = plans.ready_plan(client, resources, tmp_path, dataset_id)
    uploaded = plans.put(client, dataset_id, "mine", plans.file()).json()

    assert "for a GPU with 4 GB, and" in said(chosen)
    assert "8 GB" not in said(chosen)
    assert "for a GPU with 8 GB, and" in said(usual)
    assert "unless another target was given" in said(uploaded)


def test_for_an_image_shape_it_tells_what_prediction_takes(
    client: httpx.Client, resources: Resources, tmp_path: Path, dataset_id: UUID
) -> None:
    address = plans.ready_plan(client, resources, tmp_path, dataset_id)["links"]["self"]

    def peak(**image: str) -> dict[str, int]:
        told = client.get(address, params=image).json()["prediction"]
        assert all(one["reason"] for one in told)
        return {one["configuration"]: one["cpu_bytes"] for one in told}

    small, large = peak(image_shape="40,50,40"), peak(image_shape="400,500,400")
    finer = peak(image_shape="400, 500, 400", image_spacing="0.5,.5,5e-1")

    assert set(small) == set(large) == {"2d", "3d_fullres"}
    assert 0 < small["3d_fullres"] < large["3d_fullres"]
    assert finer["3d_fullres"] != large["3d_fullres"]


@pytest.mark.parametrize(
    "shape",
    [
        *("", "40", "40,50", "0,50,40", "-1,5,5", "a,b,c", "40,50,40,3", "1.5,5,5", "nan,5,5", "inf,5,5"),
        *("1e3,2,2", "2.0,2,2", "1_0,2,2", "٣,2,2", "+1,2,2", "0x1,2,2", "1;2;2", "1,2,"),
    ],
)
def test_what_is_no_shape_is_refused_with_an_example(
    client: httpx.Client, dataset_id: UUID, shape: str
) -> None:
    plans.put(client, dataset_id, "mine", plans.file())

    response = client.get(f"/datasets/{dataset_id}/plans/mine", params={"image_shape": shape})

    assert "image_shape=120,512,512" in problem_of(response, 422)


@pytest.mark.parametrize(
    "spacing", ["1,1", "0,1,1", "a,1,1", "1_0,1,1", "inf,1,1", "-1,1,1", "٣,1,1", "1e999,1,1"]
)
def test_what_is_no_spacing_is_refused_with_an_example(
    client: httpx.Client, dataset_id: UUID, spacing: str
) -> None:
    plans.put(client, dataset_id, "mine", plans.file())
    address = f"/datasets/{dataset_id}/plans/mine"

    alone = client.get(address, params={"image_spacing": "1,1,1"})
    wrong = client.get(address, params={"image_shape": "9,9,9", "image_spacing": spacing})

    assert "image_shape" in problem_of(alone, 422)
    assert "image_spacing=5,0.8,0.8" in problem_of(wrong, 422)


def test_the_fingerprint_is_computed_once_and_can_be_read(
    client: httpx.Client, resources: Resources, tmp_path: Path, dataset_id: UUID
) -> None:
    early = client.get(f"/datasets/{dataset_id}/fingerprint")
    plans.ready_plan(client, resources, tmp_path, dataset_id)
    ask(client, dataset_id, preset="resenc_l")

    payload = playing.claim(resources.sessions).order.payload
    dataset = client.get(f"/datasets/{dataset_id}").json()

    assert "POST" in problem_of(early, 404)
    assert dataset["has_fingerprint"]
    measured = client.get(dataset["links"]["fingerprint"])
    assert measured.headers["content-type"] == "application/json"
    assert measured.json() == plans.FINGERPRINT.to_json()
    assert isinstance(payload, PlanPayload)
    assert payload.fingerprint is not None


def test_the_same_name_again_is_refused_with_the_cure(client: httpx.Client, dataset_id: UUID) -> None:
    ask(client, dataset_id)

    detail = problem_of(ask(client, dataset_id, gpu_memory_gb=11), 409)

    assert "nnUNetPlans" in detail
    assert "another name" in detail
    assert "PUT" in detail
    assert ask(client, dataset_id, gpu_memory_gb=11, name="small").status_code == 202


def test_the_same_request_again_finds_the_first(client: httpx.Client, dataset_id: UUID) -> None:
    key = {"Idempotency-Key": "p"}

    first, again = (ask(client, dataset_id, headers=dict(key)) for _ in range(2))
    other = ask(client, dataset_id, preset="resenc", headers=dict(key))

    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert "Idempotency-Key" in problem_of(other, 422)


def test_a_client_may_wait_for_the_plan(client: httpx.Client, dataset_id: UUID) -> None:
    response = ask(client, dataset_id, headers={"Prefer": "wait=0"})

    assert (response.status_code, response.headers["preference-applied"]) == (202, "wait=0")


def test_a_plan_that_failed_says_why_and_is_tried_again(
    client: httpx.Client, resources: Resources, tmp_path: Path, dataset_id: UUID
) -> None:
    accepted = ask(client, dataset_id).json()
    playing.fail(resources.sessions, playing.claim(resources.sessions), "no patch fits the memory")
    failed = client.get(accepted["links"]["self"]).json()

    client.post(f"/jobs/{accepted['job_id']}/retry")
    again = client.get(accepted["links"]["self"]).json()
    plans.finish(resources, tmp_path, playing.claim(resources.sessions))

    assert (failed["state"], failed["error"]["detail"]) == ("failed", "no patch fits the memory")
    assert (again["state"], again["error"]) == ("planning", None)
    assert client.get(accepted["links"]["self"]).json()["state"] == "ready"


@pytest.mark.parametrize("how", ["failed", "canceled", "forgotten"])
def test_a_plan_that_could_not_be_made_leaves_its_name_to_the_next(
    client: httpx.Client, resources: Resources, settings: Settings, dataset_id: UUID, how: str
) -> None:
    key = {"Idempotency-Key": "p"}
    first = ask(client, dataset_id, gpu_memory_gb=0.001, headers=dict(key)).json()
    if how == "failed":
        playing.fail(resources.sessions, playing.claim(resources.sessions), "no patch fits the memory")
    elif how == "canceled":
        client.post(f"/jobs/{first['job_id']}/cancel")
    else:  # As the release before leaves it, which knows no plans.
        with transaction(resources.sessions) as session:
            session.execute(update(Job).where(Job.kind == JobKind.PLAN).values(state=JobState.FAILED))

    response = ask(client, dataset_id, gpu_memory_gb=8)
    again = ask(client, dataset_id, gpu_memory_gb=8)
    plans.finish(resources, settings.data_dir, playing.claim(resources.sessions))

    assert response.status_code == 202, response.text
    assert response.json()["id"] != first["id"]
    assert "another name" in problem_of(again, 409)
    (listed,) = client.get(f"/datasets/{dataset_id}/plans").json()["items"]
    assert (listed["state"], listed["job_id"]) == ("ready", response.json()["job_id"])
    assert "deleted or replaced" in problem_of(client.post(f"/jobs/{first['job_id']}/retry"), 409)
    assert "another name" in problem_of(ask(client, dataset_id, gpu_memory_gb=0.001, headers=dict(key)), 409)
    assert files_in_store(settings) == rows_of_objects(resources)


def test_a_plan_that_could_not_be_made_is_replaced_once(client: httpx.Client, dataset_id: UUID) -> None:
    accepted = ask(client, dataset_id).json()
    client.post(f"/jobs/{accepted['job_id']}/cancel")

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: ask(client, dataset_id), range(6)))

    assert sorted(answer.status_code for answer in answers) == [202, *[409] * 5]
    assert len(client.get(f"/datasets/{dataset_id}/plans").json()["items"]) == 1


def test_a_plan_that_could_not_be_made_gives_way_to_one_that_is_taken(
    client: httpx.Client, resources: Resources, settings: Settings, dataset_id: UUID
) -> None:
    other = playing.ready_dataset(resources)
    plans.put(client, dataset_id, "mine", plans.file())
    accepted = ask(client, other, name="mine").json()
    client.post(f"/jobs/{accepted['job_id']}/cancel")

    response = ask(client, other, **{"from": {"dataset_id": str(dataset_id), "plan": "mine"}})

    assert response.status_code == 201, response.text
    assert client.get(response.headers["location"]).json()["origin"] == "moved"
    assert files_in_store(settings) == rows_of_objects(resources)


def test_a_plan_whose_job_another_release_let_fail_counts_as_failed(
    client: httpx.Client, resources: Resources, dataset_id: UUID
) -> None:
    accepted = ask(client, dataset_id).json()
    with transaction(resources.sessions) as session:
        session.execute(
            update(Job).where(Job.kind == JobKind.PLAN).values(state=JobState.FAILED, lease_expires_at=None)
        )

    assert client.get(accepted["links"]["self"]).json()["state"] == "failed"
    assert client.delete(accepted["links"]["self"]).status_code == 204


def test_planning_can_be_canceled(client: httpx.Client, dataset_id: UUID) -> None:
    accepted = ask(client, dataset_id).json()

    client.post(f"/jobs/{accepted['job_id']}/cancel")

    assert client.get(accepted["links"]["self"]).json()["state"] == "failed"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preset", "resenc_xxl"),
        ("preset", None),
        ("gpu_memory_gb", 0),
        ("gpu_memory_gb", "much"),
        ("target_spacing", [1, 1]),
        ("target_spacing", [0, 1, 1]),
        ("target_spacing", "1,1,1"),
        ("suppress_transpose", "yes"),
        ("name", ""),
        ("name", "a/b"),
        ("name", "../up"),
        ("name", ".hidden"),
        ("name", "x" * 101),
        ("from", {"dataset_id": "5"}),
        ("from", {"dataset_id": str(uuid4()), "plan": ""}),
        ("source", {"dataset_id": str(uuid4()), "plan": "x"}),
        ("tenant_id", "me"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(
    client: httpx.Client, dataset_id: UUID, field: str, value: object
) -> None:
    if value is None:
        assert ask(client, dataset_id, **{field: value}).status_code == 202
        return

    assert field in problem_of(ask(client, dataset_id, **{field: value}), 422)


def test_only_a_ready_dataset_is_planned_for(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)

    answers = [ask(client, submission.id), plans.put(client, submission.id, "mine", plans.file())]
    unknown = [ask(client, uuid4()), plans.put(client, uuid4(), "mine", plans.file())]

    assert all("still being checked" in problem_of(answer, 409) for answer in answers)
    assert all("no dataset" in problem_of(answer, 404) for answer in unknown)


# Uploading a plan.


def test_an_edited_plan_is_kept_under_its_name(client: httpx.Client, dataset_id: UUID) -> None:
    response = plans.put(client, dataset_id, "mine", plans.file(batch_size=7) | {"note": "by hand"})

    body = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/datasets/{dataset_id}/plans/mine"
    assert (body["origin"], body["state"], body["job_id"]) == ("uploaded", "ready", None)
    assert body["plan"]["plans_name"] == "mine"
    assert body["plan"]["configurations"]["3d_fullres"]["batch_size"] == 7
    assert body["plan"]["note"] == "by hand"
    read = client.get(f"/datasets/{dataset_id}/plans/mine")
    assert read.json() == body
    assert read.headers["etag"] == response.headers["etag"]


def test_a_plan_that_was_read_is_sent_back_and_changes_nothing(
    client: httpx.Client, dataset_id: UUID
) -> None:
    first = plans.put(client, dataset_id, "mine", plans.file())

    again = plans.put(client, dataset_id, "mine", first.json()["plan"])

    assert (again.status_code, again.headers["etag"]) == (200, first.headers["etag"])


def test_replacing_a_plan_leaves_nothing_behind(
    client: httpx.Client, resources: Resources, settings: Settings, tmp_path: Path, dataset_id: UUID
) -> None:
    address = plans.ready_plan(client, resources, tmp_path, dataset_id)["links"]["self"]
    before = files_in_store(settings)

    response = plans.put(client, dataset_id, "nnUNetPlans", plans.file(batch_size=3))

    body = client.get(address).json()
    assert response.status_code == 200
    assert (body["origin"], body["job_id"], body["request"]) == ("uploaded", None, None)
    after = files_in_store(settings)
    assert after == rows_of_objects(resources)
    assert len(after) == len(before)
    assert list(before - after) == [key for key in before if key.endswith("/plans.json")]
    with transaction(resources.readers) as session:
        result = session.scalar(select(Job.result).where(Job.kind == JobKind.PLAN))
    assert result is not None
    assert set(result["files"]) == {"dataset_fingerprint.json"}


def test_every_mistake_is_named_at_once(
    client: httpx.Client, resources: Resources, settings: Settings, dataset_id: UUID
) -> None:
    values = plans.file(batch_size=0, spacing=[1, 1], normalization_schemes=["ZScoreNormalization"] * 2)
    values["configurations"]["2d"]["patch_size"] = [57, 40]
    values["transpose_backward"] = [0, 2, 1]

    response = plans.put(client, dataset_id, "mine", values)

    detail = problem_of(response, 422)
    places = {one["where"] for one in response.json()["problems"]}
    assert response.json()["code"] == "invalid-plan"
    assert {
        "transpose_backward",
        "configurations.2d.patch_size.0",
        "configurations.3d_fullres.batch_size",
    } <= places
    assert all(one["message"] in detail for one in response.json()["problems"])
    assert client.get(f"/datasets/{dataset_id}/plans").json()["items"] == []
    assert files_in_store(settings) == rows_of_objects(resources)


def test_a_plan_for_other_channels_is_refused(client: httpx.Client, dataset_id: UUID) -> None:
    values = plans.file(normalization_schemes=["ZScoreNormalization"] * 2, use_mask_for_norm=[False, False])

    response = plans.put(client, dataset_id, "mine", values)

    assert "1 channel" in problem_of(response, 422)


def test_a_plan_of_the_first_releases_is_taken(client: httpx.Client, dataset_id: UUID) -> None:
    values = plans.file()
    for entries in values["configurations"].values():
        arguments = entries.pop("architecture")["arch_kwargs"]
        entries |= {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 32,
            "unet_max_num_features": 512,
            "n_conv_per_stage_encoder": arguments["n_conv_per_stage"],
            "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
            "num_pool_per_axis": [3] * len(entries["patch_size"]),
            "pool_op_kernel_sizes": arguments["strides"],
            "conv_kernel_sizes": arguments["kernel_sizes"],
        }

    response = plans.put(client, dataset_id, "old", values)

    assert response.status_code == 201, response.text
    assert response.json()["configurations"] == ["2d", "3d_fullres"]


@pytest.mark.parametrize(
    ("content", "headers", "refused"),
    [
        (b"", plans.JSON, (422, "JSON")),
        (b"{", plans.JSON, (422, "JSON")),
        (b"[]", plans.JSON, (422, "object")),
        (b"[" * 100_000, plans.JSON, (422, "JSON")),
        (b"{}", plans.JSON, (422, "configurations")),
        (b"{}", {"Content-Type": "text/plain"}, (415, "text/plain")),
        (b"{}", {**plans.JSON, "Content-Encoding": "gzip"}, (415, "Content-Encoding")),
        (b" " * (8 * 1024**2 + 1), plans.JSON, (413, "8388608")),
    ],
)
def test_a_body_that_is_no_plan_is_refused_with_the_cure(
    client: httpx.Client, dataset_id: UUID, content: bytes, headers: dict[str, str], refused: tuple[int, str]
) -> None:
    response = client.put(f"/datasets/{dataset_id}/plans/mine", content=content, headers=headers)

    status, words = refused
    assert words in problem_of(response, status)


def test_a_large_plan_is_taken(client: httpx.Client, dataset_id: UUID) -> None:
    values = plans.file() | {"notes": "x" * (2 * 1024**2)}

    assert plans.put(client, dataset_id, "mine", values).status_code == 201


def test_nobody_overwrites_what_another_changed(client: httpx.Client, dataset_id: UUID) -> None:
    missing = plans.put(client, dataset_id, "mine", plans.file(), If_Match='"x"')
    created = plans.put(client, dataset_id, "mine", plans.file(), If_None_Match="*")
    taken = plans.put(client, dataset_id, "mine", plans.file(), If_None_Match="*")
    tag = created.headers["etag"]
    changed = plans.put(client, dataset_id, "mine", plans.file(batch_size=3), If_Match=f'"other", {tag}')
    late = plans.put(client, dataset_id, "mine", plans.file(batch_size=5), If_Match=tag)
    weak = plans.put(client, dataset_id, "mine", plans.file(), If_Match="W/" + changed.headers["etag"])
    address = f"/datasets/{dataset_id}/plans/mine"
    kept = client.delete(address, headers={"If-Match": tag})
    gone = client.delete(address, headers={"If-Match": changed.headers["etag"]})

    assert (created.status_code, changed.status_code, gone.status_code) == (201, 200, 204)
    assert changed.headers["etag"] != tag
    for refused in (missing, taken, late, weak, kept):
        assert problem_of(refused, 412)
        assert refused.json()["code"] == "precondition-failed"


def test_what_a_job_is_making_is_left_alone(client: httpx.Client, dataset_id: UUID) -> None:
    accepted = ask(client, dataset_id, name="mine").json()

    answers = [
        plans.put(client, dataset_id, "mine", plans.file()),
        client.delete(f"/datasets/{dataset_id}/plans/mine"),
        client.post("/train", json={"dataset_id": str(dataset_id), "plan": "mine"}),
    ]

    assert all(accepted["job_id"] in problem_of(answer, 409) for answer in answers)


def test_a_job_whose_plan_was_replaced_is_not_tried_again(
    client: httpx.Client, resources: Resources, dataset_id: UUID
) -> None:
    accepted = ask(client, dataset_id, name="mine").json()
    playing.fail(resources.sessions, playing.claim(resources.sessions))
    plans.put(client, dataset_id, "mine", plans.file())

    response = client.post(f"/jobs/{accepted['job_id']}/retry")

    assert "deleted or replaced" in problem_of(response, 409)
    assert client.get(accepted["links"]["self"]).json()["state"] == "ready"


# Taking a plan from another dataset.


def test_a_plan_moves_to_another_dataset(
    client: httpx.Client, resources: Resources, settings: Settings, dataset_id: UUID
) -> None:
    other = playing.ready_dataset(resources)
    plans.put(client, dataset_id, "mine", plans.file(batch_size=7))

    response = ask(client, other, **{"from": {"dataset_id": str(dataset_id), "plan": "mine"}}, name="theirs")

    body = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/datasets/{other}/plans/theirs"
    assert (body["origin"], body["state"], body["job_id"]) == ("moved", "ready", None)
    assert body["request"]["from"] == {"dataset_id": str(dataset_id), "plan": "mine"}
    assert (body["plan"]["plans_name"], body["plan"]["dataset_name"]) == ("theirs", "Hippocampus")
    assert body["plan"]["configurations"]["3d_fullres"]["batch_size"] == 7
    spacing = [one["reason"] for one in body["decisions"] if one["topic"] == "spacing"][-1]
    assert "as in the plan of the dataset that it comes from" in spacing
    assert client.get(response.headers["location"]).json() == body
    assert files_in_store(settings) == rows_of_objects(resources)


def test_a_move_that_is_sent_twice_is_done_once(
    client: httpx.Client, resources: Resources, settings: Settings, dataset_id: UUID
) -> None:
    other = playing.ready_dataset(resources)
    plans.put(client, dataset_id, "mine", plans.file())
    body = {"from": {"dataset_id": str(dataset_id), "plan": "mine"}}

    first, again = (ask(client, other, **body, headers={"Idempotency-Key": "m"}) for _ in range(2))
    third = ask(client, other, **body)

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert "mine" in problem_of(third, 409)
    assert files_in_store(settings) == rows_of_objects(resources)


@pytest.mark.parametrize("what", ["plan", "dataset"])
def test_a_move_that_is_sent_twice_is_answered_alike_although_its_source_is_gone(
    client: httpx.Client, resources: Resources, settings: Settings, dataset_id: UUID, what: str
) -> None:
    other = playing.ready_dataset(resources)
    plans.put(client, dataset_id, "mine", plans.file())
    body = {"from": {"dataset_id": str(dataset_id), "plan": "mine"}}
    key = {"Idempotency-Key": "m"}

    first = ask(client, other, **body, headers=dict(key))
    gone = client.delete(f"/datasets/{dataset_id}" + ("/plans/mine" if what == "plan" else ""))
    again = ask(client, other, **body, headers=dict(key))
    foreign = ask(client, other, **body, name="theirs", headers=dict(key))

    assert (first.status_code, gone.status_code, again.status_code) == (201, 204, 201)
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert "Idempotency-Key" in problem_of(foreign, 422)
    assert files_in_store(settings) == rows_of_objects(resources)


def test_a_plan_that_does_not_fit_does_not_move(
    client: httpx.Client, resources: Resources, dataset_id: UUID
) -> None:
    submission = playing.upload(resources)
    names = {"channel_names": {"0": "T1", "1": "T2"}}
    found = playing.ingest_result(6).model_copy(update={"description": playing.DESCRIPTION | names})
    playing.finish(resources.sessions, playing.claim(resources.sessions), found)
    plans.put(client, dataset_id, "mine", plans.file())

    response = ask(client, submission.id, **{"from": {"dataset_id": str(dataset_id), "plan": "mine"}})

    assert "2 channels (T1, T2)" in problem_of(response, 422)
    assert len(response.json()["problems"]) == 2


def test_only_a_ready_plan_moves(client: httpx.Client, resources: Resources, dataset_id: UUID) -> None:
    other = playing.ready_dataset(resources)
    source = {"dataset_id": str(dataset_id), "plan": "mine"}
    unknown = ask(client, other, **{"from": source})
    accepted = ask(client, dataset_id, name="mine").json()
    early = ask(client, other, **{"from": source})
    playing.fail(resources.sessions, playing.claim(resources.sessions), "too large")
    late = ask(client, other, **{"from": source})
    both = ask(client, other, preset="resenc", **{"from": source})

    assert "no plan mine" in problem_of(unknown, 404)
    assert accepted["job_id"] in problem_of(early, 409)
    assert "too large" in problem_of(late, 409)
    assert "preset" in problem_of(both, 422)


# Reading and deleting.


def test_an_unknown_plan_is_said_to_be_unknown_with_those_there_are(
    client: httpx.Client, dataset_id: UUID
) -> None:
    none = client.get(f"/datasets/{dataset_id}/plans/mine")
    plans.put(client, dataset_id, "yours", plans.file())
    other = client.get(f"/datasets/{dataset_id}/plans/mine")
    train = client.post("/train", json={"dataset_id": str(dataset_id), "plan": "mine"})

    assert "POST" in problem_of(none, 404)
    assert "yours" in problem_of(other, 404)
    assert "yours" in problem_of(train, 404)
    assert problem_of(client.delete(f"/datasets/{dataset_id}/plans/mine"), 404)
    assert problem_of(client.get(f"/datasets/{uuid4()}/plans"), 404)
    assert problem_of(client.get(f"/datasets/{uuid4()}/plans/mine"), 404)


def test_lists_come_in_pages(client: httpx.Client, dataset_id: UUID) -> None:
    for name in "abc":
        plans.put(client, dataset_id, name, plans.file())

    first = client.get(f"/datasets/{dataset_id}/plans", params={"limit": 2}).json()
    rest = client.get(f"/datasets/{dataset_id}/plans", params={"cursor": first["next_cursor"]}).json()

    assert [one["name"] for one in first["items"] + rest["items"]] == ["c", "b", "a"]
    assert rest["next_cursor"] is None


def test_a_deleted_plan_is_gone_and_its_name_free(
    client: httpx.Client, resources: Resources, settings: Settings, tmp_path: Path, dataset_id: UUID
) -> None:
    key = {"Idempotency-Key": "p"}
    first = ask(client, dataset_id, name="mine", headers=dict(key)).json()
    plans.finish(resources, tmp_path, playing.claim(resources.sessions))
    address = f"/datasets/{dataset_id}/plans/mine"

    assert client.delete(address).status_code == 204

    assert client.get(address).status_code == 404
    assert files_in_store(settings) == rows_of_objects(resources)
    assert not any(key.endswith("plans.json") for key in files_in_store(settings))
    assert client.get(f"/datasets/{dataset_id}/fingerprint").status_code == 200
    again = ask(client, dataset_id, name="mine", headers=dict(key))
    assert again.status_code == 202
    assert again.json()["id"] != first["id"]


def test_a_dataset_takes_its_plans_along(
    client: httpx.Client, resources: Resources, settings: Settings, tmp_path: Path, dataset_id: UUID
) -> None:
    plans.ready_plan(client, resources, tmp_path, dataset_id)
    plans.put(client, dataset_id, "nnUNetPlans", plans.file())
    plans.put(client, dataset_id, "mine", plans.file())
    accepted = ask(client, dataset_id, preset="resenc").json()
    early = client.delete(f"/datasets/{dataset_id}")
    client.post(f"/jobs/{accepted['job_id']}/cancel")

    late = client.delete(f"/datasets/{dataset_id}")

    assert "being planned for" in problem_of(early, 409)
    assert late.status_code == 204
    assert files_in_store(settings) == rows_of_objects(resources) == set()


@POSTGRES
def test_a_dataset_that_is_deleted_takes_along_what_replaces_its_plan_meanwhile(
    client: httpx.Client, resources: Resources, settings: Settings, dataset_id: UUID
) -> None:
    plans.put(client, dataset_id, "mine", plans.file())
    with ThreadPoolExecutor(2) as pool, transaction(resources.sessions) as session:
        session.execute(select(DatasetPlan.id).with_for_update())
        replaced = pool.submit(plans.put, client, dataset_id, "mine", plans.file(batch_size=3))
        wait_for_waiting(resources, 1)
        deleted = pool.submit(client.delete, f"/datasets/{dataset_id}")
        wait_for_waiting(resources, 2)

    assert deleted.result().status_code == 204
    assert replaced.result().status_code in (200, 404)
    assert files_in_store(settings) == rows_of_objects(resources) == set()


@POSTGRES
def test_whoever_comes_after_a_dataset_was_deleted_is_told_so(
    client: httpx.Client, resources: Resources, settings: Settings, dataset_id: UUID
) -> None:
    plans.put(client, dataset_id, "mine", plans.file())
    other = playing.ready_dataset(resources)
    source = {"dataset_id": str(dataset_id), "plan": "mine"}
    asks: list[Callable[[], httpx.Response]] = [
        lambda: plans.put(client, other, "mine", plans.file()),
        lambda: ask(client, other),
        lambda: ask(client, other, **{"from": source}),
        lambda: train(client, other),
    ]
    with ThreadPoolExecutor(len(asks)) as pool:
        with transaction(resources.sessions) as session:
            session.execute(select(Dataset.id).where(Dataset.id == other).with_for_update())
            keys = list(session.scalars(select(Dataset.archive_key).where(Dataset.id == other)))
            answers = [pool.submit(act) for act in asks]
            wait_for_waiting(resources, len(asks))
            for table in (DatasetCase, Job):
                session.execute(delete(table).where(table.dataset_id == other))
            session.execute(delete(Dataset).where(Dataset.id == other))
            session.execute(delete(StoredObject).where(StoredObject.key.in_(keys)))
        for key in keys:
            resources.store.delete(key)

    assert all("no dataset" in problem_of(answer.result(), 404) for answer in answers)
    assert files_in_store(settings) == rows_of_objects(resources)


def test_a_dataset_and_its_plans_are_changed_by_many_at_once(
    client: httpx.Client, resources: Resources, settings: Settings
) -> None:
    ids = [playing.ready_dataset(resources) for _ in range(4)]

    def act(number: int) -> httpx.Response:
        dataset_id, name = ids[number % 4], f"plan{number % 3}"
        if number % 7 == 6:
            return client.delete(f"/datasets/{dataset_id}")
        if number % 7 == 5:
            return client.delete(f"/datasets/{dataset_id}/plans/{name}")
        return plans.put(client, dataset_id, name, plans.file(batch_size=2 + number))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(act, range(84)))

    assert {answer.status_code for answer in answers} <= {200, 201, 204, 404}
    assert files_in_store(settings) == rows_of_objects(resources) == set()


# Training with a plan.


def train(client: httpx.Client, dataset_id: UUID, **body: Any) -> httpx.Response:
    return client.post("/train", json={"dataset_id": str(dataset_id), **body})


def test_a_training_begins_with_the_plan_and_keeps_it(
    client: httpx.Client, resources: Resources, settings: Settings, dataset_id: UUID
) -> None:
    address = f"/datasets/{dataset_id}/plans/mine"
    plans.put(client, dataset_id, "mine", plans.file(batch_size=7))

    accepted = train(client, dataset_id, plan="mine", folds=[0])
    replaced = plans.put(client, dataset_id, "mine", plans.file(batch_size=3))
    early = client.delete(address)
    taken = playing.claim(resources.sessions)
    playing.finish(resources.sessions, taken)
    played = playing.play_all(resources.sessions)

    request = client.get(f"/trainings/{accepted.json()['id']}").json()["request"]
    assert (accepted.status_code, replaced.status_code, early.status_code) == (202, 200, 204)
    assert (request["plan"], request["preset"]) == ("mine", None)
    payload = taken.order.payload
    assert isinstance(payload, PlanPayload)
    assert payload.plans is not None
    used = json.loads((settings.resolved_store_dir / payload.plans.key).read_text())
    assert used["configurations"]["3d_fullres"]["batch_size"] == 7
    assert {one.order.payload.plans for one in played if one.kind is not JobKind.INGEST} == {payload.plans}  # type: ignore[union-attr]
    assert client.get(f"/jobs/{accepted.json()['job_id']}").json()["state"] == "succeeded"


def test_a_plan_that_is_trained_with_stays_until_the_end(
    client: httpx.Client, resources: Resources, settings: Settings, dataset_id: UUID
) -> None:
    address = f"/datasets/{dataset_id}/plans/mine"
    plans.put(client, dataset_id, "mine", plans.file())
    accepted = train(client, dataset_id, plan="mine").json()

    early = client.delete(address)
    playing.play_all(resources.sessions)
    before = files_in_store(settings)
    late = client.delete(address)

    assert accepted["job_id"] in problem_of(early, 409)
    assert late.status_code == 204
    assert files_in_store(settings) == before


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_plan_is_read_however_often_it_is_replaced_meanwhile(
    client: httpx.Client,
    resources: Resources,
    dataset_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
    times: int,
) -> None:
    plans.put(client, dataset_id, "mine", plans.file())
    path, left = resources.store.path, list(range(times))

    def path_of_what_was_replaced(ref: ObjectRef) -> Path:
        if left:
            plans.put(client, dataset_id, "mine", plans.file(batch_size=3 + left.pop()))
        return path(ref)

    monkeypatch.setattr(resources.store, "path", path_of_what_was_replaced)
    content = kept_plans.open_plan(resources, dataset_id, "mine")

    assert left == []
    assert content.plan is not None
    assert content.plan.configuration("3d_fullres").batch_size == 3


def test_a_plan_whose_file_is_lost_is_told_as_lost(
    client: httpx.Client, resources: Resources, dataset_id: UUID
) -> None:
    plans.put(client, dataset_id, "mine", plans.file())
    (key,) = (key for key in rows_of_objects(resources) if key.startswith("plans/"))
    resources.store.delete(key)

    response = client.get(f"/datasets/{dataset_id}/plans/mine")

    assert "missing or damaged" in problem_of(response, 500)


def test_a_failed_plan_can_be_deleted_while_another_training_is_being_planned(
    client: httpx.Client, resources: Resources, dataset_id: UUID
) -> None:
    ask(client, dataset_id, name="odd")
    claim = playing.claim(resources.sessions)
    playing.fail(resources.sessions, claim, "no patch fits the memory")
    assert train(client, playing.ready_dataset(resources)).status_code == 202

    assert client.delete(f"/datasets/{dataset_id}/plans/odd").status_code == 204


def test_plans_are_replaced_while_others_begin_to_train_with_them(
    client: httpx.Client, resources: Resources, settings: Settings, dataset_id: UUID
) -> None:
    plans.put(client, dataset_id, "mine", plans.file())

    def act(number: int) -> httpx.Response:
        if number % 2:
            return train(client, dataset_id, plan="mine", folds=[0])
        return plans.put(client, dataset_id, "mine", plans.file(batch_size=2 + number))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(act, range(40)))

    assert {answer.status_code for answer in answers} == {200, 202}
    stored = files_in_store(settings)
    assert stored == rows_of_objects(resources)
    with transaction(resources.readers) as session:
        keys = set(session.scalars(select(Training.plans_key)))
    assert None not in keys
    assert keys <= stored


def test_a_plan_of_ones_own_configurations_can_be_trained(
    client: httpx.Client, resources: Resources, dataset_id: UUID
) -> None:
    values = plans.file()
    values["configurations"] |= {
        "3d_bs4": {"inherits_from": "3d_fullres", "batch_size": 4},
        "3d_refined": {"inherits_from": "3d_bs4", "previous_stage": "3d_bs4"},
    }
    created = plans.put(client, dataset_id, "mine", values)
    assert created.status_code == 201, created.text

    unknown = train(client, dataset_id, plan="mine", configurations=["3d_hires"])
    good = train(client, dataset_id, plan="mine", configurations=["3d_bs4"], folds=[0])

    assert "3d_bs4" in problem_of(unknown, 422)
    assert unknown.json()["configurations"] == ["2d", "3d_fullres", "3d_bs4", "3d_refined"]
    assert good.status_code == 202
    playing.play_all(resources.sessions)
    assert client.get(f"/trainings/{good.json()['id']}").json()["configuration"] == "3d_bs4"


@pytest.mark.parametrize(
    "choice",
    [
        {"preset": "default"},
        {"gpu_memory_gb": 8},
        {"target_spacing": [1, 1, 1]},
        {"suppress_transpose": True},
    ],
)
def test_a_plan_leaves_nothing_to_choose(
    client: httpx.Client, dataset_id: UUID, choice: dict[str, object]
) -> None:
    plans.put(client, dataset_id, "mine", plans.file())

    assert next(iter(choice)) in problem_of(train(client, dataset_id, plan="mine", **choice), 422)


def test_a_training_may_choose_how_to_plan(
    client: httpx.Client, resources: Resources, dataset_id: UUID
) -> None:
    response = train(client, dataset_id, preset="resenc_l", target_spacing=[2, 1, 1], suppress_transpose=True)

    payload = playing.claim(resources.sessions).order.payload
    assert response.status_code == 202
    assert isinstance(payload, PlanPayload)
    assert (payload.preset, payload.target_spacing, payload.suppress_transpose) == (
        "resenc_l",
        (2, 1, 1),
        True,
    )
    assert (payload.plan_id, payload.plans) == (None, None)
