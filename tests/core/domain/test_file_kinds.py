"""Files of another kind than was asked for are told by what is in them."""

import json
from typing import Any

import pytest

from core.domain.dataset import DatasetDescription
from core.domain.file_kinds import kind_of
from core.domain.fingerprint import Fingerprint
from core.domain.model import ModelRecord
from core.domain.plan import Plan
from core.errors import DomainError
from tests.planned import HIPPOCAMPUS, plan

FILES: dict[str, Any] = {
    "dataset.json": HIPPOCAMPUS[1].to_json(),
    "dataset_fingerprint.json": HIPPOCAMPUS[0].to_json(),
    "plans.json": plan(HIPPOCAMPUS).to_json(),
    "model.json": ModelRecord(configuration="2d").to_json(),
    "splits_final.json": [{"train": ["a"], "val": ["b"]}],
    "summary.json": {"foreground_mean": {}, "mean": {}, "metric_per_case": []},
}
PARSERS: dict[str, Any] = {
    "dataset.json": DatasetDescription,
    "dataset_fingerprint.json": Fingerprint,
    "plans.json": Plan,
    "model.json": ModelRecord,
}


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_told_by_its_entries(name: str) -> None:
    assert kind_of(FILES[name]) == name


@pytest.mark.parametrize("value", [{}, [], [1], [{}], {"a": 1}, "text", None, 1])
def test_what_has_no_such_entries_is_of_no_kind(value: object) -> None:
    assert kind_of(value) is None


@pytest.mark.parametrize("wanted", PARSERS)
@pytest.mark.parametrize("given", FILES)
def test_a_file_of_another_kind_is_told_by_both_names(wanted: str, given: str) -> None:
    if wanted == given:
        assert PARSERS[wanted].parse(json.dumps(FILES[given]))
        return
    with pytest.raises(DomainError) as raised:
        PARSERS[wanted].parse(json.dumps(FILES[given]))

    assert raised.value.message.startswith(f"{wanted} seems to be a {given}, ")


def test_entries_of_another_kind_beside_the_own_do_no_harm() -> None:
    assert Fingerprint.parse(json.dumps(FILES["plans.json"] | FILES["dataset_fingerprint.json"]))


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert Plan.parse("\ufeff" + json.dumps(FILES["plans.json"]))
