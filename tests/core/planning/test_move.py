"""Plans carried over to another dataset."""

from typing import Any

import pytest

from core.domain.plan import Plan
from core.planning.move import moved_plan
from tests.planned import HIPPOCAMPUS, LIVER, plan


def identifiers(made: Plan) -> list[str]:
    return [made.configuration(name).data_identifier for name in made.configurations]


def moved(made: Plan, name: str | None) -> Plan:
    return moved_plan(made, dataset_name="Dataset005_Other", plans_name=name, reader="NibabelIO")


def test_all_but_the_names_stays() -> None:
    made = plan(LIVER)

    other = moved(made, None)

    changed = {key for key, entry in other.to_json().items() if entry != made.to_json()[key]}
    assert changed == {"dataset_name", "image_reader_writer"}
    assert (other.dataset_name, other.image_reader_writer) == ("Dataset005_Other", "NibabelIO")


@pytest.mark.parametrize(
    ("choices", "name", "expected"),
    [
        ({}, "otherPlans", ["otherPlans_2d", "otherPlans_3d_fullres"]),
        ({}, None, ["nnUNetPlans_2d", "nnUNetPlans_3d_fullres"]),
        ({"preset": "resenc_l"}, None, ["nnUNetPlans_2d", "nnUNetPlans_3d_fullres"]),
        ({"preset": "resenc_l"}, "x", ["x_nnUNetPlans_2d", "x_nnUNetPlans_3d_fullres"]),
        (
            {"preset": "resenc_l"},
            "nnUNetPlans",
            ["nnUNetPlans_nnUNetPlans_2d", "nnUNetPlans_nnUNetPlans_3d_fullres"],
        ),
    ],
)
def test_preprocessed_cases_are_named_as_the_reference_names_them(
    choices: dict[str, Any], name: str | None, expected: list[str]
) -> None:
    other = moved(plan(HIPPOCAMPUS, **choices), name)

    assert identifiers(other) == expected
    assert other.plans_name == (name or plan(HIPPOCAMPUS, **choices).plans_name)
