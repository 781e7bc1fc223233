"""Preprocessed cases come back as they were, memory-mapped, and never half."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from core.errors import DatasetError
from core.io.case_store import CaseProperties, CaseStore, PreprocessedCase
from core.io.image import Geometry, LabelArray
from tests.factories import IDENTITY

PROPERTIES = CaseProperties(
    geometry=Geometry(
        spacing=(3.0, 0.1, 0.2),
        file_spacing_xyz=(0.2, 0.1, 3.0),
        origin_xyz=(1 / 3, 2.0, 3.0),
        direction=IDENTITY,
    ),
    spacing=(3.0, 0.1, 0.2),
    shape_before_cropping=(5, 6, 7),
    bbox_used_for_cropping=((0, 4), (1, 5), (2, 7)),
    shape_after_cropping_and_before_resampling=(4, 4, 5),
)


def case(
    labels_zyx: LabelArray | None, locations: Mapping[str, npt.NDArray[np.int64]] | None = None
) -> PreprocessedCase:
    voxels_czyx = np.random.default_rng(0).normal(size=(2, 4, 4, 5)).astype(np.float32)
    return PreprocessedCase(voxels_czyx, labels_zyx, PROPERTIES, locations or {})


def test_a_case_comes_back_as_it_was(tmp_path: Path) -> None:
    labels_zyx = np.random.default_rng(1).integers(-1, 3, (4, 4, 5)).astype(np.int16)
    drawn = {"1": np.array([9, 3, 3, 70]), "(1, 2)": np.empty(0, np.int64), "2": np.array([5])}
    saved = case(labels_zyx, drawn)
    store = CaseStore(tmp_path / "store")

    store.save("a_1.b", saved)
    loaded = store.load("a_1.b")

    assert np.array_equal(loaded.voxels_czyx, saved.voxels_czyx)
    assert loaded.labels_zyx is not None
    assert np.array_equal(loaded.labels_zyx, labels_zyx)
    assert loaded.properties == PROPERTIES
    assert list(loaded.locations) == list(drawn)
    assert all(np.array_equal(loaded.locations[key], drawn[key]) for key in drawn)
    assert {indices.dtype for indices in loaded.locations.values()} == {np.dtype(np.int64)}


def test_arrays_are_memory_mapped_and_read_only(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save("a", case(np.zeros((4, 4, 5), np.int16)))

    loaded = store.load("a")

    assert isinstance(loaded.voxels_czyx, np.memmap)
    assert isinstance(loaded.labels_zyx, np.memmap)
    assert not loaded.voxels_czyx.flags.writeable


@pytest.mark.parametrize(("highest", "stored"), [(127, np.int8), (128, np.int16), (3000, np.int16)])
def test_labels_take_as_few_bytes_as_they_need(tmp_path: Path, highest: int, stored: type) -> None:
    labels_zyx = np.full((4, 4, 5), -1, np.int16)
    labels_zyx[0, 0, 0] = highest
    store = CaseStore(tmp_path)

    store.save("a", case(labels_zyx))

    loaded = store.load("a").labels_zyx
    assert loaded is not None
    assert loaded.dtype == stored
    assert np.array_equal(loaded, labels_zyx)


def test_a_case_may_have_no_reference(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)

    store.save("a", case(None))

    assert store.load("a").labels_zyx is None
    assert store.load("a").locations == {}


def test_saving_again_replaces_the_case(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save("a", case(np.zeros((4, 4, 5), np.int16)))

    store.save("a", case(None))

    assert store.load("a").labels_zyx is None
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_only_complete_cases_are_listed(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save("b", case(None))
    store.save("a", case(None))
    (tmp_path / ".partial-x" / "new").mkdir(parents=True)
    (tmp_path / ".partial-x" / "case.json").write_text("{}")
    (tmp_path / "half").mkdir()

    assert store.case_ids == ("a", "b")
    assert store.has("a")
    assert not store.has("half")


def test_a_store_that_was_never_written_is_empty(tmp_path: Path) -> None:
    assert CaseStore(tmp_path / "nowhere").case_ids == ()


def test_a_case_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    broken = case(None, {"1": np.array(["no number"])})

    with pytest.raises(ValueError, match="invalid literal"):
        store.save("a", broken)

    assert list(tmp_path.iterdir()) == []


def test_a_discarded_case_is_gone(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save("a", case(None))

    store.discard("a")
    store.discard("a")

    assert not store.has("a")


@pytest.mark.parametrize("case_id", ["../a", "a/b", "", ".hidden", "..", "/etc"])
def test_an_identifier_is_no_path(tmp_path: Path, case_id: str) -> None:
    with pytest.raises(DatasetError, match="cannot be a case identifier"):
        CaseStore(tmp_path).save(case_id, case(None))


def test_an_absent_case_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="case a is not preprocessed"):
        CaseStore(tmp_path).load("a")


@pytest.mark.parametrize("name", ["voxels.npy", "locations.npy", "case.json"])
def test_a_damaged_case_is_refused(tmp_path: Path, name: str) -> None:
    store = CaseStore(tmp_path)
    store.save("a", case(None, {"1": np.arange(500)}))
    path = tmp_path / "a" / name
    path.write_bytes(path.read_bytes()[:-40])

    with pytest.raises(DatasetError, match="preprocessed case a is damaged"):
        store.load("a")
