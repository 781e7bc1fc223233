"""The order of preprocessing, and what it leaves for the way back."""

import numpy as np
import pytest

from core.domain.geometry import Spacing
from core.domain.labels import label_set
from core.errors import ImageError
from core.io.image import FloatArray, Geometry, Image
from core.preprocessing.pipeline import preprocess_case
from tests.plans import small_plan

LABELS = label_set({"background": 0, "a": 1, "b": 2}, None)


def image(voxels_czyx: FloatArray, spacing: Spacing) -> Image:
    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    geometry = Geometry(
        spacing=spacing, file_spacing_xyz=spacing[::-1], origin_xyz=(0, 0, 0), direction=identity
    )
    return Image(voxels_czyx, geometry)


def body() -> FloatArray:
    voxels_czyx = np.zeros((1, 8, 10, 12), np.float32)
    voxels_czyx[:, 1:7, 2:9, 3:11] = np.random.default_rng(0).normal(100, 20, (1, 6, 7, 8))
    return voxels_czyx


def test_a_case_is_transposed_cropped_normalized_and_resampled() -> None:
    plan, configuration = small_plan((1.0, 2.0, 1.0), axes=(1, 0, 2))
    labels_zyx = np.zeros((8, 10, 12), np.uint8)
    labels_zyx[2:4, 4:6, 5:9] = 1

    case = preprocess_case(image(body(), (2.0, 1.0, 2.0)), labels_zyx, plan, configuration, LABELS)

    assert case.properties.spacing == (2.0, 1.0, 2.0)
    assert case.properties.shape_before_cropping == (10, 8, 12)
    assert case.properties.bbox_used_for_cropping == ((2, 9), (1, 7), (3, 11))
    assert case.properties.shape_after_cropping_and_before_resampling == (7, 6, 8)
    assert case.voxels_czyx.shape == (1, 7, 6, 16)
    assert case.voxels_czyx.dtype == np.float32
    assert abs(case.voxels_czyx.mean()) < 0.1
    assert case.labels_zyx is not None
    assert case.labels_zyx.shape == (7, 6, 16)
    assert case.labels_zyx.dtype == np.int8
    assert (case.labels_zyx[tuple(case.locations["1"][:, 1:].T)] == 1).all()
    assert len(case.locations["1"]) == (case.labels_zyx == 1).sum()
    assert len(case.locations["2"]) == 0


def test_without_a_reference_there_are_neither_labels_nor_locations() -> None:
    plan, configuration = small_plan((1.0, 1.0, 1.0))

    case = preprocess_case(image(body(), (1.0, 1.0, 1.0)), None, plan, configuration, LABELS)

    assert case.labels_zyx is None
    assert not case.locations


@pytest.mark.parametrize("masked", [False, True])
def test_what_a_previous_stage_segmented_is_treated_as_a_reference_is(masked: bool) -> None:  # noqa: FBT001
    plan, configuration = small_plan((1.0, 2.0, 1.0), axes=(1, 0, 2), masked=masked)
    previous_zyx = np.zeros((8, 10, 12), np.uint16)
    previous_zyx[:4, 4:6, :9] = 2
    coarse = image(body(), (2.0, 1.0, 2.0))

    case = preprocess_case(coarse, None, plan, configuration, LABELS, previous_zyx=previous_zyx)

    reference = preprocess_case(coarse, previous_zyx, plan, configuration, LABELS)
    assert case.previous_zyx is not None
    assert np.array_equal(case.previous_zyx, reference.labels_zyx)  # type: ignore[arg-type]
    assert np.array_equal(case.voxels_czyx, reference.voxels_czyx)
    assert case.labels_zyx is None
    assert not case.locations


def test_a_2d_configuration_never_resamples_across_slices() -> None:
    plan, configuration = small_plan((0.5, 0.5))

    case = preprocess_case(image(body(), (7.0, 1.0, 1.0)), None, plan, configuration, LABELS)

    assert case.voxels_czyx.shape == (1, 6, 14, 16)


@pytest.mark.parametrize("has_reference", [True, False])
def test_masked_normalization_leaves_what_lies_outside_at_zero(has_reference: bool) -> None:  # noqa: FBT001
    plan, configuration = small_plan((1.0, 1.0, 1.0), masked=True)
    voxels_czyx = body()
    voxels_czyx[0, 1, 2, 3:6] = 0
    labels_zyx = np.zeros((8, 10, 12), np.uint8) if has_reference else None

    case = preprocess_case(image(voxels_czyx, (1.0, 1.0, 1.0)), labels_zyx, plan, configuration, LABELS)

    inside = case.voxels_czyx[case.voxels_czyx != 0]
    assert (case.voxels_czyx[0, 0, 0, :3] == 0).all()
    assert abs(inside.mean()) < 1e-5
    assert inside.std() == pytest.approx(1, abs=1e-5)


def test_no_axis_vanishes() -> None:
    plan, configuration = small_plan((9.0, 9.0, 9.0))
    voxels_czyx = np.zeros((1, 20, 20, 20), np.float32)
    voxels_czyx[:, 4:6, 4:6, 4:6] = 1

    case = preprocess_case(image(voxels_czyx, (1.0, 1.0, 1.0)), None, plan, configuration, LABELS)

    assert case.voxels_czyx.shape == (1, 1, 1, 1)


def test_an_image_that_would_vanish_is_refused() -> None:
    plan, configuration = small_plan((1000.0, 1.0, 1.0))

    with pytest.raises(
        ImageError, match=r"at the spacing \[1000, 1, 1\] mm.*of which nothing could be learnt"
    ):
        preprocess_case(image(body(), (1.0, 1.0, 1.0)), None, plan, configuration, LABELS)


def test_labels_on_another_grid_are_refused() -> None:
    plan, configuration = small_plan((1.0, 1.0, 1.0))
    labels_zyx = np.zeros((8, 10, 11), np.uint8)

    with pytest.raises(ImageError, match="resample one onto the grid"):
        preprocess_case(image(body(), (1.0, 1.0, 1.0)), labels_zyx, plan, configuration, LABELS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    plan, configuration = small_plan((1.0, 1.0, 1.0))
    voxels_czyx = body()
    voxels_czyx[0, 3, 3, 3] = value

    with pytest.raises(ImageError, match="not finite"):
        preprocess_case(image(voxels_czyx, (1.0, 1.0, 1.0)), None, plan, configuration, LABELS)


def test_each_channel_has_its_own_scheme() -> None:
    schemes = ("NoNormalization", "RescaleTo01Normalization")
    plan, configuration = small_plan((1.0, 1.0, 1.0), schemes=schemes)
    voxels_czyx = np.concatenate([body(), body()])

    case = preprocess_case(image(voxels_czyx, (1.0, 1.0, 1.0)), None, plan, configuration, LABELS)

    assert np.array_equal(case.voxels_czyx[0], voxels_czyx[0, 1:7, 2:9, 3:11])
    assert (case.voxels_czyx[1].min(), case.voxels_czyx[1].max()) == (0, 1)


def test_the_image_itself_is_not_changed() -> None:
    plan, configuration = small_plan((1.0, 2.0, 1.0))
    voxels_czyx, labels_zyx = body(), np.zeros((8, 10, 12), np.int16)

    preprocess_case(image(voxels_czyx, (1.0, 1.0, 1.0)), labels_zyx, plan, configuration, LABELS)

    assert np.array_equal(voxels_czyx, body())
    assert (labels_zyx == 0).all()
