"""Fingerprints that are broken or of another dataset: refused in a sentence that names entry and cure."""

import json
import logging
from typing import Any

import pytest

from core.domain.fingerprint import Fingerprint, IntensityProperties
from core.domain.geometry import Shape, Spacing
from core.errors import PlanningError
from tests.planned import HIPPOCAMPUS, INTENSITIES, describe, measure, plan

NAN, INFINITY = float("nan"), float("inf")
MEASURE_AGAIN = "measure again with `fingerprint`"


def changed(**entries: Any) -> Fingerprint:
    return measure([(1.0, 1.0, 1.0)] * 3, [(40, 60, 50)] * 3).model_copy(update=entries)


@pytest.mark.parametrize(
    ("spacing", "named"),
    [
        ((0.0, 1.0, 1.0), "spacings.1 is [0.0, 1.0, 1.0]"),
        ((1.0, -1.0, 1.0), "spacings.1"),
        ((1.0, NAN, 1.0), "spacings.1"),
        ((1.0, INFINITY, 1.0), "spacings.1"),
        ((1e-300, 1.0, 1.0), "spacings.1"),
        ((1e300, 1.0, 1.0), "spacings.1"),
    ],
)
def test_a_spacing_that_is_none_is_named(spacing: Spacing, named: str) -> None:
    broken = changed(spacings=((1.0, 1.0, 1.0), spacing, (1.0, 1.0, 1.0)))

    with pytest.raises(PlanningError, match="mend its header") as raised:
        plan((broken, describe(3)))
    assert named in raised.value.message
    assert raised.value.message.endswith(MEASURE_AGAIN)


@pytest.mark.parametrize("shape", [(0, 60, 50), (40, -1, 50), (10**9, 10**9, 10**9)])
def test_a_shape_that_is_none_is_named(shape: Shape) -> None:
    broken = changed(shapes_after_crop=((40, 60, 50), (40, 60, 50), shape))

    with pytest.raises(PlanningError, match=r"shapes_after_crop\.2 is \[.* voxels.*measure again"):
        plan((broken, describe(3)))


@pytest.mark.parametrize("share", [NAN, INFINITY, 0.0, -0.5, 1.5])
def test_a_relative_size_that_is_no_share_is_named(share: float) -> None:
    with pytest.raises(PlanningError, match=r"median_relative_size_after_cropping.*measure again"):
        plan((changed(median_relative_size_after_cropping=share), describe(3)))


def test_lists_are_of_the_same_cases() -> None:
    with pytest.raises(PlanningError, match=r"3 spacings but 2 shapes.*measure again"):
        plan((changed(shapes_after_crop=((40, 60, 50),) * 2), describe(3)))


def test_an_empty_list_is_named() -> None:
    with pytest.raises(PlanningError, match=r"no case.*measure again"):
        plan((changed(shapes_after_crop=(), spacings=()), describe(3)))


@pytest.mark.parametrize("key", ["mean", "std", "percentile_00_5"])
def test_intensities_are_numbers(key: str) -> None:
    properties = IntensityProperties.model_validate({**INTENSITIES.to_json(), key: NAN})
    broken = changed(foreground_intensity_properties_per_channel={"0": properties})

    with pytest.raises(PlanningError) as raised:
        plan((broken, describe(3)))
    assert f"foreground_intensity_properties_per_channel.0.{key} is nan" in raised.value.message
    assert raised.value.message.endswith(MEASURE_AGAIN)


def test_every_channel_has_its_intensities() -> None:
    broken = changed(foreground_intensity_properties_per_channel={"0": INTENSITIES, "2": INTENSITIES})

    with pytest.raises(PlanningError, match=r"channel 1 .PET.*measure again"):
        plan((broken, describe(3, channels=("CT", "PET"))))


def test_all_that_is_wrong_is_told_at_once() -> None:
    broken = changed(median_relative_size_after_cropping=NAN, spacings=((0.0, 1.0, 1.0),) * 3)

    with pytest.raises(PlanningError, match=r"3 spacings.*spacings\.0.*median_relative_size"):
        plan((broken, describe(3)))


@pytest.mark.parametrize("cases", [259, 261])
def test_another_number_of_cases_is_said_and_planned_for(
    cases: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As the reference: what dataset.json says bounds the batch."""
    with caplog.at_level(logging.WARNING):
        made = plan((HIPPOCAMPUS[0], describe(cases)))

    assert made.configuration("3d_fullres").batch_size == 9
    assert f"numTraining is {cases}" in caplog.text
    assert "260 cases" in caplog.text


def test_the_right_number_of_cases_is_worth_no_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        plan(HIPPOCAMPUS)

    assert caplog.text == ""


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"spacings": []}, "spacings"),
        ({"shapes_after_crop": [[1, 2]]}, "shapes_after_crop.0"),
        ({"shapes_after_crop": [[1.5, 2, 3]]}, "shapes_after_crop.0"),
        ({"spacings": "wide"}, "spacings"),
        ({"spacings": [[1, 1, None]]}, "spacings.0.2"),
        ({"median_relative_size_after_cropping": None}, "median_relative_size_after_cropping"),
        ({"foreground_intensity_properties_per_channel": {"0": {"mean": 1}}}, "per_channel.0.max"),
        ({"foreground_intensity_properties_per_channel": []}, "foreground_intensity_properties_per_channel"),
    ],
)
def test_a_file_of_another_form_is_one_sentence(entries: dict[str, Any], named: str) -> None:
    text = json.dumps(HIPPOCAMPUS[0].to_json() | entries)

    with pytest.raises(PlanningError) as raised:
        Fingerprint.parse(text)
    assert named in raised.value.message
    assert raised.value.message.endswith(MEASURE_AGAIN)


def test_a_sound_file_is_read() -> None:
    assert Fingerprint.parse(json.dumps(HIPPOCAMPUS[0].to_json())) == HIPPOCAMPUS[0]
