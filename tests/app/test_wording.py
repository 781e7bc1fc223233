"""What a client reads of a request that cannot be used: the field, what it must be, what was given."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

DATASET = str(uuid4())

FOREIGN_WORDS = (
    "Input should",
    "Field required",
    "String should",
    "Extra inputs",
    "Value error",
    "Tuple",
    "valid ",
)
"""How the library that checks requests says it."""


def detail_of(response: httpx.Response) -> str:
    assert response.status_code == 422, response.text
    detail = str(response.json()["detail"])
    assert not any(word in detail for word in FOREIGN_WORDS)
    return detail.removeprefix("the request cannot be used as it is: ")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("gpu_memory_gb", 0, "must be more than 0 (given: 0)"),
        ("gpu_memory_gb", 5000, "must be at most 1000 (given: 5000)"),
        ("gpu_memory_gb", "much", 'must be a number (given: "much")'),
        ("target_spacing", [1, 1], "must be a list of 3 entries (given: a list of 2 entries)"),
        ("target_spacing", [1] * 4, "must be a list of at most 3 entries (given: a list of 4 entries)"),
        ("target_spacing", "1,1,1", 'must be a list (given: "1,1,1")'),
        ("target_spacing", [1, 0, 1], ".1 must be more than 0 (given: 0)"),
        ("suppress_transpose", "yes", 'must be true or false (given: "yes")'),
        ("name", "a/b", "must be a text that begins with a letter or digit and goes on with letters, digits"),
        ("name", "x" * 101, 'must be a text of at most 100 characters (given: "xxxx'),
        ("name", 5, "must be a text (given: 5)"),
        ("preset", "x", ": there is no preset named 'x'; choose one of: default"),
        ("from", "x", 'must be a JSON object (given: "x")'),
        ("from", {"plan": "x"}, ".dataset_id is missing"),
        ("from", {"dataset_id": "5", "plan": "x"}, ".dataset_id must be an id like 5f0c1d9e"),
        ("color", "red", "is not known here; leave it out"),
    ],
)
def test_a_plan_request_is_told_what_its_field_must_be(
    client: httpx.Client, field: str, value: object, message: str
) -> None:
    response = client.post(f"/datasets/{DATASET}/plans", json={field: value})

    space = "" if message[0] in ".:" else " "
    assert detail_of(response).startswith(f"{field}{space}{message}")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "dataset_id is missing"),
        ({"epochs": "1"}, 'epochs must be a whole number (given: "1")'),
        ({"epochs": 1.5}, "epochs must be a whole number (given: 1.5)"),
        ({"epochs": None}, "epochs must be a whole number (given: null)"),
        ({"epochs": {"a": 1}}, "epochs must be a whole number (given: an object)"),
        ({"seed": -1}, "seed must be at least 0 (given: -1)"),
        ({"folds": []}, "folds must be a list of at least 1 entry (given: a list of 0 entries)"),
        ({"folds": [0, "x"]}, "folds.1 must be a whole number or 'all' (given: \"x\")"),
        ({"folds": [1, 1]}, "folds: names 1 more than once"),
        ({"configurations": [""]}, 'configurations.0 must be a text of at least 1 character (given: "")'),
        ({"name": "a\u0000"}, 'name must be a text without control characters (given: "a\\u0000")'),
        ({"plan": "x", "preset": "default"}, "body: the plan x says how to plan already; leave out preset"),
    ],
)
def test_a_training_request_is_told_what_its_field_must_be(
    client: httpx.Client, body: dict[str, Any], detail: str
) -> None:
    response = client.post("/train", json={**({"dataset_id": DATASET} if body else {}), **body})

    assert detail_of(response).startswith(detail)


def test_each_field_is_named_once(client: httpx.Client) -> None:
    response = client.post(
        "/train", json={"dataset_id": DATASET, "folds": ["x", -1], "target_spacing": [], "color": 1}
    )

    detail_of(response)
    assert [error["field"] for error in response.json()["errors"]] == [
        "target_spacing",
        "folds.0",
        "folds.1",
        "color",
    ]


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "body is missing"),
        (b"{", "body is no JSON: "),
        (b"[]", "body must be a JSON object (given: a list of 0 entries)"),
    ],
)
def test_a_body_that_is_no_object_is_told_so(client: httpx.Client, content: bytes, detail: str) -> None:
    response = client.post("/train", content=content, headers={"Content-Type": "application/json"})

    assert detail_of(response).startswith(detail)


def test_a_body_that_is_not_declared_is_told_how_to_declare_it(client: httpx.Client) -> None:
    assert "not declared as application/json" in detail_of(client.post("/train", content=b"{}"))


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("limit=1e3", 'limit must be a whole number (given: "1e3")'),
        ("limit=0", 'limit must be at least 1 (given: "0")'),
        ("state=x", "state must be 'waiting', 'queued'"),
        ("foo=1", "foo is not known here"),
    ],
)
def test_a_parameter_is_told_what_it_must_be(client: httpx.Client, query: str, detail: str) -> None:
    assert detail_of(client.get(f"/jobs?{query}")).startswith(detail)
