"""A dataset of an older layout is uploaded as it is, trained on, and used."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.domain.conversion import Layout
from tests.e2e.conftest import RECIPE, World
from tests.factories import case_name, zip_folder
from tests.older_layouts import make_older

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]


def test_four_axes_go_in_and_a_segmentation_comes_out(world: World, tmp_path: Path) -> None:
    raw = make_older(tmp_path / "made", replace(RECIPE, channels=2), Layout.DECATHLON, tests=1)

    dataset = world.service.upload(
        zip_folder(raw, tmp_path / "task.zip", inside="Task99_Phantoms"), "Decathlon"
    )

    assert dataset["state"] == "ready", dataset["problems"]
    assert dataset["labels"] == {"background": 0, "left": 1, "right": 2}
    assert dataset["channels"] == ["MRI0", "MRI1"]
    assert [case["case"] for case in dataset["cases"]] == [
        case_name(number) for number in range(RECIPE.cases)
    ]
    accepted = world.service.train(dataset, folds=["all"], epochs=1, iterations_per_epoch=1)
    job = world.service.end_of(accepted["job_id"])
    assert job["state"] == "succeeded", job["error"]
    image = raw / "imagesTs" / f"{case_name(RECIPE.cases)}.nii.gz"
    prediction = world.service.predict(job["result"]["model_id"], image)
    assert set(prediction["volumes"]) == {"left", "right"}
