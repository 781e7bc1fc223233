"""plans.json: inheritance, and every mistake of form at once."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.inheritance import with_inherited
from core.domain.plan import Plan, form_mistakes
from core.errors import PlanError
from tests.planned import HIPPOCAMPUS, LIVER, plan


def edited(**configurations: Any) -> str:
    """A plan with further configurations, or others of the same name."""
    values = plan(HIPPOCAMPUS).to_json()
    values["configurations"] |= configurations
    return json.dumps(values)


def test_a_configuration_inherits_what_it_does_not_replace() -> None:
    made = Plan.parse(edited(small={"inherits_from": "3d_fullres", "batch_size": 4}))

    small, full = made.configuration("small"), made.configuration("3d_fullres")
    assert small.batch_size == 4
    assert small.model_copy(update={"batch_size": full.batch_size}) == full


def test_inheritance_goes_through_several_generations() -> None:
    entries: dict[str, dict[str, Any]] = {
        "a": {"x": 1, "y": 1, "z": 1},
        "b": {"inherits_from": "a", "y": 2},
        "c": {"inherits_from": "b"},
    }

    entries["d"] = {"inherits_from": "c", "z": 3}

    assert with_inherited(entries, "d") == {"x": 1, "y": 2, "z": 3}


def test_nested_entries_are_replaced_not_merged() -> None:
    kwargs = {"is_seg": False, "order": 1}
    made = Plan.parse(edited(linear={"inherits_from": "3d_fullres", "resampling_fn_data_kwargs": kwargs}))

    assert made.configuration("linear").resampling_fn_data_kwargs == kwargs


@pytest.mark.parametrize(
    ("configurations", "sentence"),
    [
        ({"a": {"inherits_from": "a"}}, "circle: a → a"),
        ({"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}, "circle: a → b → a"),
        ({"a": {"inherits_from": "missing"}}, "a inherits from 'missing', which does not exist"),
        ({"a": {"inherits_from": 7}}, "a inherits from 7, which does not exist"),
        ({"a": 7}, "configurations.a"),
    ],
)
def test_inheritance_that_leads_nowhere_is_named(configurations: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        Plan.parse(edited(**configurations))


def test_all_mistakes_of_form_are_named_at_once() -> None:
    values = plan(LIVER).to_json()
    del values["transpose_backward"]
    values["configurations"]["2d"]["patch_size"] = [512, "wide"]
    del values["configurations"]["3d_fullres"]["spacing"]
    values["configurations"]["3d_lowres"]["batch_size"] = 0

    with pytest.raises(PlanError) as caught:
        Plan.parse(json.dumps(values))

    problems = caught.value.context["problems"]
    assert isinstance(problems, list)
    assert [problem["where"] for problem in problems if isinstance(problem, dict)] == [
        "transpose_backward",
        "configurations.2d.patch_size.1",
        "configurations.3d_lowres.batch_size",
        "configurations.3d_fullres.spacing",
    ]


def test_what_a_configuration_inherits_from_does_not_hide_its_own_mistakes() -> None:
    values = plan(HIPPOCAMPUS).to_json()
    values["configurations"]["odd"] = {"inherits_from": "missing", "batch_size": 0}

    assert [mistake.where for mistake in form_mistakes(values)] == [
        "configurations.odd",
        "configurations.odd.batch_size",
    ]


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), st.lists, max_leaves=4))
def test_no_value_of_an_entry_is_a_surprise(value: object) -> None:
    for key in ("patch_size", "spacing", "architecture", "inherits_from", "median_image_size_in_voxels"):
        values = plan(HIPPOCAMPUS).to_json()
        values["configurations"]["odd"] = {"inherits_from": "3d_fullres", key: value}

        assert {mistake.where.split(".")[1] for mistake in form_mistakes(values)} <= {"odd"}


def test_the_arguments_of_a_network_that_a_package_adds_are_free() -> None:
    values = plan(HIPPOCAMPUS).to_json()
    network = {
        "network_class_name": "some.where.Tokens",
        "arch_kwargs": {"width": 8, "depths": [2, {"a": None}]},
    }
    values["configurations"]["2d"]["architecture"] = network

    made = Plan.parse(json.dumps(values)).configuration("2d").architecture

    assert made.to_json() == network
    assert not made.is_unet
    with pytest.raises(PlanError, match="Tokens is made of is known to its package only"):
        _ = made.unet


@pytest.mark.parametrize("name", ["PlainConvUNet", "some.where.ResidualEncoderUNet"])
def test_the_arguments_of_our_networks_are_not(name: str) -> None:
    values = plan(HIPPOCAMPUS).to_json()
    values["configurations"]["2d"]["architecture"] = {
        "network_class_name": name,
        "arch_kwargs": {"n_stages": "2"},
    }

    places = [mistake.where for mistake in form_mistakes(values)]

    assert "configurations.2d.architecture.arch_kwargs.n_stages" in places
    assert "configurations.2d.architecture.arch_kwargs.strides" in places


def test_a_configuration_that_inherits_from_null_must_be_whole() -> None:
    values = plan(HIPPOCAMPUS).to_json()
    values["configurations"]["odd"] = {"inherits_from": None, "batch_size": 4}

    assert "configurations.odd.patch_size" in {mistake.where for mistake in form_mistakes(values)}
