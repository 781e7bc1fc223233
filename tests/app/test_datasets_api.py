"""Datasets over HTTP: upload in every form, limits, read, delete."""

import base64
import hashlib
import http.client
import json
import resource
from collections.abc import Iterator
from uuid import UUID, uuid4

import httpx
import pytest

from app.services.resources import Resources
from app.settings import Settings
from core.domain.dataset import DatasetProblem
from tests.app import playing
from tests.app.conftest import Serve

ZIP = {"Content-Type": "application/zip"}


def incoming_files(settings: Settings) -> list[str]:
    return [file.name for file in (settings.resolved_store_dir / ".incoming").iterdir()]


def problem_of(response: httpx.Response, status: int) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    assert response.status_code == status
    return str(response.json()["detail"])


def test_a_form_upload_is_accepted_with_a_job_to_follow(client: httpx.Client) -> None:
    response = client.post("/datasets?name=Liver", files={"file": ("x.zip", playing.zip_bytes())})

    body = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/jobs/{body['job_id']}"
    assert int(response.headers["retry-after"]) > 0
    assert (body["state"], body["links"]["self"]) == ("ingesting", f"/datasets/{body['id']}")
    assert client.get(response.headers["location"]).json()["kind"] == "ingest"


def test_a_raw_body_arrives_byte_for_byte(client: httpx.Client, settings: Settings) -> None:
    content = playing.zip_bytes([f"file_{number}" for number in range(20_000)])

    response = client.post("/datasets?name=Liver", content=content, headers=ZIP)

    stored = settings.resolved_store_dir / "datasets" / response.json()["id"] / "archive.zip"
    assert stored.read_bytes() == content
    assert incoming_files(settings) == []


def test_the_stored_hash_is_that_of_the_bytes(client: httpx.Client, resources: Resources) -> None:
    content = playing.zip_bytes()

    client.post("/datasets?name=Liver", content=content, headers=ZIP)

    archive = playing.claim(resources.sessions).order.payload.model_dump()["archive"]
    assert archive["sha256"] == hashlib.sha256(content).hexdigest()
    assert archive["size_bytes"] == len(content)


def test_a_body_of_unknown_length_is_taken(client: httpx.Client) -> None:
    content = playing.zip_bytes()

    def pieces() -> Iterator[bytes]:
        yield content[:10]
        yield content[10:]

    assert client.post("/datasets?name=Liver", content=pieces(), headers=ZIP).status_code == 202


def test_the_same_name_makes_the_next_version(client: httpx.Client) -> None:
    ids = [
        client.post("/datasets", params={"name": name}, content=playing.zip_bytes(), headers=ZIP).json()["id"]
        for name in ("Liver", "Liver", "Spleen")
    ]

    assert [client.get(f"/datasets/{one}").json()["version"] for one in ids] == [1, 2, 1]


def test_a_ready_dataset_shows_what_is_in_it(client: httpx.Client, resources: Resources) -> None:
    dataset_id = playing.ready_dataset(resources, cases=2)

    body = client.get(f"/datasets/{dataset_id}").json()

    assert (body["state"], body["channels"], body["problems"]) == ("ready", ["MRI"], [])
    assert body["labels"] == {"background": 0, "hippocampus": 1}
    assert [case["case"] for case in body["cases"]] == ["case_000", "case_001"]
    assert body["cases"][0]["shape"] == [36, 50, 35]
    assert body["notes"] == [{"case": "case_000", "kind": "empty-reference", "message": "look at it"}]
    assert body["classes"] == [{"label": 1, "names": ["hippocampus"], "cases": 2, "voxels": 3000}]
    assert (body["has_fingerprint"], "fingerprint" in body["links"]) == (False, False)


def test_an_invalid_dataset_shows_every_problem(client: httpx.Client, resources: Resources) -> None:
    submission = playing.upload(resources)
    problems = [
        DatasetProblem(case=f"case_{number}", kind="geometry", message="align the label with its image")
        for number in range(3)
    ]
    playing.finish(resources.sessions, playing.claim(resources.sessions), playing.ingest_result(3, problems))

    body = client.get(f"/datasets/{submission.id}").json()

    assert body["state"] == "invalid"
    assert body["problems"] == [problem.to_json() for problem in problems]


def test_a_client_may_wait_for_the_check(client: httpx.Client) -> None:
    response = client.post(
        "/datasets?name=Liver", content=playing.zip_bytes(), headers={**ZIP, "Prefer": "wait=0"}
    )

    assert response.status_code == 202
    assert response.headers["preference-applied"] == "wait=0"


def test_what_is_no_zip_is_refused_at_once(client: httpx.Client, settings: Settings) -> None:
    response = client.post("/datasets?name=Liver", content=b"<html>" * 100, headers=ZIP)

    assert "not a zip archive" in problem_of(response, 422)
    assert client.get("/datasets").json()["items"] == []
    assert incoming_files(settings) == []


def test_a_cut_off_zip_is_refused_at_once(client: httpx.Client) -> None:
    content = playing.zip_bytes(["a" * 50] * 1)[:40]

    assert "cut off" in problem_of(client.post("/datasets?name=Liver", content=content, headers=ZIP), 422)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ({"content": b"", "headers": ZIP}, 422, "no file came"),
        ({"content": b"PK", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415, "zip"),
        ({"content": b"{}", "headers": {"Content-Type": "application/json"}}, 415, "application/json"),
        ({"files": {"archive": ("x.zip", b"PK")}}, 422, "archive"),
        ({"files": {"file": ("x.zip", b"PK")}, "data": {"tenant": "x"}}, 422, "tenant"),
        ({"files": [("file", ("a.zip", b"PK")), ("file", ("b.zip", b"PK"))]}, 422, "2 files came"),
        ({"content": b"PK", "headers": {**ZIP, "Content-Encoding": "gzip"}}, 415, "Content-Encoding"),
        ({"content": b"PK", "headers": {"Content-Type": "multipart/form-data"}}, 422, "boundary"),
        (
            {"content": b"--x\r\nnonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            422,
            "form",
        ),
        (
            {
                "content": b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nPK',
                "headers": {"Content-Type": "multipart/form-data; boundary=x"},
            },
            422,
            "cut off",
        ),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_with_the_cure(
    client: httpx.Client, settings: Settings, arguments: dict[str, object], status: int, words: str
) -> None:
    response = client.post("/datasets?name=Liver", **arguments)  # type: ignore[arg-type]

    assert words in problem_of(response, status)
    assert incoming_files(settings) == []


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "a\x00b", "a\nb"])
def test_a_name_must_be_one_line(client: httpx.Client, name: str) -> None:
    response = client.post("/datasets", params={"name": name}, content=playing.zip_bytes(), headers=ZIP)

    assert "name" in problem_of(response, 422)


@pytest.mark.parametrize("form", ["multipart", "raw"])
def test_an_upload_beyond_the_limit_is_refused(settings: Settings, serve: Serve, form: str) -> None:
    small = serve(settings.model_copy(update={"max_upload_gib": 10_000 / 1024**3}))
    content = playing.zip_bytes() + bytes(20_000)

    if form == "multipart":
        response = small.post("/datasets?name=Liver", files={"file": ("x.zip", content)})
    else:
        response = small.post("/datasets?name=Liver", content=content, headers=ZIP)

    assert "limit" in problem_of(response, 413)
    assert incoming_files(settings) == []


def test_a_claimed_length_beyond_the_limit_is_refused_before_a_byte_is_read(client: httpx.Client) -> None:
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 80, timeout=10)

    connection.putrequest("POST", "/datasets?name=Liver")
    connection.putheader("Content-Type", "application/zip")
    connection.putheader("Content-Length", str(10**13))
    connection.endheaders()

    assert connection.getresponse().status == 413
    connection.close()


def test_a_full_disk_is_said_and_leaves_nothing(client: httpx.Client, settings: Settings) -> None:
    content = playing.zip_bytes() + bytes(12 * 1024**2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 1024**2, limits[1]))
    try:
        response = client.post("/datasets?name=Liver", content=content, headers=ZIP)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert "full" in problem_of(response, 507)
    assert incoming_files(settings) == []
    assert client.get("/datasets").json()["items"] == []


def test_an_unused_dataset_is_deleted_with_its_archive(
    client: httpx.Client, resources: Resources, settings: Settings
) -> None:
    dataset_id = playing.ready_dataset(resources)

    assert client.delete(f"/datasets/{dataset_id}").status_code == 204

    assert client.get(f"/datasets/{dataset_id}").status_code == 404
    assert list((settings.resolved_store_dir / "datasets" / str(dataset_id)).iterdir()) == []


def test_a_dataset_in_use_is_kept(client: httpx.Client, resources: Resources) -> None:
    checked = playing.upload(resources)
    trained = playing.ready_dataset(resources) if playing.play_all(resources.sessions) else UUID(int=0)
    playing.training(resources, trained)
    unchecked = playing.upload(resources)

    assert client.delete(f"/datasets/{checked.id}").status_code == 204
    assert "in use by training" in problem_of(client.delete(f"/datasets/{trained}"), 409)
    assert "still being checked" in problem_of(client.delete(f"/datasets/{unchecked.id}"), 409)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_dataset_is_said_to_be_unknown(client: httpx.Client, method: str) -> None:
    missing = uuid4()

    assert str(missing) in problem_of(client.request(method, f"/datasets/{missing}"), 404)


def test_lists_come_in_pages(client: httpx.Client, resources: Resources) -> None:
    sent = [str(playing.upload(resources, f"Set {number}").id) for number in range(5)]

    seen, cursor = [], None
    while True:
        page = client.get("/datasets", params={"limit": 2} | ({} if cursor is None else {"cursor": cursor}))
        seen += [item["id"] for item in page.json()["items"]]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            break

    assert seen == sent[::-1]


def cursor_of(moment: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([moment, "0" * 32]).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "bm8",
        "WyJhIiwgImIiXQ",
        "W1tdLCBbXV0",
        "é",
        "A" * 501,
        cursor_of("0001-01-01T00:00:00+14:00"),
        cursor_of("9999-12-31T23:59:59-14:00"),
    ],
)
def test_a_cursor_that_we_did_not_give_is_refused(client: httpx.Client, cursor: str) -> None:
    assert "cursor" in problem_of(client.get("/datasets", params={"cursor": cursor}), 422)


@pytest.mark.parametrize("limit", [0, -1, 10**9, "many"])
def test_a_page_has_a_sensible_size(client: httpx.Client, limit: object) -> None:
    assert "limit" in problem_of(client.get(f"/datasets?limit={limit}"), 422)
