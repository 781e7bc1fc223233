"""Who may ask what: keys, hosts, origins; and what every answer carries."""

import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import SecretStr, ValidationError

from app.api.guard import OPEN_PATHS
from app.main import create_app
from app.settings import Settings
from tests.app.conftest import Serve


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """No database has a part in this."""
    return sqlite_url


KEY = "a-long-secret"


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route, ids filled in."""
    for path, operations in app.openapi()["paths"].items():
        filled = re.sub(r"\{\w+\}", "00000000-0000-0000-0000-000000000001", path)
        for method in operations:
            yield method.upper(), filled
            yield method.upper(), f"/v1{filled}"


@pytest.fixture
def locked(serve: Serve, settings: Settings) -> httpx.Client:
    return serve(settings.model_copy(update={"api_key": SecretStr(KEY)}))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": "Bearer"},
        {"X-API-Key": ""},
        {"X-API-Key": KEY.upper()},
        {"X-API-Key": "ü"},
    ],
)
def test_every_route_but_one_needs_the_key(
    locked: httpx.Client, settings: Settings, headers: dict[str, str]
) -> None:
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    answers = {
        (method, path): locked.request(method, path, headers=encoded)
        for method, path in routes(create_app(settings))
    }

    assert len(answers) > 30
    for (_, path), answer in answers.items():
        assert answer.status_code == (200 if path in OPEN_PATHS else 401)
        assert path in OPEN_PATHS or answer.headers["www-authenticate"] == "Bearer"


def test_no_route_is_left_out_of_the_description(settings: Settings) -> None:
    app = create_app(settings)

    described = {path for _, path in routes(app)}

    for route in app.routes:
        if isinstance(route, APIRoute):
            assert re.sub(r"\{\w+\}", "00000000-0000-0000-0000-000000000001", route.path) in described


@pytest.mark.parametrize("path", ["/nothing", "/openapi.json", "/", "/jobs/../health/live"])
def test_addresses_that_do_not_exist_need_the_key_too(locked: httpx.Client, path: str) -> None:
    assert locked.get(path).status_code == (200 if path.endswith("live") else 401)


@pytest.mark.parametrize("headers", [{"Authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}])
def test_either_header_opens(locked: httpx.Client, headers: dict[str, str]) -> None:
    assert locked.get("/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])  # noqa: S104
def test_other_addresses_than_loopback_need_a_key(host: str) -> None:
    with pytest.raises(ValidationError, match="SEG_API_KEY"):
        Settings(host=host)

    assert Settings(host=host, api_key=SecretStr(KEY)).host == host


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1", "a@b"]
)
def test_a_name_that_only_points_here_is_refused(client: httpx.Client, host: str) -> None:
    response = client.get("/jobs", headers={"Host": host})

    assert response.status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9", "[::1]:8000", "LOCALHOST"])
def test_this_machine_goes_by_several_names(client: httpx.Client, host: str) -> None:
    assert client.get("/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_origin_cannot_write(client: httpx.Client, origin: str) -> None:
    response = client.post("/datasets?name=A", files={"file": b"PK"}, headers={"Origin": origin})

    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


def test_a_page_of_ours_can(client: httpx.Client) -> None:
    origin = str(client.base_url).rstrip("/")

    assert client.post("/train", json={}, headers={"Origin": origin}).status_code == 422


def test_every_answer_keeps_browsers_honest(client: httpx.Client) -> None:
    for path in ("/health/live", "/jobs", "/nothing"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers or headers["server"] == "uvicorn"


def test_a_problem_names_its_request(client: httpx.Client) -> None:
    ours = client.get("/nothing")
    theirs = client.get("/nothing", headers={"X-Request-ID": "scan-42"})
    forged = client.get("/nothing", headers={"X-Request-ID": "a b{}"})

    assert ours.json()["request_id"] == ours.headers["x-request-id"]
    assert theirs.json()["request_id"] == "scan-42"
    assert re.fullmatch(r"[0-9a-f]{32}", forged.headers["x-request-id"])
