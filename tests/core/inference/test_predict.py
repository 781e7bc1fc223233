from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.domain.dataset import DatasetDescription
from core.domain.model import PredictionOptions
from core.domain.plan import Plan
from core.domain.progress import Progress, SilentObserver
from core.errors import CancelledError, ImageError, ModelError
from core.inference.model import LoadedModel, load_model
from core.inference.predict import predict_image, predict_logits, segmentation_of
from core.io.image import Geometry, Image
from core.network.device import Precision
from core.preprocessing.pipeline import preprocess_case
from tests.core.training.setups import case_of

OPTIONS = PredictionOptions(device="cpu", precision="fp32")
GEOMETRY = Geometry(
    spacing=(1, 1, 1),
    file_spacing_xyz=(1, 1, 1),
    origin_xyz=(-3, 4.5, 7),
    direction=(0, 1, 0, -1, 0, 0, 0, 0, 1),
)


class Brightness(nn.Module):
    """Calls lesion what is brighter than the mean of the first channel."""

    def forward(self, tiles: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(tiles[:, :1]), tiles[:, :1]], dim=1)


class Watcher(SilentObserver):
    def __init__(self, stop_after: int | None = None) -> None:
        self.reports: list[Progress] = []
        self.stop_after = stop_after

    def report(self, progress: Progress) -> None:
        self.reports.append(progress)

    def stop_requested(self) -> bool:
        return self.stop_after is not None and len(self.reports) > self.stop_after


@pytest.fixture
def model(plan: Plan, description: DatasetDescription) -> LoadedModel:
    return LoadedModel(
        description=description,
        plan=plan,
        configuration_name="3d_fullres",
        configuration=plan.configuration("3d_fullres"),
        labels=description.label_set(),
        mirror_axes=(0, 1, 2),
        networks={0: Brightness(), 1: Brightness()},
        precision=Precision("fp32", "for the test"),
        device=torch.device("cpu"),
    )


@pytest.fixture
def image() -> Image:
    voxels = np.random.default_rng(0).normal(100, 1, (2, 11, 13, 9)).astype(np.float32)
    voxels[0, 2:6, 3:9, 1:5] += 200
    return Image(voxels, GEOMETRY)


def test_a_segmentation_lies_on_the_grid_of_the_image(model: LoadedModel, image: Image) -> None:
    prediction = predict_image(model, image, OPTIONS, SilentObserver())

    bright = image.voxels_czyx[0] > image.voxels_czyx[0].mean()
    assert np.array_equal(prediction.segmentation.labels_zyx, bright)
    assert prediction.segmentation.geometry == GEOMETRY
    assert prediction.folds == (0, 1)
    assert list(prediction.seconds) == ["preprocess", "network", "export"]
    assert min(prediction.seconds.values()) >= 0


def test_other_spacings_are_resampled_there_and_back(model: LoadedModel, image: Image) -> None:
    coarse = GEOMETRY.model_copy(update={"spacing": (2.0, 1.5, 1.0), "file_spacing_xyz": (1.0, 1.5, 2.0)})

    prediction = predict_image(model, Image(image.voxels_czyx, coarse), OPTIONS, SilentObserver())

    found = prediction.segmentation.labels_zyx == 1
    assert prediction.segmentation.geometry == coarse
    assert found[2:6, 3:9, 1:5].all()
    assert found.sum() == found[1:7, 2:10, 0:6].sum()


def test_a_preprocessed_case_gives_the_same_segmentation(model: LoadedModel, image: Image) -> None:
    case = preprocess_case(image, None, model.plan, model.configuration, model.labels)
    case.voxels_czyx.flags.writeable = False

    segmentation = segmentation_of(model, case, predict_logits(model, case, OPTIONS, SilentObserver()))

    expected = predict_image(model, image, OPTIONS, SilentObserver()).segmentation
    assert np.array_equal(segmentation.labels_zyx, expected.labels_zyx)
    assert segmentation.geometry == expected.geometry


def test_a_single_fold_may_be_chosen_among_those_loaded(model: LoadedModel, image: Image) -> None:
    prediction = predict_image(model, image, OPTIONS.model_copy(update={"folds": (1,)}), SilentObserver())

    assert prediction.folds == (1,)
    with pytest.raises(ModelError, match="fold 3 is not loaded; choose among 0, 1"):
        predict_image(model, image, OPTIONS.model_copy(update={"folds": (3,)}), SilentObserver())


def test_an_image_with_other_channels_is_refused_with_their_names(model: LoadedModel, image: Image) -> None:
    with pytest.raises(ImageError, match="has 1 channel, the model needs 2: T1, FLAIR"):
        predict_image(model, Image(image.voxels_czyx[:1], GEOMETRY), OPTIONS, SilentObserver())


def test_progress_ends_at_the_total_and_a_stop_is_heeded_between_tiles(
    model: LoadedModel, image: Image
) -> None:
    watcher, impatient = Watcher(), Watcher(stop_after=1)

    predict_image(model, image, OPTIONS, watcher)
    with pytest.raises(CancelledError, match="stopped after 12 of 24"):
        predict_image(model, image, OPTIONS, impatient)

    assert watcher.reports[0].done == 0
    assert watcher.reports[-1].done == watcher.reports[-1].total == 2 * 2 * 3 * 2
    assert {report.stage for report in watcher.reports} == {"predict"}


def test_options_reach_the_sliding_window(model_folder: Path) -> None:
    model = load_model(model_folder, OPTIONS)
    case = case_of(np.random.default_rng(0).normal(size=(2, 16, 16, 16)).astype(np.float32), None)

    plain = predict_logits(model, case, OPTIONS, SilentObserver())
    variants = [
        predict_logits(model, case, OPTIONS.model_copy(update=change), SilentObserver())
        for change in ({"mirroring": False}, {"step_size": 1.0}, {"gaussian": False}, {"folds": (0,)})
    ]

    assert plain.shape == (2, 16, 16, 16)
    assert all((variant - plain).abs().max() > 1e-3 for variant in variants)
