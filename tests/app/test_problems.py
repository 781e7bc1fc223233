"""Whatever is sent, the answer is a problem document below 500, and tells nothing of our insides."""

import socket
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st
from sqlalchemy import text

from app.api import problems
from app.db.base import transaction
from app.main import create_app
from app.services.resources import Resources
from app.settings import Settings
from core.errors import DomainError
from tests.app.serving import served


def require_problem(response: httpx.Response) -> None:
    assert 400 <= response.status_code < 500
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    assert document["type"].startswith("urn:nnunet-service:problem:")
    assert document["detail"]
    assert "Traceback" not in response.text
    assert "SELECT" not in response.text
    assert "/site-packages" not in response.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nothing"),
        ("GET", "/jobs/"),
        ("GET", "/jobs/%00"),
        ("GET", "/jobs/..%2f..%2fetc%2fpasswd"),
        ("GET", "/jobs/%252e%252e"),
        ("GET", "/predictions/1' OR '1'='1/segmentation"),
        ("GET", "/jobs?state=%25"),
        ("GET", "/jobs?kind=ingest&kind=' --"),
        ("GET", "/jobs?tenant_id=1"),
        ("GET", "/health/live?x=1"),
        ("GET", "/models?limit=1e3"),
        ("GET", "/models?cursor=%00"),
        ("GET", "/models?cursor=%ff%fe"),
        ("PUT", "/datasets"),
        ("PATCH", "/jobs/00000000-0000-0000-0000-000000000001"),
        ("DELETE", "/models"),
        ("POST", "/jobs"),
        ("TRACE", "/jobs"),
        ("POST", "/datasets"),
        ("GET", "/" + "a" * 5000),
    ],
)
def test_odd_addresses_get_a_problem(client: httpx.Client, method: str, path: str) -> None:
    require_problem(client.request(method, path))


def test_a_wrong_method_names_a_right_one(client: httpx.Client) -> None:
    response = client.put("/datasets")

    assert response.status_code == 405
    assert response.headers["allow"] in ("GET", "POST")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"dataset_id": "\\ud800"}',
        b'{"dataset_id": NaN}',
        b'{"dataset_id": {"$ne": 1}}',
        b'{"dataset_id": "00000000-0000-0000-0000-000000000001", "name": "\\ud800"}',
        b'{"dataset_id": "00000000-0000-0000-0000-000000000001", "name": "\\u0000"}',
        b'{"dataset_id": "00000000-0000-0000-0000-000000000001", "gpu_memory_gb": 1e999}',
        b'{"dataset_id": "00000000-0000-0000-0000-000000000001", "gpu_memory_gb": NaN}',
        b'{"dataset_id": "00000000-0000-0000-0000-000000000001", "__proto__": {}}',
        b'{"dataset_id": "00000000-0000-0000-0000-000000000001", "folds": '
        + b"[" * 5000
        + b"]" * 5000
        + b"}",
    ],
)
def test_odd_bodies_get_a_problem(client: httpx.Client, body: bytes) -> None:
    require_problem(client.post("/train", content=body, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize("body", [bytes(2 * 1024**2), [bytes(2 * 1024**2)]], ids=["announced", "in pieces"])
def test_a_body_that_would_fill_the_memory_is_refused(client: httpx.Client, body: Iterable[bytes]) -> None:
    response = client.post("/train", content=body, headers={"Content-Type": "application/json"})

    require_problem(response)
    assert (response.status_code, response.json()["code"]) == (413, "too-large")


def test_every_invalid_field_is_named_at_once(client: httpx.Client) -> None:
    response = client.post("/train", json={"dataset_id": "x", "epochs": 0, "color": "red"})

    assert [error["field"] for error in response.json()["errors"]] == ["dataset_id", "epochs", "color"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["dataset_id", "configurations", "folds", "preset", "gpu_memory_gb", "epochs", "seed", "name", "x"]


@given(body=st.dictionaries(st.sampled_from(FIELDS), json_values))
@options(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_training_request_breaks_the_service(client: httpx.Client, body: dict[str, Any]) -> None:
    require_problem(client.post("/train", json=body))


def test_a_bug_of_ours_is_500_without_its_text(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("the password is 1234")

    with served(app) as address:
        response = httpx.get(f"{address}/broken")

    assert response.status_code == 500
    assert response.json()["code"] == "internal-error"
    assert "1234" not in response.text


def test_kinds_without_a_status_of_their_own_say_that_the_request_cannot_be_used() -> None:
    assert problems.from_error(DomainError("no", case="x")).status_code == 422


def test_ready_says_what_is_missing(client: httpx.Client, resources: Resources) -> None:
    before = client.get("/health/ready")
    with transaction(resources.sessions) as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'older'"))
    after = client.get("/health/ready")

    assert before.json() == {
        "status": "ok",
        "checks": {"database": "ok", "migrations": "ok", "store": "ok", "queue": "ok"},
        "lanes": {"cpu": "no worker", "train": "no worker", "predict": "no worker"},
    }
    assert (after.status_code, after.json()["failed"]) == (503, ["migrations"])
    assert client.get("/health/live").json() == {"status": "ok"}


def test_raw_nonsense_on_the_wire_does_not_end_the_service(client: httpx.Client) -> None:
    for nonsense in (
        b"\x00\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /train HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ):
        with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=5) as wire:
            wire.sendall(nonsense)
            wire.shutdown(socket.SHUT_WR)
            assert b" 500 " not in wire.recv(4096)

    assert client.get("/health/live").status_code == 200
