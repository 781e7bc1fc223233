from typing import Any

import pytest

from core.domain.labels import label_set
from core.domain.plan import Plan
from core.domain.stages import input_channels, next_stages
from core.errors import PlanError
from tests.plans import small_plan

LABELS = label_set({"background": 0, "a": 1, "b": 2, "ignore": 3}, None)
REGIONS = label_set({"background": 0, "whole": [1, 2, 3], "core": [2, 3]}, [1, 2])


def cascade(low: dict[str, Any] | None = None, **others: dict[str, Any]) -> Plan:
    """A plan whose low resolution is refined by the full one, and further configurations."""
    plan, _ = small_plan([1, 1, 1], schemes=["ZScoreNormalization"] * 2)
    entries = plan.configurations["small"]
    configurations = {
        "low": entries | {"next_stage": "full"} | (low or {}),
        "full": entries | {"previous_stage": "low"},
    }
    return plan.model_copy(update={"configurations": configurations | others})


def test_a_later_stage_sees_a_channel_for_each_label_of_the_one_before() -> None:
    plan = cascade()

    assert input_channels(plan.configuration("low"), LABELS) == 2
    assert input_channels(plan.configuration("full"), LABELS) == 2 + 2
    assert input_channels(plan.configuration("full"), REGIONS) == 2 + 3


def test_next_stages_are_those_that_either_side_names() -> None:
    assert next_stages(cascade(), "low") == ("full",)
    assert next_stages(cascade(), "full") == ()
    assert next_stages(cascade({"next_stage": None}), "low") == ("full",)
    assert next_stages(cascade(wide={"inherits_from": "full", "batch_size": 3}), "low") == ("full", "wide")
    assert next_stages(cascade({"next_stage": ["full", "other"]}, other={"inherits_from": "low"}), "low") == (
        "full",
        "other",
    )


def test_a_next_stage_that_does_not_exist_is_named() -> None:
    with pytest.raises(PlanError, match="no configuration 'higher'"):
        next_stages(cascade({"next_stage": "higher"}), "low")
