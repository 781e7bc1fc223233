"""Imports and exports of models by a real worker, with real children: from the upload to the row, and away again."""

import io
import json
import pickle
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from app.db.base import transaction
from app.db.models import StoredObject, TrainedModel
from app.jobs import JobState
from app.services import exports, model_files, models
from app.services.resources import Resources
from app.settings import Settings
from tests.app import playing
from tests.core.exchange.official import TRAINER, Files, folder_of, results, zipped
from tests.core.inference.conftest import DATASET, PLANS
from tests.worker.running import job, objects, run_next
from worker.machine import Worker

ENSEMBLE = {
    "best_model_or_ensemble": {
        "selected_model_or_models": [
            {"configuration": name, "trainer": TRAINER, "plans_identifier": "nnUNetPlans"}
            for name in ("3d_lowres", "3d_fullres")
        ]
    },
    "folds": [0],
}


@pytest.fixture(params=["sqlite"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Of one kind: which database it is has no part in this."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def packed(folder: Path, files: Files) -> bytes:
    return zipped(folder / "model.zip", files).read_bytes()


def row(resources: Resources, model_id: UUID) -> TrainedModel:
    with transaction(resources.readers) as session:
        return models.find(session, model_id)


def test_an_official_zip_becomes_a_model_with_its_provenance(
    worker: Worker, resources: Resources, settings: Settings, tmp_path: Path
) -> None:
    content = packed(tmp_path, results(folds=[0, "all"]))
    submission = playing.imported(resources, content, folds="all")

    run_next(worker, resources)

    assert job(resources, submission.job_id).error is None
    found = model_files.open_model(resources, submission.id)
    model = found.model
    assert (model.state, model.name, model.version) == ("ready", "Dataset901_Small", 1)
    assert (model.configuration, model.folds) == ("3d_fullres", ["all"])
    assert (model.channels, model.labels) == (list(DATASET["channel_names"].values()), DATASET["labels"])
    assert model.image is not None
    assert model.image["normalization"] == ["ZScoreNormalization"] * 2
    assert model.image["file_ending"] == DATASET["file_ending"]
    assert found.description == DATASET
    provenance = found.provenance or {}
    assert provenance["archive_sha256"] == sha256(content).hexdigest()
    weights = model.files["fold_all/weights.safetensors"]
    assert provenance["weights_sha256"] == {"fold_all": weights["sha256"]}
    assert provenance["plans_sha256"] == {"plans.json": sha256(json.dumps(PLANS).encode()).hexdigest()}
    assert provenance["origin"]["."]["trainer"] == TRAINER
    with transaction(resources.readers) as session:
        assert objects(settings) == set(session.scalars(select(StoredObject.key)))
    assert objects(settings) == {ref["key"] for ref in model.files.values()}


def test_an_ensemble_comes_whole_and_no_key_holds_a_name_from_its_zip(
    worker: Worker, resources: Resources, settings: Settings, tmp_path: Path
) -> None:
    files = {
        **results("3d_lowres", [0]),
        **results("3d_fullres", [0]),
        "Dataset901_Small/inference_information.json": json.dumps(ENSEMBLE).encode(),
    }
    submission = playing.imported(resources, packed(tmp_path, files), name="Both")

    run_next(worker, resources)

    found = model_files.open_model(resources, submission.id)
    assert (found.model.configuration, found.model.name) == ("3d_lowres+3d_fullres", "Both")
    assert (found.members, found.description) == (("3d_lowres", "3d_fullres"), DATASET)
    assert "chosen by inference_information.json" in (found.selection or {})["reason"]
    assert set((found.provenance or {})["weights_sha256"]) == {
        "members/3d_lowres/fold_0",
        "members/3d_fullres/fold_0",
    }
    assert not [key for key in objects(settings) if "3d_" in key]


class Payload:
    """Runs a program when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.canary,))


def hostile(kind: str, canary: Path) -> Files:
    files, top = results(folds=[0]), folder_of("3d_fullres")
    if kind == "pickle":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Payload(canary)))
        files[f"{top}/fold_0/checkpoint_final.pth"] = stream.getvalue()
    else:
        files["../outside.json"] = b"{}"
    return files


@pytest.mark.parametrize("kind", ["pickle", "traversal"])
def test_a_hostile_zip_fails_its_job_in_a_sentence_and_nothing_is_run(
    worker: Worker, resources: Resources, settings: Settings, tmp_path: Path, kind: str
) -> None:
    canary = tmp_path / "canary"
    submission = playing.imported(resources, packed(tmp_path, hostile(kind, canary)))

    run_next(worker, resources)

    ended = job(resources, submission.job_id)
    assert (ended.state, row(resources, submission.id).state) == (JobState.FAILED, "failed")
    assert (ended.error or {})["code"] in ("invalid-model", "invalid-archive")
    assert not canary.exists()
    assert objects(settings) == {f"import_model/{submission.job_id}/0/archive.zip"}  # To be tried again.
    models.remove(resources, submission.id)
    assert objects(settings) == set()


@pytest.mark.parametrize("target", ["official", "native"])
def test_an_export_is_a_zip_that_can_be_imported_again(
    worker: Worker, resources: Resources, settings: Settings, tmp_path: Path, target: Any
) -> None:
    first = playing.imported(resources, packed(tmp_path, results()), name="Liver")
    run_next(worker, resources)
    asked = playing.export(resources, first.id, target)

    run_next(worker, resources)

    assert job(resources, asked.job_id).error is None
    exported = exports.file(resources, first.id, asked.id).path
    with zipfile.ZipFile(exported) as archive:
        names = archive.namelist()
    assert any(name.endswith("fold_1/checkpoint_final.pth") for name in names) == (target == "official")
    second = playing.imported(resources, exported.read_bytes(), name="Liver")
    run_next(worker, resources)
    again = row(resources, second.id)
    assert (again.version, again.configuration, again.folds) == (2, "3d_fullres", [0, 1])
    weights = [
        row(resources, one).files["fold_1/weights.safetensors"]["sha256"] for one in (first.id, second.id)
    ]
    assert weights[0] == weights[1]
    models.remove(resources, first.id)
    assert not [key for key in objects(settings) if key.startswith(f"export_model/{asked.job_id}")]
