from pathlib import Path

import numpy as np
import pytest

from core.domain.training import Fold
from core.errors import DatasetError
from core.io.case_store import CaseStore
from core.io.next_stage import find_next_stage, load_with_previous, read_next_stage, save_next_stage
from tests.core.training.setups import case_of

CASE = case_of(np.zeros((2, 3, 4, 5), np.float32), None)


def labels(value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((3, 4, 5), value, np.uint8)


def found(folder: Path) -> int:
    file = find_next_stage((folder,), "case")
    assert file is not None
    return int(read_next_stage(file, "case", CASE)[0, 0, 0])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_segmentation_is_mapped_as_it_was_written(tmp_path: Path, kind: type[np.unsignedinteger]) -> None:
    written = np.arange(60, dtype=kind).reshape(3, 4, 5)

    save_next_stage(tmp_path / "next", "case", written, 0)

    mapped = read_next_stage(tmp_path / "next/case.npz", "case", CASE)
    assert np.array_equal(mapped, written)
    assert mapped.dtype == kind
    assert not mapped.flags.writeable
    assert [path.name for path in (tmp_path / "next").iterdir()] == ["case.npz"]


def test_what_fold_all_segmented_never_replaces_what_networks_segmented_unseen(tmp_path: Path) -> None:
    order: list[tuple[Fold, int, int]] = [("all", 1, 1), ("all", 2, 2), (3, 3, 3), ("all", 4, 3), (3, 5, 5)]
    for fold, written, expected in order:
        save_next_stage(tmp_path, "case", labels(written), fold)

        assert found(tmp_path) == expected


def test_of_several_folders_the_one_with_an_unseen_case_counts(tmp_path: Path) -> None:
    save_next_stage(tmp_path / "a", "case", labels(1), "all")
    save_next_stage(tmp_path / "b", "case", labels(2), 1)

    both = (tmp_path / "a", tmp_path / "b")
    assert find_next_stage(both, "case") == tmp_path / "b/case.npz"
    assert find_next_stage(both[:1], "case") == tmp_path / "a/case.npz"
    assert find_next_stage(both, "other") is None


def test_a_segmentation_of_another_grid_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    save_next_stage(tmp_path, "case", labels(1)[:2], 0)
    file = tmp_path / "case.npz"

    with pytest.raises(
        DatasetError, match=r"in case case has \(2, 4, 5\) voxels .* the preprocessed case \(3, 4, 5\)"
    ):
        read_next_stage(file, "case", CASE)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        DatasetError, match=r"in case case cannot be read from .*case\.npz; validate the fold"
    ):
        read_next_stage(file, "case", CASE)
    save_next_stage(tmp_path, "case", labels(5), "all")
    assert found(tmp_path) == 5


def test_a_case_is_loaded_with_what_was_segmented(tmp_path: Path) -> None:
    store = CaseStore(tmp_path / "store")
    store.save("case", CASE)
    save_next_stage(tmp_path, "case", labels(4), 0)

    loaded = load_with_previous(store, {"case": tmp_path / "case.npz"}, "case")

    assert loaded.previous_zyx is not None
    assert (loaded.previous_zyx == 4).all()
    assert np.array_equal(loaded.voxels_czyx, CASE.voxels_czyx)
    assert load_with_previous(store, {}, "case").previous_zyx is None


def test_an_identifier_that_is_no_file_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no file name"):
        save_next_stage(tmp_path, "../case", labels(1), 0)
