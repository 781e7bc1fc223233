"""Predictions by a real worker and its warm child: what is loaded again, what is kept, what comes of options."""

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name

from app.db.base import transaction
from app.db.models import Prediction
from app.jobs import JobState
from app.requests import PredictionChoices
from app.services import predictions
from app.services.aliases import ModelReference, parsed
from app.services.predictions import PredictionRequest
from app.services.resources import Resources
from tests.app import playing
from tests.core.exchange.official import results, zipped
from tests.factories import Recipe, make_phantom, write_array
from tests.worker.running import job, run_next
from worker.machine import Worker

RECIPE = Recipe(shape=(10, 12, 11), ending=".nii.gz")


@pytest.fixture(params=["sqlite"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Of one kind: which database it is has no part in this."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def warm_worker(worker: Worker) -> Iterator[Worker]:
    yield worker
    worker.cool_down()


@pytest.fixture
def model(worker: Worker, resources: Resources, tmp_path: Path) -> ModelReference:
    """Of two folds, two channels and one label."""
    submission = playing.imported(resources, zipped(tmp_path / "model.zip", results()).read_bytes())
    run_next(worker, resources)
    return parsed(str(submission.id))


def predicted(
    worker: Worker, resources: Resources, model: ModelReference, folder: Path, **chosen: Any
) -> Prediction:
    """Have an image segmented; return the row."""
    image = write_array(make_phantom(RECIPE).voxels_czyx[0], folder / f"{uuid4()}.nii.gz", RECIPE)
    channels = [playing.incoming(resources, image.read_bytes()) for _ in range(2)]
    request = PredictionRequest(model, channels, ".nii.gz", choices=PredictionChoices(**chosen))
    submission = predictions.submit(resources, request, None)
    run_next(worker, resources)
    ended = job(resources, submission.job_id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    return row(resources, submission.id)


def row(resources: Resources, prediction_id: UUID) -> Prediction:
    with transaction(resources.readers) as session:
        return predictions.find(session, prediction_id).prediction


def file_of(resources: Resources, prediction: Prediction, which: predictions.Extra) -> Path:
    return predictions.chosen_file(resources, prediction.id, which).path


def voxels_of(path: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="NiftiImageIO"))


def test_only_options_that_change_what_is_loaded_load_it_again(
    warm_worker: Worker, resources: Resources, model: ModelReference, tmp_path: Path
) -> None:
    orders: list[dict[str, Any]] = [
        {"precision": "fp32"},
        {"precision": "fp32", "mirroring": False, "step_size": 1, "postprocessing": False},
        {"precision": "fp32", "uncertainty": True, "probabilities": True},
        {"precision": "fp32", "folds": (1,)},
        {"precision": "fp32", "folds": (1,), "mirroring": False},
        {"precision": "fp32", "folds": (0, 1)},
        {"precision": "fp32", "folds": (1, 0)},
        {"precision": "bf16"},
        {"precision": "fp32"},
    ]

    found = [predicted(warm_worker, resources, model, tmp_path, **order).provenance or {} for order in orders]

    assert [one["warm"] for one in found] == [False, True, True, False, True, False, True, False, True]
    assert [one["folds"] for one in found] == [[0, 1]] * 3 + [[1]] * 2 + [[0, 1], [1, 0], [0, 1], [0, 1]]
    assert [one["precision"] for one in found] == ["fp32"] * 7 + ["bf16", "fp32"]


def test_what_was_asked_for_is_kept_in_the_references_layout_and_fits_the_segmentation(
    warm_worker: Worker, resources: Resources, model: ModelReference, tmp_path: Path
) -> None:
    prediction = predicted(
        warm_worker, resources, model, tmp_path, probabilities=True, uncertainty=True, mirroring=False
    )

    labels_zyx = voxels_of(predictions.segmentation(resources, prediction.id).path)
    npz = file_of(resources, prediction, predictions.PROBABILITIES)
    with np.load(io.BytesIO(npz.read_bytes())) as kept:
        assert kept.files == ["probabilities"]
        probabilities_kzyx = kept["probabilities"]
    assert probabilities_kzyx.shape == (2, *labels_zyx.shape)
    assert np.array_equal(probabilities_kzyx.argmax(0), labels_zyx)
    properties = pickle.loads(file_of(resources, prediction, predictions.PROPERTIES).read_bytes())  # noqa: S301
    assert properties["sitk_stuff"]["spacing"] == RECIPE.spacing[::-1]
    assert {"bbox_used_for_cropping", "shape_before_cropping", "spacing"} <= properties.keys()
    uncertainty_zyx = voxels_of(file_of(resources, prediction, predictions.UNCERTAINTY))
    assert (uncertainty_zyx.shape, uncertainty_zyx.dtype) == (labels_zyx.shape, np.float32)
    assert 0 < uncertainty_zyx.max() <= 1
    plain = predicted(warm_worker, resources, model, tmp_path)
    assert (plain.probabilities_key, plain.properties_key, plain.uncertainty_key) == (None, None, None)
