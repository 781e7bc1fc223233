"""Reasons for the decisions of a plan."""

from typing import Any

import pytest

from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import Fingerprint
from core.domain.plan import Plan
from core.planning.explain import explain
from core.planning.presets import PRESETS
from tests.planned import ACDC, AERIAL, BRATS, HIPPOCAMPUS, LIVER, plan

Dataset = tuple[Fingerprint, DatasetDescription]


def reasons(made: Plan, dataset: Dataset | None = None, **choices: Any) -> dict[tuple[str | None, str], str]:
    """Return the sentences by configuration and topic."""
    fingerprint, description = dataset or (None, None)
    found = explain(made, fingerprint=fingerprint, description=description, **choices)
    return {(one.configuration, one.topic): one.reason for one in found.decisions}


def edited(made: Plan, name: str, **entries: Any) -> Plan:
    values = made.to_json()
    values["configurations"][name] |= entries
    return Plan.model_validate(values)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("dataset", [HIPPOCAMPUS, ACDC, LIVER, BRATS, AERIAL])
@pytest.mark.parametrize("is_known", [True, False])
def test_no_decision_of_the_planner_is_taken_for_a_persons(
    dataset: Dataset, preset: str, *, is_known: bool
) -> None:
    found = reasons(plan(dataset, preset=preset), dataset if is_known else None)

    assert not [reason for reason in found.values() if "by hand" in reason or "edited" in reason]


def test_every_configuration_has_its_spacing_patch_and_batch_explained() -> None:
    found = reasons(plan(LIVER), LIVER)

    for name in ("2d", "3d_lowres", "3d_fullres"):
        assert {topic for configuration, topic in found if configuration == name} >= {
            "spacing", "patch_size", "batch_size", "network", "pooling", "kernels", "resampling", "batch_dice"
        }  # fmt: skip
    assert (
        "everything as in 3d_fullres; it sees the segmentation of 3d_lowres"
        in found[("3d_cascade_fullres", "inherits_from")]
    )


def test_why_there_is_a_cascade_or_none() -> None:
    with_cascade, without = reasons(plan(LIVER), LIVER), reasons(plan(HIPPOCAMPUS))

    assert "covers only 1.9% of the median image, below 25%" in with_cascade[(None, "configurations")]
    assert "no cascade: a patch of 3d_fullres covers 100%" in without[(None, "configurations")]
    assert "2d alone, because the images are single slices" in reasons(plan(AERIAL))[(None, "configurations")]


def test_why_no_cascade_where_it_would_gain_too_little() -> None:
    large = plan(BRATS, gpu_memory_gb=2.5)
    assert "3d_lowres" not in large.configurations

    assert "would not have 2 times fewer voxels" in reasons(large)[(None, "configurations")]


def test_thick_slices_are_explained_with_and_without_the_fingerprint() -> None:
    known, alone = reasons(plan(ACDC), ACDC), reasons(plan(ACDC))

    spacing = ("3d_fullres", "spacing")
    assert "along z the 10th percentile of their spacings (5 … 10 mm, median 10)" in known[spacing]
    assert "the 10th percentile instead of the median of 10 mm" in alone[spacing]


def test_the_limits_of_a_batch_are_figures() -> None:
    batch = ("3d_fullres", "batch_size")

    assert reasons(plan(HIPPOCAMPUS), HIPPOCAMPUS, gpu_memory_gb=8)[batch] == (
        "8 GB would allow 58 patches of this size, 5% of the dataset's voxels would be 9; "
        "the smaller number counts"
    )
    assert "8 GB (unless another target was given) would" in reasons(plan(HIPPOCAMPUS))[batch]


@pytest.mark.parametrize("dataset", [HIPPOCAMPUS, ACDC, LIVER, AERIAL])
@pytest.mark.parametrize("preset", ["default", "resenc_l"])
@pytest.mark.parametrize("memory", [4, 30])
def test_a_plan_is_compared_with_the_memory_that_it_was_made_for(
    dataset: Dataset, preset: str, memory: float
) -> None:
    found = reasons(plan(dataset, preset=preset, gpu_memory_gb=memory), dataset, gpu_memory_gb=memory)

    said = [found[None, "planner"], *(found[name, topic] for name, topic in found if topic == "patch_size")]
    assert [reason for reason in said if f"{memory} GB" not in reason] == []
    assert [reason for reason in found.values() if "by hand" in reason or "unless" in reason] == []


def test_where_nobody_recorded_the_memory_none_is_stated_as_a_fact() -> None:
    found = reasons(plan(LIVER, gpu_memory_gb=4), LIVER)

    assert "for a GPU with 8 GB (unless another target was given), and" in found[None, "planner"]
    patch = found["3d_fullres", "patch_size"]
    assert "by the rule, for 8 GB (unless another target was given), it would be 128 x 128 x 128" in patch
    assert patch.endswith("it was planned for another GPU memory or set by hand")
    assert "cut down" not in patch


@pytest.mark.parametrize("is_told", [True, False])
def test_the_plan_of_another_dataset_says_nothing_of_this_one(*, is_told: bool) -> None:
    made = plan(HIPPOCAMPUS)
    told = (None, ACDC[1]) if is_told else ACDC

    found = explain(made, fingerprint=told[0], description=told[1], is_moved=is_told)

    said = {(one.configuration, one.topic): one.reason for one in found.decisions}
    source = "as in the plan of the dataset that it comes from, or set by hand"
    for topic in ("spacing", "patch_size", "batch_size"):
        assert said["3d_fullres", topic].removeprefix("1 x 1 x 1 mm: ").startswith(source)
    assert said[None, "normalization of channel 0"].startswith(source)
    assert (
        "the rule gives 5 x 1.562 x 1.562 mm for the 200 cases" in said["3d_fullres", "spacing"]
    ) != is_told
    assert [
        reason
        for reason in said.values()
        if "the median image"
        in reason.replace("the median image of the dataset that the plan comes from", "")
    ] == []


def test_a_plan_of_slices_says_that_a_patch_is_one() -> None:
    found = reasons(plan(HIPPOCAMPUS), HIPPOCAMPUS)

    assert found["2d", "patch_size"].startswith(
        "a patch is a slice of an image; it covers 100% of a slice of the median image (50 x 35 voxels)"
    )
    assert found["2d", "batch_dice"].endswith(
        "over the whole batch, because one patch shows no more than one slice of an image"
    )


def test_what_a_person_changed_is_told() -> None:
    made = plan(HIPPOCAMPUS)

    batch = reasons(edited(made, "3d_fullres", batch_size=5), HIPPOCAMPUS)
    patch = reasons(edited(made, "3d_fullres", patch_size=[64, 64, 64]), HIPPOCAMPUS)
    spacing = reasons(edited(made, "3d_fullres", spacing=[2.0, 1.0, 1.0]), HIPPOCAMPUS)
    scheme = reasons(edited(made, "2d", normalization_schemes=["NoNormalization"]), HIPPOCAMPUS)

    assert "by the rule it would be 9" in batch[("3d_fullres", "batch_size")]
    assert "set by hand, it is larger than the median image needs" in patch[("3d_fullres", "patch_size")]
    assert "the rule gives 1 x 1 x 1 mm for these 260 cases" in spacing[("3d_fullres", "spacing")]
    assert "set by hand, a channel called 'MRI'" in scheme[(None, "normalization of channel 0")]


def test_normalization_says_what_it_does_and_where() -> None:
    ct, mr = reasons(plan(LIVER), LIVER), reasons(plan(BRATS), BRATS)

    assert "clipped to 3 … 190, mean 80, deviation 30" in ct[(None, "normalization of channel 0")]
    assert "within the nonzero mask alone" in mr[(None, "normalization of channel 3")]
    assert "(37% of the voxels in the median case)" in mr[(None, "normalization of channel 3")]


def test_a_foreign_planner_is_named_as_such() -> None:
    values = plan(HIPPOCAMPUS).to_json() | {"experiment_planner_used": "MyPlanner"}

    assert "no planner of this software" in reasons(Plan.model_validate(values))[(None, "planner")]


def test_transposed_axes_are_explained() -> None:
    made = plan(HIPPOCAMPUS, target_spacing=(1.0, 3.0, 1.0))

    assert reasons(made)[(None, "axes")].startswith("y, z, x: y is the coarsest axis")
    kept = plan(HIPPOCAMPUS, target_spacing=(1.0, 3.0, 1.0), suppress_transpose=True)
    assert "kept on request; by the rule, y would come first" in reasons(kept)[(None, "axes")]


def test_memory_is_estimated_for_an_image() -> None:
    found = explain(plan(LIVER), image_shape=(400, 512, 512))

    assert [cost.configuration for cost in found.prediction] == list(plan(LIVER).configurations)
    assert explain(plan(LIVER)).prediction == ()


def test_of_a_network_that_a_package_adds_only_its_name_is_explained() -> None:
    network = {"network_class_name": "some.where.Tokens", "arch_kwargs": {"width": 8}}
    made = edited(plan(HIPPOCAMPUS), "2d", architecture=network)

    found = explain(made, image_shape=(36, 50, 35))

    assert "only that knows why" in reasons(made)[("2d", "network")]
    assert ("2d", "patch_size") not in reasons(made)
    assert [cost.configuration for cost in found.prediction] == ["3d_fullres"]
