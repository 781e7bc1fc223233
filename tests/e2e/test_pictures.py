"""A 2D dataset of color pictures, from the zip to a segmented picture."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import World
from tests.factories import Recipe, make_dataset, make_phantom, write_case, zip_folder

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

PICTURES = Recipe(
    cases=5, shape=(1, 40, 48), channels=3, ending=".png", channel_names=["red", "green", "blue"]
)


def test_color_pictures_are_learnt_and_segmented(world: World, tmp_path: Path) -> None:
    archive = zip_folder(make_dataset(tmp_path / "raw", PICTURES), tmp_path / "pictures.zip")
    dataset = world.service.upload(archive, "Pictures")
    assert dataset["state"] == "ready", dataset["problems"]
    accepted = world.service.train(dataset, folds=["all"], epochs=2, iterations_per_epoch=2)
    job = world.service.end_of(accepted["job_id"])
    assert job["state"] == "succeeded", job["error"]
    larger = replace(PICTURES, shape=(1, 52, 44))
    (picture,) = write_case(tmp_path / "new", "Ts", "new", make_phantom(larger, 9), larger)

    prediction = world.service.predict(job["result"]["model_id"], picture)

    mask = Image.open(io.BytesIO(world.service.client.get(prediction["links"]["segmentation"]).content))
    assert (mask.format, mask.size) == ("PNG", (44, 52))
    assert set(np.unique(np.array(mask))) <= {0, 1, 2}
    assert prediction["volumes"] == {}
    assert prediction["provenance"]["configuration"] == "2d"
