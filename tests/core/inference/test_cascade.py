"""What one stage of a cascade hands to the next."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from core.domain.geometry import Axes, Shape, Spacing
from core.domain.labels import label_set
from core.domain.model import PredictionOptions
from core.domain.progress import Progress, SilentObserver
from core.errors import ImageError, ModelError
from core.inference.cascade import next_stage_labels, next_stage_shape, with_labels_apart
from core.inference.model import LoadedModel, load_model, load_stage, tile_network
from core.inference.predict import predict_image, predict_logits
from core.inference.slabs import Accumulator, fold_mean_logits
from core.inference.sliding_window import Window
from core.io.image import Geometry, Image
from core.preprocessing.pipeline import preprocess_case
from core.preprocessing.resample import RESAMPLINGS, Grid, regrid_image
from tests.plans import arguments, small_plan

OPTIONS = PredictionOptions(device="cpu", precision="fp32")
LABELS = label_set({"background": 0, "a": 1, "b": 2}, None)
REGIONS = label_set({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])


class Watcher(SilentObserver):
    def __init__(self) -> None:
        self.reports: list[Progress] = []

    def report(self, progress: Progress) -> None:
        self.reports.append(progress)


@pytest.fixture
def cascade(cascade_folder: Path) -> LoadedModel:
    return load_model(cascade_folder, OPTIONS)


@pytest.fixture
def image() -> Image:
    voxels = np.random.default_rng(0).normal(100, 20, (2, 18, 15, 13)).astype(np.float32)
    voxels[:, :, :2] = 0
    return Image(voxels, geometry((1.0, 1.0, 1.0)))


def geometry(spacing: Spacing) -> Geometry:
    return Geometry(
        spacing=spacing,
        file_spacing_xyz=spacing[::-1],
        origin_xyz=(0, 0, 0),
        direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
    )


def labels_on(image: Image, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 2, image.shape).astype(np.uint8)


def test_labels_of_a_tile_become_channels() -> None:
    tiles = torch.tensor([[0.5, 0.25, 1.5], [0, 1, 2]]).reshape(1, 2, 1, 1, 3).bfloat16()

    apart = with_labels_apart(tiles, (1, 2))

    assert apart.dtype == torch.bfloat16
    assert apart.flatten().tolist() == [0.5, 0.25, 1.5, 0, 1, 0, 0, 0, 1]


def test_the_network_sees_the_image_and_a_channel_per_label(cascade: LoadedModel, image: Image) -> None:
    case = preprocess_case(
        image, None, cascade.plan, cascade.configuration, cascade.labels, previous_zyx=labels_on(image)
    )
    assert case.previous_zyx is not None

    logits = predict_logits(cascade, case, OPTIONS, SilentObserver())

    channels = torch.from_numpy(
        np.concatenate([case.voxels_czyx, case.previous_zyx[np.newaxis] == 1]).astype(np.float32)
    )
    networks = [
        tile_network(network, cascade.precision, cascade.device) for network in cascade.networks.values()
    ]
    window = Window((8, 8, 8), mirror_axes=(0, 1, 2))
    expected = fold_mean_logits(
        networks, channels, window, Accumulator(2, torch.device("cpu")), lambda _: None
    )
    assert (logits - expected).abs().max() < 1e-5


def test_the_earlier_stage_segments_what_the_later_one_refines(cascade: LoadedModel, image: Image) -> None:
    watcher = Watcher()

    done = predict_image(cascade, image, OPTIONS, watcher)

    assert cascade.previous is not None
    before = predict_image(cascade.previous, image, OPTIONS, SilentObserver()).segmentation.labels_zyx
    told = predict_image(cascade, image, OPTIONS, SilentObserver(), previous_zyx=before)
    assert np.array_equal(done.segmentation.labels_zyx, told.segmentation.labels_zyx)
    assert list(done.seconds) == ["previous", "preprocess", "network", "export"]
    assert list(dict.fromkeys(report.stage for report in watcher.reports)) == ["previous", "predict"]


def test_another_previous_segmentation_gives_another_one(cascade: LoadedModel, image: Image) -> None:
    one, other = (
        predict_image(cascade, image, OPTIONS, SilentObserver(), previous_zyx=previous).segmentation
        for previous in (np.zeros(image.shape, np.uint8), np.ones(image.shape, np.uint8))
    )

    assert (one.labels_zyx != other.labels_zyx).any()


def test_a_cascade_without_its_earlier_stage_says_what_it_needs(cascade_folder: Path, image: Image) -> None:
    alone = load_stage(cascade_folder, OPTIONS)

    with pytest.raises(
        ModelError, match="refines what 3d_lowres segments; give that segmentation, or the model"
    ):
        predict_image(alone, image, OPTIONS, SilentObserver())
    case = preprocess_case(image, None, alone.plan, alone.configuration, alone.labels)
    with pytest.raises(ModelError, match="refines what 3d_lowres segments"):
        predict_logits(alone, case, OPTIONS, SilentObserver())


def test_a_previous_segmentation_that_does_not_fit_is_refused(
    cascade: LoadedModel, model_folder: Path, image: Image
) -> None:
    previous = labels_on(image)
    previous[0, 0, 0] = 7

    with pytest.raises(
        ImageError, match=r"has \(18, 15, 13\) voxels .* 3d_lowres segmented has \(2, 15, 13\)"
    ):
        predict_image(cascade, image, OPTIONS, SilentObserver(), previous_zyx=previous[:2])
    with pytest.raises(ImageError, match="3d_lowres segmented holds 7, which is no label"):
        predict_image(cascade, image, OPTIONS, SilentObserver(), previous_zyx=previous)
    with pytest.raises(ModelError, match="3d_fullres is no later stage of a cascade"):
        predict_image(
            load_model(model_folder, OPTIONS), image, OPTIONS, SilentObserver(), previous_zyx=labels_on(image)
        )


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.3, 0.7, 1.4)])
@pytest.mark.parametrize(
    ("target", "entries"),
    [
        ((0.9, 1.3, 2.1), {}),
        ((0.9, 1.3), {}),
        ((0.9, 1.3, 2.1), {"resampling_fn_data": "no_resampling_hack"}),
    ],
)
def test_the_next_grid_is_that_of_the_preprocessed_case(
    axes: Axes, spacing: Spacing, target: Spacing, entries: dict[str, str]
) -> None:
    low_plan, low = small_plan((3.0, 3.0, 3.0), axes=axes)
    plan, following = small_plan(target, axes=axes, entries=entries)
    voxels = np.zeros((1, 14, 17, 19), np.float32)
    voxels[:, 1:, 2:-2, :-3] = np.random.default_rng(0).normal(100, 20, (1, 13, 13, 16))
    image = Image(voxels, geometry(spacing))

    properties = preprocess_case(image, None, low_plan, low, LABELS).properties

    made = preprocess_case(image, None, plan, following, LABELS)
    assert next_stage_shape(properties, plan, following) == made.voxels_czyx.shape[1:]


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (8.0, 2.0, 2.0)])
@pytest.mark.parametrize("order", [1, 3])
def test_logits_are_interpolated_before_labels_are_decided(
    labels: object, spacing: Spacing, order: int
) -> None:
    chosen = REGIONS if labels is REGIONS else LABELS
    _, configuration = small_plan(
        spacing, entries={"resampling_fn_probabilities_kwargs": arguments(order=order)}
    )
    logits = np.random.default_rng(0).normal(size=(len(chosen.heads), 5, 6, 7)).astype(np.float32)
    shape: Shape = (8, 13, 11)

    found = next_stage_labels(torch.from_numpy(logits), (1.0, 1.0, 1.0), shape, configuration, chosen)

    change = RESAMPLINGS.get("resample_data_or_seg_to_shape")(
        Grid((5, 6, 7), spacing), Grid(shape, spacing), arguments(order=order)
    )
    fine = regrid_image(logits, change)
    expected = np.where(fine[1] > 0, 2, fine[0] > 0) if chosen is REGIONS else fine.argmax(0)
    assert (change.apart is None) == (spacing[0] == 2.0)
    assert found.dtype == np.uint8
    assert (found != expected).mean() < 1e-3


def test_many_labels_take_16_bits_and_a_grid_out_of_reach_is_refused() -> None:
    many = replace(LABELS, labels=tuple(range(256)), heads=tuple(range(256)), names=("x",) * 256)
    logits = torch.zeros(256, 2, 2, 2)
    logits[255] = 1
    _, configuration = small_plan((1.0, 1.0, 1.0))
    _, stuck = small_plan((1.0, 1.0, 1.0), entries={"resampling_fn_probabilities": "no_resampling_hack"})

    found = next_stage_labels(logits, (1.0, 1.0, 1.0), (3, 3, 3), configuration, many)

    assert found.dtype == np.uint16
    assert (found == 255).all()
    with pytest.raises(
        ModelError, match=r"leaves logits of \(2, 2, 2\) voxels .* the next stage has \(3, 3, 3\)"
    ):
        next_stage_labels(logits, (1.0, 1.0, 1.0), (3, 3, 3), stuck, many)
