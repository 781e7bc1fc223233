"""POST /predict in every form, and the files that come back."""

import gzip
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.db.base import transaction
from app.db.models import TrainedModel
from app.jobs import Lane
from app.payloads import PROBABILITIES_FILE, PROPERTIES_FILE, UNCERTAINTY_FILE, PredictPayload, PredictResult
from app.requests import PredictionChoices
from app.services import jobs
from app.services.resources import Resources
from app.settings import Settings
from tests.app import playing

NIFTI_GZ = gzip.compress(playing.NIFTI[0])

RAW = {"Content-Type": "application/octet-stream"}

EXTRAS = {
    "probabilities": (PROBABILITIES_FILE, ".npz"),
    "properties": (PROPERTIES_FILE, ".pkl"),
    "uncertainty": (UNCERTAINTY_FILE, "_uncertainty.nii.gz"),
}
"""What may be asked for beside the label map: link, file of the worker, end of the name that it is sent under."""


@pytest.fixture
def model_id(resources: Resources) -> UUID:
    return playing.model(resources)


def finish_with_files(resources: Resources, folder: Path, ending: str = ".nii.gz") -> bytes:
    """Play the worker of the next prediction; return the segmentation."""
    content = b"a segmentation"
    taken = playing.wait_for_claim(resources.sessions, [Lane.PREDICT])
    prefix = f"predict/{taken.job_id}/{taken.fence}"
    contents = {f"segmentation{ending}": content, "preview.png": b"a picture"}
    payload = taken.order.payload
    assert isinstance(payload, PredictPayload)
    for link, (name, _) in EXTRAS.items():
        if payload.choices.uncertainty if link == "uncertainty" else payload.choices.probabilities:
            contents[name] = link.encode()
    files = {
        name: playing.publish(resources, folder, f"{prefix}/{name}", what) for name, what in contents.items()
    }
    result = PredictResult(
        files=files, volumes={"hippocampus": 1.5}, timings={"predict": 0.5}, provenance={"warm": True}
    )
    with transaction(resources.sessions) as session:
        jobs.succeed(session, taken, result)
    return content


def with_channels(resources: Resources, model_id: UUID, channels: list[str]) -> None:
    with transaction(resources.sessions) as session:
        session.get_one(TrainedModel, model_id).channels = channels


def with_weights(resources: Resources, model_id: UUID, folders: Sequence[str]) -> None:
    with transaction(resources.sessions) as session:
        model = session.get_one(TrainedModel, model_id)
        ref = next(iter(model.files.values()))
        model.files = {**model.files, **{f"{name}/weights.safetensors": ref for name in folders}}


def order_of(resources: Resources) -> PredictPayload:
    payload = playing.claim(resources.sessions, [Lane.PREDICT]).order.payload
    assert isinstance(payload, PredictPayload)
    return payload


def test_an_image_goes_in_and_its_segmentation_comes_out(
    client: httpx.Client, resources: Resources, model_id: UUID, tmp_path: Path
) -> None:
    response = client.post(
        "/predict", files={"image": ("C:\\scans\\a b.nii.gz", NIFTI_GZ)}, data={"model": str(model_id)}
    )
    body = response.json()
    early = client.get(body["links"]["segmentation"])
    content = finish_with_files(resources, tmp_path)

    assert (response.status_code, body["state"]) == (202, "queued")
    assert (early.status_code, "queued" in early.json()["detail"]) == (409, True)
    prediction = client.get(f"/predictions/{body['id']}").json()
    assert (prediction["state"], prediction["volumes"]) == ("succeeded", {"hippocampus": 1.5})
    assert (prediction["timings"], prediction["provenance"]) == ({"predict": 0.5}, {"warm": True})
    mask = client.get(body["links"]["segmentation"])
    assert mask.content == content
    assert mask.headers["content-disposition"] == f'attachment; filename="{body["id"]}.nii.gz"'
    assert mask.headers["x-content-type-options"] == "nosniff"
    assert mask.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    again = client.get(body["links"]["segmentation"], headers={"If-None-Match": mask.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(body["links"]["preview"]).headers["content-type"] == "image/png"


def test_a_raw_body_needs_only_the_model(client: httpx.Client, resources: Resources, model_id: UUID) -> None:
    response = client.post(f"/predict?model={model_id}", content=NIFTI_GZ, headers=RAW)

    payload = order_of(resources)
    assert response.status_code == 202
    assert payload.file_ending == ".nii.gz"
    assert payload.channels[0].sha256 == hashlib.sha256(NIFTI_GZ).hexdigest()
    assert resources.store.path(payload.channels[0]).read_bytes() == NIFTI_GZ


@pytest.mark.parametrize(
    "prefer_file", ["application/gzip", "application/gzip;q=0.9, application/json;q=0.1"]
)
def test_who_waits_for_gzip_gets_the_file_itself(
    client: httpx.Client, resources: Resources, model_id: UUID, tmp_path: Path, prefer_file: str
) -> None:
    worker = threading.Thread(target=finish_with_files, args=(resources, tmp_path))
    worker.start()

    response = client.post(
        f"/predict?model={model_id}",
        content=NIFTI_GZ,
        headers={**RAW, "Prefer": "wait=15", "Accept": prefer_file},
    )
    worker.join()

    assert (response.status_code, response.content) == (200, b"a segmentation")
    assert response.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in response.headers
    assert response.headers["preference-applied"] == "wait=15"
    assert client.get(response.headers["location"]).json()["state"] == "succeeded"


def test_who_waits_for_json_gets_the_final_state(
    client: httpx.Client, resources: Resources, model_id: UUID, tmp_path: Path
) -> None:
    worker = threading.Thread(target=finish_with_files, args=(resources, tmp_path))
    worker.start()

    response = client.post(
        f"/predict?model={model_id}", content=NIFTI_GZ, headers={**RAW, "Prefer": "wait=15"}
    )
    worker.join()

    assert (response.status_code, response.json()["state"]) == (200, "succeeded")
    assert "retry-after" not in response.headers


def test_a_prediction_that_fails_tells_the_waiting_client_why(
    client: httpx.Client, resources: Resources, model_id: UUID
) -> None:
    def work() -> None:
        taken = playing.wait_for_claim(resources.sessions, [Lane.PREDICT])
        playing.fail(resources.sessions, taken, "the image is cut off")

    worker = threading.Thread(target=work)
    worker.start()
    response = client.post(
        f"/predict?model={model_id}",
        content=NIFTI_GZ,
        headers={**RAW, "Prefer": "wait=15", "Accept": "application/gzip"},
    )
    worker.join()

    assert (response.status_code, response.json()["detail"]) == (422, "the image is cut off")
    assert response.headers["content-type"] == "application/problem+json"


def test_gzip_of_what_is_no_gzip_is_refused_before_the_work(
    client: httpx.Client, resources: Resources, model_id: UUID
) -> None:
    response = client.post(
        f"/predict?model={model_id}",
        content=playing.NIFTI[0],
        headers={**RAW, "Prefer": "wait=15", "Accept": "application/gzip"},
    )

    assert response.status_code == 406
    assert playing.try_claim(resources.sessions) is None


@pytest.mark.parametrize(
    "fields", [["image", "image"], ["image_0000", "image_0001"], ["image_0001", "image_0000"]]
)
def test_channels_come_in_the_models_order(
    client: httpx.Client, resources: Resources, model_id: UUID, fields: list[str]
) -> None:
    with_channels(resources, model_id, ["T1", "T2"])
    contents = {"image_0001": gzip.compress(playing.NIFTI[0] + b"2")}
    files = [(name, ("x.nii.gz", contents.get(name, NIFTI_GZ))) for name in fields]

    response = client.post(f"/predict?model={model_id}", files=files)

    assert response.status_code == 202
    hashes = [ref.sha256 for ref in order_of(resources).channels]
    second = contents["image_0001"] if "image_0001" in fields else NIFTI_GZ
    assert hashes == [hashlib.sha256(content).hexdigest() for content in (NIFTI_GZ, second)]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("image", ("x.nii.gz", NIFTI_GZ))] * 2, "1 channel(s), in this order: MRI; 2 image(s) came"),
        ([("image_0001", ("x.nii.gz", NIFTI_GZ))], "image_0000"),
        ([("image_0000", ("x.nii.gz", NIFTI_GZ)), ("image", ("x.nii.gz", NIFTI_GZ))], "image_0000"),
        ([("image", ("x.nii.gz", NIFTI_GZ)), ("image", ("x.nii", playing.NIFTI[0]))], "different formats"),
        ([("image", ("x.nii.gz", b"<html></html>"))], "not of that format"),
        ([("image", ("x.nii.gz", gzip.compress(b"text")))], "not of that format"),
        ([("image", ("x.nii", NIFTI_GZ))], "rename it"),
        ([("image", ("x.dcm", b"DICM"))], "this is no image"),
        ([("image", ("x.nii.gz", b""))], "no file came"),
        ([("picture", ("x.nii.gz", NIFTI_GZ))], "unknown"),
    ],
)
def test_an_image_that_cannot_be_used_gets_its_sentence(
    client: httpx.Client, settings: Settings, model_id: UUID, files: Any, words: str
) -> None:
    response = client.post(f"/predict?model={model_id}", files=files)

    assert response.status_code == 422
    assert words in response.json()["detail"]
    assert list((settings.resolved_store_dir / ".incoming").iterdir()) == []


@pytest.mark.parametrize(
    ("query", "data", "status"),
    [
        ("", {}, 422),
        ("", {"model": "default"}, 422),
        ("", {"model": ""}, 422),
        ("", {"model": "x" * 5000}, 422),
        ("?model=7", {}, 422),
        (f"?model={uuid4()}", {}, 404),
        (f"?model={uuid4()}", {"model": str(uuid4())}, 422),
        (f"?model={uuid4()}&model_id=1", {}, 422),
    ],
)
def test_a_wrong_model_gets_its_sentence(
    client: httpx.Client, settings: Settings, query: str, data: dict[str, str], status: int
) -> None:
    response = client.post(f"/predict{query}", files={"image": ("x.nii.gz", NIFTI_GZ)}, data=data)

    assert response.status_code == status
    assert "model" in response.json()["detail"]
    assert list((settings.resolved_store_dir / ".incoming").iterdir()) == []


def test_what_curl_sends_by_default_is_explained(client: httpx.Client, model_id: UUID) -> None:
    response = client.post(
        f"/predict?model={model_id}",
        content=NIFTI_GZ,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )

    assert response.status_code == 415
    assert "application/octet-stream" in response.json()["detail"]


def test_a_failed_prediction_has_no_segmentation_and_says_why(
    client: httpx.Client, resources: Resources, model_id: UUID
) -> None:
    submission = playing.prediction(resources, model_id)
    playing.fail(resources.sessions, playing.claim(resources.sessions), "the image is cut off")

    response = client.get(f"/predictions/{submission.id}/segmentation")

    assert response.status_code == 409
    assert "the image is cut off" in response.json()["detail"]


def test_a_lost_file_is_our_mistake_and_says_so_without_a_path(
    client: httpx.Client, resources: Resources, model_id: UUID, settings: Settings
) -> None:
    submission = playing.prediction(resources, model_id)
    playing.finish(resources.sessions, playing.claim(resources.sessions))

    response = client.get(f"/predictions/{submission.id}/segmentation")

    assert response.status_code == 500
    assert "missing or damaged" in response.json()["detail"]
    assert str(settings.data_dir) not in response.text


CHOSEN = {
    "folds": "1,0",
    "mirroring": "false",
    "step_size": "0.75",
    "postprocessing": "false",
    "precision": "fp32",
    "probabilities": "true",
    "uncertainty": "true",
}

CHOICES = PredictionChoices(
    folds=(1, 0),
    mirroring=False,
    step_size=0.75,
    postprocessing=False,
    precision="fp32",
    probabilities=True,
    uncertainty=True,
)
"""The same, as the worker is told."""


@pytest.mark.parametrize("place", ["address", "form", "both", "raw"])
def test_options_stand_in_the_address_or_the_form_and_reach_the_worker(
    client: httpx.Client, resources: Resources, model_id: UUID, place: str
) -> None:
    with_weights(resources, model_id, ["fold_0", "fold_1"])
    params = {"model": str(model_id), **(CHOSEN if place != "form" else {})}
    if place == "raw":
        response = client.post("/predict", params=params, content=NIFTI_GZ, headers=RAW)
    else:
        data = CHOSEN if place != "address" else {}
        response = client.post("/predict", params=params, data=data, files={"image": ("x.nii.gz", NIFTI_GZ)})

    assert response.status_code == 202, response.text
    assert order_of(resources).choices == CHOICES
    view = client.get(response.json()["links"]["self"]).json()
    assert view["options"] == CHOICES.to_json()
    assert CHOICES.options.model_dump(exclude_defaults=True) == {
        "folds": (1, 0),
        "mirroring": False,
        "step_size": 0.75,
        "postprocessing": False,
        "precision": "fp32",
    }


def test_who_chooses_nothing_gets_the_defaults(
    client: httpx.Client, resources: Resources, model_id: UUID
) -> None:
    response = client.post(f"/predict?model={model_id}", content=NIFTI_GZ, headers=RAW)

    assert order_of(resources).choices == PredictionChoices()
    view = client.get(response.json()["links"]["self"]).json()
    assert view["options"] == {
        "folds": None,
        "mirroring": True,
        "step_size": 0.5,
        "postprocessing": True,
        "precision": "auto",
        "probabilities": False,
        "uncertainty": False,
    }


WRONG = [
    ("folds", "0;1", 'folds must be folds like 0,1,4 or all (given: "0;1")'),
    ("folds", "", "folds like 0,1,4 or all"),
    ("mirroring", "perhaps", "mirroring must be true or false"),
    ("step_size", "0", "step_size must be at least 0.05"),
    ("step_size", "1.5", "step_size must be at most 1"),
    ("step_size", "nan", "step_size must be"),
    ("precision", "fp8", "precision must be"),
    ("uncertainty", "2", "uncertainty must be true or false"),
]


@pytest.mark.parametrize("place", ["address", "form"])
@pytest.mark.parametrize("wrong", WRONG)
def test_an_option_that_cannot_be_gets_its_sentence(
    client: httpx.Client, settings: Settings, model_id: UUID, place: str, wrong: tuple[str, str, str]
) -> None:
    name, value, words = wrong
    params, data = ({name: value}, {}) if place == "address" else ({}, {name: value})

    response = client.post(
        "/predict",
        params={"model": str(model_id), **params},
        data=data,
        files={"image": ("x.nii.gz", NIFTI_GZ)},
    )

    assert response.status_code == 422
    assert words in response.json()["detail"]
    assert response.json()["errors"][0]["field"] == name
    assert list((settings.resolved_store_dir / ".incoming").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "address", "form"),
    [("folds", "0", "all"), ("mirroring", "true", "false"), ("step_size", "1", "0.5")],
)
def test_address_and_form_must_not_contradict_each_other(
    client: httpx.Client, model_id: UUID, name: str, address: str, form: str
) -> None:
    response = client.post(
        "/predict",
        params={"model": str(model_id), name: address},
        data={name: form},
        files={"image": ("x.nii.gz", NIFTI_GZ)},
    )

    assert response.status_code == 422
    assert f"different things of `{name}`" in response.json()["detail"]


ENSEMBLE = ["members/2d/fold_0", "members/2d/fold_1", "members/3d_fullres/fold_0"]


@pytest.mark.parametrize(
    ("folders", "folds"),
    [
        (["fold_0", "fold_1"], "0,1"),
        (["fold_0", "fold_all"], "all"),
        (["fold_0", "previous/fold_all"], "0"),
        (ENSEMBLE, "0"),
    ],
)
def test_folds_that_every_member_of_the_model_has_are_taken(
    client: httpx.Client, resources: Resources, model_id: UUID, folders: list[str], folds: str
) -> None:
    with_weights(resources, model_id, folders)

    response = client.post(f"/predict?model={model_id}&folds={folds}", content=NIFTI_GZ, headers=RAW)

    assert response.status_code == 202, response.text


@pytest.mark.parametrize(
    ("folders", "folds", "words"),
    [
        (["fold_1", "fold_0", "fold_all"], "0,3,4", "the model has no fold 3, 4; it has 0, 1, all"),
        (["fold_0", "previous/fold_1"], "1", "the model has no fold 1; it has 0;"),
        (ENSEMBLE, "1", "member 3d_fullres of the model has no fold 1; it has 0;"),
    ],
)
def test_folds_that_the_model_lacks_are_refused_with_those_that_it_has(
    client: httpx.Client, resources: Resources, folders: list[str], folds: str, words: str
) -> None:
    model_id = playing.model(resources)
    with_weights(resources, model_id, folders)

    response = client.post(f"/predict?model={model_id}&folds={folds}", content=NIFTI_GZ, headers=RAW)

    assert response.status_code == 422
    assert words in response.json()["detail"]
    assert playing.try_claim(resources.sessions) is None


def test_what_was_asked_for_beside_the_label_map_comes_with_it(
    client: httpx.Client, resources: Resources, model_id: UUID, tmp_path: Path
) -> None:
    params = {"model": str(model_id), "probabilities": "true", "uncertainty": "true"}
    accepted = client.post("/predict", params=params, content=NIFTI_GZ, headers=RAW).json()
    early = [client.get(accepted["links"][link]).status_code for link in EXTRAS]

    finish_with_files(resources, tmp_path)

    assert early == [409, 409, 409]
    links = client.get(accepted["links"]["self"]).json()["links"]
    for link, (_, ending) in EXTRAS.items():
        found = client.get(links[link])
        assert (found.status_code, found.content) == (200, link.encode())
        assert found.headers["content-disposition"] == f'attachment; filename="{accepted["id"]}{ending}"'


@pytest.mark.parametrize("link", EXTRAS)
def test_what_was_not_asked_for_is_not_there_and_the_sentence_says_how_to_ask(
    client: httpx.Client, resources: Resources, model_id: UUID, tmp_path: Path, link: str
) -> None:
    accepted = client.post(f"/predict?model={model_id}", content=NIFTI_GZ, headers=RAW).json()
    address = f"{accepted['links']['self']}/{link}"

    early = client.get(address)
    finish_with_files(resources, tmp_path)
    late = client.get(address)

    choice = "uncertainty" if link == "uncertainty" else "probabilities"
    for response in (early, late):
        assert (response.status_code, f"{choice}=true" in response.json()["detail"]) == (404, True)
    assert not EXTRAS.keys() & client.get(accepted["links"]["self"]).json()["links"].keys()
