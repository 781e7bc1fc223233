"""Preprocessed cases come back as they were, memory-mapped, and never half."""

import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from core.errors import DatasetError
from core.io.case_store import CaseProperties, CaseStore, Locations, OpenCases, PreprocessedCase
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


def case(labels_zyx: LabelArray | None, locations: Mapping[str, Locations] | None = None) -> PreprocessedCase:
    voxels_czyx = np.random.default_rng(0).normal(size=(2, 4, 4, 5)).astype(np.float32)
    return PreprocessedCase(voxels_czyx, labels_zyx, PROPERTIES, locations or {})


def drawn(*rows: tuple[int, int, int]) -> Locations:
    return np.array([(0, *row) for row in rows], np.int32).reshape(-1, 4)


def test_a_case_comes_back_as_it_was(tmp_path: Path) -> None:
    labels_zyx = np.random.default_rng(1).integers(-1, 3, (4, 4, 5)).astype(np.int16)
    locations = {"1": drawn((3, 2, 1), (0, 0, 4)), "(-1, 0, 1)": drawn(), "2": drawn((1, 1, 1))}
    saved = case(labels_zyx, locations)
    store = CaseStore(tmp_path / "store")

    store.save("a_1.b", saved)
    loaded = store.load("a_1.b")

    assert np.array_equal(loaded.voxels_czyx, saved.voxels_czyx)
    assert loaded.labels_zyx is not None
    assert np.array_equal(loaded.labels_zyx, labels_zyx)
    assert loaded.properties == PROPERTIES
    assert list(loaded.locations) == list(locations)
    assert all(np.array_equal(loaded.locations[key], locations[key]) for key in locations)


def test_numpy_reads_a_case(tmp_path: Path) -> None:
    labels_zyx = np.random.default_rng(1).integers(-1, 3, (4, 4, 5)).astype(np.int16)
    saved = case(labels_zyx, {"1": drawn((3, 2, 1)), "(1, 2, 3)": drawn(), "(-1, 0, 1)": drawn()})
    CaseStore(tmp_path).save("a", saved)

    with np.load(tmp_path / "a.npz") as file:
        found = {name: file[name] for name in file.files}

    assert set(found) == {"case.json", "data", "seg", "loc_1", "loc_1_2_3", "loc_-1_0_1"}
    assert np.array_equal(found["data"], saved.voxels_czyx)
    assert np.array_equal(found["seg"], labels_zyx[None])
    assert found["loc_1"].tolist() == [[0, 3, 2, 1]]
    assert found["loc_1_2_3"].shape == (0, 4)


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
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_only_complete_cases_are_listed(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save("b", case(None))
    store.save("a", case(None))
    (tmp_path / ".partial-x.npz").write_bytes(b"half")
    (tmp_path / "folder_of_another_release").mkdir()

    assert store.case_ids == ("a", "b")
    assert store.has("a")
    assert not store.has("folder_of_another_release")


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


@pytest.mark.parametrize("cut", [1, 40, 200, 400, 900])
def test_a_case_that_was_cut_is_refused(tmp_path: Path, cut: int) -> None:
    store = CaseStore(tmp_path)
    store.save("a", case(None, {"1": drawn((1, 2, 3))}))
    path = tmp_path / "a.npz"
    path.write_bytes(path.read_bytes()[:-cut])

    with pytest.raises(DatasetError, match="preprocessed case a is damaged"):
        store.load("a")
    assert store.digest("a") is None


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18)])
def test_another_file_under_the_name_of_a_case_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)

    with pytest.raises(DatasetError, match="preprocessed case a is damaged"):
        CaseStore(tmp_path).load("a")


def test_a_case_without_record_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=np.zeros((1, 2, 2, 2), np.float32))

    with pytest.raises(DatasetError, match="preprocessed case a is damaged"):
        CaseStore(tmp_path).load("a")


def test_a_case_that_a_later_release_wrote_is_refused(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save("a", case(None))
    path = tmp_path / "a.npz"
    later = path.read_bytes().replace(b'"version":2', b'"version":3')
    path.write_bytes(later)

    with pytest.raises(DatasetError, match="preprocessed case a is damaged"):
        store.load("a")


def test_the_digest_is_kept(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    store.save("a", case(None), "abc")

    assert store.digest("a") == "abc"
    assert store.digest("b") is None


def test_the_same_case_gives_the_same_bytes(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)

    store.save("a", case(None, {"1": drawn((1, 2, 3))}))
    store.save("b", case(None, {"1": drawn((1, 2, 3))}))

    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_case_of_another_store_is_taken_over_without_a_copy(tmp_path: Path) -> None:
    one, other = CaseStore(tmp_path / "one"), CaseStore(tmp_path / "other")
    one.save("a", case(None), "abc")
    other.save("b", case(np.zeros((4, 4, 5), np.int16)))

    other.adopt("b", one.file("a"))

    assert other.load("b").labels_zyx is None
    assert other.digest("b") == "abc"
    assert one.file("a").samefile(other.file("b"))
    one.save("a", case(np.zeros((4, 4, 5), np.int16)))
    assert other.load("b").labels_zyx is None


def test_the_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    CaseStore(tmp_path).save("a", case(None))
    (tmp_path / "other").write_text("")

    assert (tmp_path / "a.npz").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.fixture
def few_files() -> Iterator[int]:
    """Allow so many open files only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = 300
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    yield allowed
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_cases_than_files_may_be_open(tmp_path: Path, few_files: int) -> None:
    store = CaseStore(tmp_path)
    case_ids = [f"case_{number:04d}" for number in range(few_files + 50)]
    store.save(case_ids[0], case(None))
    for case_id in case_ids[1:]:
        store.adopt(case_id, store.file(case_ids[0]))

    cases = OpenCases(store.load, case_ids)

    assert len(cases) == len(case_ids)
    assert all(opened.voxels_czyx[0, 0, 0, 0] != 0 for opened in cases.values())
    assert "case_0000" in cases
    assert cases["case_0007"].properties == PROPERTIES
    with pytest.raises(KeyError):
        cases["other"]
