"""Trainings that begin with something: splits of one's own, a model's weights, an earlier training; two processes each."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import Service, kill, require_ended, running, wait_for
from tests.factories import Recipe, case_name, make_dataset, zip_folder

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]

RECIPE = Recipe(cases=4, shape=(16, 20, 18), ending=".nii.gz")

CASES = [case_name(number) for number in range(RECIPE.cases)]

SPLITS = [{"train": CASES[1:], "val": CASES[:1]}, {"train": CASES[:2], "val": CASES[2:]}]

SHORT = {"epochs": 2, "iterations_per_epoch": 2, "seed": 3}


@dataclass
class Place:
    """A service whose trainings have two processes, a dataset, and a training on its own splits."""

    service: Service
    dataset: Any
    first: Any

    def trained(self, accepted: Any) -> Any:
        """Return a training once it has succeeded."""
        job = self.service.end_of(accepted["job_id"], seconds=300)
        assert job["state"] == "succeeded", job["error"]
        return self.service.get(f"/trainings/{accepted['id']}")

    def partners(self) -> list[int]:
        """Return the processes that train together just now."""
        found = self.service.descendants()
        return sorted(pid for pid, command in found.items() if "-m worker.partner" in command)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("beginnings")
    archive = zip_folder(make_dataset(folder / "raw", RECIPE), folder / "phantoms.zip", inside="Phantoms")
    settings = {"SEG_PROCESSES_PER_TRAINING": "2"}
    with running(folder / "data", folder / "log", settings) as service:
        dataset = service.upload(archive)
        place = Place(service, dataset, None)
        accepted = service.train(dataset, splits=SPLITS, settings={"loss": "ce"}, **SHORT)
        place.first = place.trained(accepted)
        yield place


def test_folds_validate_the_cases_of_their_own_splits(place: Place) -> None:
    validated = {(score["fold"], score["case"]) for score in place.first["validation"]}

    assert validated == {(0, CASES[0]), (1, CASES[2]), (1, CASES[3])}
    assert [(fold["fold"], fold["epochs"]) for fold in place.first["folds"]] == [(0, 2), (1, 2)]


def test_of_several_configurations_the_best_or_two_together_become_the_model(
    place: Place, tmp_path: Path
) -> None:
    asked = {"configurations": ["2d", "3d_fullres"], "splits": SPLITS, "epochs": 1, "iterations_per_epoch": 2}
    training = place.trained(place.service.train(place.dataset, **asked))
    model = place.service.get(f"/models/{training['model_id']}")
    image = make_dataset(tmp_path / "raw", RECIPE) / "imagesTr" / f"{CASES[0]}_0000.nii.gz"
    prediction = place.service.predict(model["id"], image)

    selection = model["selection"]
    assert [one["members"] for one in selection["candidates"]] == [
        ["2d"],
        ["3d_fullres"],
        ["2d", "3d_fullres"],
    ]
    assert (selection["folds"], selection["cases"]) == ([0, 1], 3)
    assert model["configuration"] == "+".join(selection["winner"])
    assert model["members"] == (selection["winner"] if len(selection["winner"]) > 1 else [])
    assert model["folds"] == [0, 1]
    assert prediction["state"] == "succeeded"


def test_a_training_gets_more_epochs(place: Place) -> None:
    response = place.service.client.post(f"/trainings/{place.first['id']}/continue", json={"epochs": 4})
    assert response.status_code == 202, response.text
    further = place.trained(response.json())

    assert further["continues"] == place.first["id"]
    for fold in (0, 1):
        before, after = (
            [(epoch["epoch"], epoch["train_loss"]) for epoch in training["epochs"] if epoch["fold"] == fold]
            for training in (place.first, further)
        )
        assert [number for number, _ in after] == [0, 1, 2, 3]
        assert after[:2] == before
    assert {fold["epochs"] for fold in further["folds"]} == {4}
    assert further["model_id"] not in (None, place.first["model_id"])


def test_a_training_begins_with_the_weights_of_a_model(place: Place) -> None:
    pretrained = {"model_id": place.first["model_id"], "fold": 1}
    tuned = place.trained(place.service.train(place.dataset, folds=["all"], pretrained=pretrained, **SHORT))

    (fold,) = tuned["folds"]
    assert (fold["pretrained"]["model_id"], fold["pretrained"]["fold"]) == (place.first["model_id"], 1)
    assert fold["pretrained"]["taken"] > len(fold["pretrained"]["left"]) > 0
    assert {tensor["reason"] for tensor in fold["pretrained"]["left"]} == {"head"}


def test_a_death_among_two_processes_costs_an_epoch_and_a_wish_to_stop_ends_both(place: Place) -> None:
    accepted = place.service.train(place.dataset, folds=["all"], epochs=500, iterations_per_epoch=20)
    address = f"/trainings/{accepted['id']}"
    wait_for(lambda: place.service.get(address)["epochs"] or None)
    first = wait_for(lambda: place.partners() if len(place.partners()) == 2 else None)

    kill(first[1])
    again = wait_for(
        lambda: now if len(now := [p for p in place.partners() if p not in first]) == 2 else None
    )
    done = len(place.service.get(address)["epochs"])
    wait_for(lambda: len(place.service.get(address)["epochs"]) > done or None)
    place.service.client.post(f"/jobs/{accepted['job_id']}/cancel")
    job = place.service.end_of(accepted["job_id"])

    assert job["state"] == "canceled"
    train = next(child for child in job["children"] if child["kind"] == "train")
    assert train["attempt"] == 2
    require_ended((*first, *again))
