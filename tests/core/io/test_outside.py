"""Files outside a dataset's folder are for its owner's command line, never for what was sent from elsewhere."""

import json
from pathlib import Path
from uuid import uuid4

import pytest

from app.payloads import IngestPayload, ObjectRef
from core import __main__ as command_line
from core import pipeline
from core.domain.progress import SilentObserver
from core.errors import DatasetError
from core.io.cases import find_cases, read_description
from tests.factories import Recipe, make_dataset
from worker import tasks

RECIPE = Recipe(cases=6, shape=(10, 14, 12))


@pytest.fixture
def listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset that lists all its files elsewhere: by `..`, by environment variable, by absolute path."""
    store = make_dataset(tmp_path / "store", RECIPE)
    raw = tmp_path / "raw"
    raw.mkdir()
    monkeypatch.setenv("SEVENTH_STORE", str(store))
    values = json.loads((store / "dataset.json").read_text())
    names = sorted(path.name.removesuffix(".nii.gz") for path in (store / "labelsTr").iterdir())
    ways = ("../store", "$SEVENTH_STORE", "${SEVENTH_STORE}", str(store))
    listed = {}
    for number, name in enumerate(names):
        way = ways[number % len(ways)]
        listed[name] = {
            "images": [f"{way}/imagesTr/{name}_0000.nii.gz"],
            "label": f"{way}/labelsTr/{name}.nii.gz",
        }
    (raw / "dataset.json").write_text(json.dumps({**values, "dataset": listed}))
    return raw


def run(*arguments: object) -> int:
    return command_line.main([str(argument) for argument in arguments])


def test_the_owner_may_list_files_anywhere(listing: Path) -> None:
    found = pipeline.verify(listing, SilentObserver(), outside=True)

    assert found.problems == ()
    assert len(found.cases) == RECIPE.cases


def test_by_default_files_elsewhere_are_refused_each_by_its_case(listing: Path) -> None:
    found = pipeline.verify(listing, SilentObserver())

    refused = [(one.case, one.kind) for one in found.problems]
    assert {kind for _, kind in refused} == {"file-outside", "missing-file"}
    assert {case for case, kind in refused if kind == "file-outside"} == {
        f"phantom_00{number}" for number in (0, 3, 4)
    }
    assert found.cases == ()


def test_a_dataset_from_elsewhere_learns_nothing_of_the_environment(listing: Path) -> None:
    found = pipeline.verify(listing, SilentObserver())

    said = " ".join(one.message for one in found.problems)
    assert "$SEVENTH_STORE" in said
    assert "/store/imagesTr/phantom_001" not in said


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../outside.nii.gz", "imagesTr/../../x.nii.gz", "link/x.nii.gz"]
)
def test_no_way_leads_out(tmp_path: Path, path: str) -> None:
    raw = make_dataset(tmp_path / "raw", Recipe(cases=1))
    (raw / "link").symlink_to(tmp_path)
    values = json.loads((raw / "dataset.json").read_text())
    values["dataset"] = {"a": {"images": [path], "label": "labelsTr/phantom_000.nii.gz"}}
    (raw / "dataset.json").write_text(json.dumps(values))

    with pytest.raises(DatasetError, match="outside the dataset"):
        find_cases(raw, read_description(raw))


def test_every_verb_of_the_command_line_follows_the_list(listing: Path, tmp_path: Path) -> None:
    measured, plans = tmp_path / "fingerprint.json", tmp_path / "plans.json"

    assert run("verify", "--raw", listing) == 0
    assert run("fingerprint", "--raw", listing, "--out", measured) == 0
    plan = ("--dataset-json", listing / "dataset.json", "--fingerprint", measured, "--reader", "SimpleITKIO")
    assert run("plan", *plan, "--out", plans) == 0
    assert run("move-plans", "--plans", plans, "--raw", listing, "--out", tmp_path / "moved.json") == 0
    chosen = ("--raw", listing, "--plans", plans, "--configuration", "3d_fullres")
    assert run("preprocess", *chosen, "--out", tmp_path / "store3d") == 0
    short = ("--epochs", 1, "--iterations-per-epoch", 1, "--validation-iterations-per-epoch", 1)
    assert run("train", *chosen, *short, "--out", tmp_path / "model") == 0


class OneDataset:
    """A workspace whose archive is unpacked already."""

    def __init__(self, raw: Path) -> None:
        self._raw = raw

    def raw_dataset(self, archive: ObjectRef, observer: object) -> Path:
        """Return the folder."""
        del archive, observer
        return self._raw


def test_the_service_refuses_what_lies_elsewhere(listing: Path) -> None:
    archive = ObjectRef(key="datasets/a.zip", sha256="0" * 64, size_bytes=1)
    payload = IngestPayload(dataset_id=uuid4(), archive=archive)

    result = tasks.ingest(payload, OneDataset(listing), SilentObserver())  # type: ignore[arg-type]

    assert "file-outside" in {one.kind for one in result.problems}
    assert result.cases == ()


def test_a_dataset_without_images_has_no_reader_and_says_so(tmp_path: Path) -> None:
    raw = make_dataset(tmp_path / "raw", Recipe(cases=1))
    (raw / "imagesTr" / "phantom_000_0000.nii.gz").unlink()

    with pytest.raises(DatasetError, match="no training image"):
        pipeline.plans._reader(raw, read_description(raw))
