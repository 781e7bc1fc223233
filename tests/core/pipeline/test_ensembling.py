import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from core.__main__ import main
from core.domain.progress import SilentObserver
from core.errors import DatasetError, ImageError
from core.io.readers import read_header, read_labels
from core.pipeline.ensembling import ensemble
from tests.core.pipeline.results import (
    GEOMETRY,
    PROPERTIES,
    READER,
    describe,
    one_hot,
    rows,
    save_labels,
    save_probabilities,
)

FIRST, SECOND = rows("1120", "0011"), rows("1220", "2011")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two models' predictions of two cases; the second is surer."""
    places = [tmp_path / "one", tmp_path / "two"]
    for place, labels, sure in zip(places, (FIRST, SECOND), (0.6, 0.9), strict=True):
        describe(place)
        for case in ("p1", "p2"):
            save_probabilities(one_hot(labels, sure), place, case)
    return places


def test_folders_are_averaged_case_by_case(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"

    status = main(["ensemble", "--inputs", *map(str, folders), "--out", str(out)])

    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "dataset.json",
        "p1.nii.gz",
        "p2.nii.gz",
        "plans.json",
    ]
    found = read_labels(out / "p2.nii.gz", READER)
    assert found.labels_zyx.tolist() == SECOND.tolist()
    assert found.geometry.spacing == pytest.approx(GEOMETRY.spacing, abs=1e-6)
    assert found.geometry.origin_xyz == GEOMETRY.origin_xyz
    assert json.loads((out / "plans.json").read_text())["image_reader_writer"] == READER


def test_means_can_be_kept_and_averaged_again(folders: list[Path], tmp_path: Path) -> None:
    ensemble(folders, tmp_path / "out", SilentObserver(), save_probabilities=True, workers=1)

    ensemble([tmp_path / "out", folders[0]], tmp_path / "again", SilentObserver(), workers=1)

    with np.load(tmp_path / "out/p1.npz") as kept:
        expected = (one_hot(FIRST, 0.6) + one_hot(SECOND, 0.9)) / 2
        assert np.allclose(kept["probabilities"], expected)
    assert pickle.loads((tmp_path / "out/p1.pkl").read_bytes()) == PROPERTIES  # noqa: S301 - written above
    assert read_labels(tmp_path / "again/p1.nii.gz", READER).labels_zyx.tolist() == FIRST.tolist()


def test_a_segmentation_beside_probabilities_says_where_it_lies(folders: list[Path], tmp_path: Path) -> None:
    shifted = GEOMETRY.model_copy(update={"origin_xyz": (7.0, 8.0, 9.0)})
    save_labels(FIRST, folders[0], "p1", shifted)
    (folders[0] / "p1.pkl").unlink()

    ensemble(folders, tmp_path / "out", SilentObserver(), workers=1)

    assert read_header(tmp_path / "out/p1.nii.gz").geometry == read_header(folders[0] / "p1.nii.gz").geometry
    save_labels(rows("11", "00"), folders[0], "p1")
    with pytest.raises(ImageError, match=r"p1\.npz has .* but p1\.nii\.gz beside it"):
        ensemble(folders, tmp_path / "out", SilentObserver(), workers=1)


def test_cases_that_a_folder_lacks_are_named(folders: list[Path], tmp_path: Path) -> None:
    (folders[0] / "p1.npz").unlink()
    (folders[1] / "p2.npz").unlink()

    with pytest.raises(
        DatasetError, match=r"one has no probabilities of p1; .*two has no probabilities of p2"
    ):
        ensemble(folders, tmp_path / "out", SilentObserver())


def test_what_cannot_be_averaged_is_refused(folders: list[Path], tmp_path: Path) -> None:
    other, empty = tmp_path / "other", tmp_path / "empty"
    describe(other, {"background": 0, "b": 1, "a": 2})
    describe(empty)
    empty_too = tmp_path / "empty too"
    describe(empty_too)
    bare = tmp_path / "bare"
    bare.mkdir()
    out = tmp_path / "out"

    for inputs, sentence in (
        (folders[:1], "at least two"),
        ([folders[0], folders[0]], "given twice"),
        ([folders[0], other], "other labels"),
        ([empty, empty_too], "holds no probabilities"),
        ([bare, folders[0]], r"bare has no readable dataset\.json"),
    ):
        with pytest.raises(DatasetError, match=sentence):
            ensemble(inputs, out, SilentObserver())
    with pytest.raises(DatasetError, match="would be lost"):
        ensemble(folders, folders[1], SilentObserver())
    assert not out.exists()
