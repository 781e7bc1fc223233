"""Planners that packages add: other constants, and a plan changed at the end."""

from pathlib import Path

import pytest

from core.errors import ExtensionError, PlanError
from core.extensions import Group
from tests.core.packages import installed
from tests.planned import HIPPOCAMPUS, plan

CODE = """
from dataclasses import replace
from core.domain.plan import Plan
from core.planning.presets import DEFAULT

def larger_batches(plan, fingerprint, description):
    entries = {**plan.configurations["2d"], "batch_size": len(fingerprint.spacings) + description.training_cases}
    return plan.model_copy(update={"configurations": {**plan.configurations, "2d": entries}})

def no_batches(plan, fingerprint, description):
    entries = {**plan.configurations["2d"], "batch_size": 0}
    return plan.model_copy(update={"configurations": {**plan.configurations, "2d": entries}})

SMALL = replace(DEFAULT, planner="SmallPlanner", plans_name="SmallPlans", reference_gb=80)
LARGE = replace(DEFAULT, planner="LargePlanner", plans_name="LargePlans", revise=larger_batches)
WRONG = replace(DEFAULT, planner="WrongPlanner", plans_name="WrongPlans", revise=no_batches)
EMPTY = replace(DEFAULT, planner="EmptyPlanner", plans_name="EmptyPlans", revise=lambda *_: None)
"""


def entries(package: str) -> dict[str, dict[str, str]]:
    """Add each of them under its name in lower case."""
    names = ("SMALL", "LARGE", "WRONG", "EMPTY")
    return {Group.PLANNER: {f"{name.lower()}_of_{package}": f"{package}:{name}" for name in names}}


def test_a_planner_may_have_other_constants(tmp_path: Path) -> None:
    package = "made_small"

    with installed(tmp_path, package, CODE, entries(package)):
        made = plan(HIPPOCAMPUS, preset=f"small_of_{package}", gpu_memory_gb=8)

    assert (made.plans_name, made.experiment_planner_used) == ("SmallPlans", "SmallPlanner")
    assert made.configuration("2d").batch_size < plan(HIPPOCAMPUS).configuration("2d").batch_size


def test_a_planner_may_change_the_plan_at_the_end(tmp_path: Path) -> None:
    package = "made_large"

    with installed(tmp_path, package, CODE, entries(package)):
        made = plan(HIPPOCAMPUS, preset=f"large_of_{package}")

    assert made.configuration("2d").batch_size == 520
    assert made.configuration("3d_fullres") == plan(HIPPOCAMPUS, plans_name="LargePlans").configuration(
        "3d_fullres"
    )


def test_what_it_makes_of_the_plan_is_checked(tmp_path: Path) -> None:
    package = "made_wrong"

    with installed(tmp_path, package, CODE, entries(package)):
        with pytest.raises(PlanError, match=r"configurations\.2d\.batch_size"):
            plan(HIPPOCAMPUS, preset=f"wrong_of_{package}")
        with pytest.raises(ExtensionError, match="EmptyPlanner returns a NoneType instead of a Plan"):
            plan(HIPPOCAMPUS, preset=f"empty_of_{package}")
