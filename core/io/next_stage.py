"""What a stage of a cascade segmented, on the grid of the next one: one npz file per case, memory-mapped."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal
from uuid import uuid4

from core.domain.dataset import CaseId
from core.domain.record import Record
from core.domain.training import Fold
from core.errors import DatasetError
from core.io.case_store import ENDING, PARTIAL_PREFIX, CaseStore, PreprocessedCase, is_file_name
from core.io.image import LabelArray
from core.io.npz import map_npz, write_npz

LABELS: Final = "seg"
RECORD: Final = "stage.json"


class HandedOn(Record):
    """stage.json: where such a file comes from."""

    version: Literal[1] = 1
    fold: Fold
    """Whose networks segmented the case: those of `all` had seen it in training."""


def save_next_stage(folder: Path, case_id: CaseId, labels_zyx: LabelArray, fold: Fold) -> None:
    """Write what a fold segmented; the file appears, or replaces an older one, when it is complete.

    A case that one of the numbered folds segmented keeps that: its networks had not seen the case, as those
    of fold `all` had, and the next stage must learn to mend mistakes that it will meet.

    Args:
        folder: Made with the first case.
        case_id: Names the file.
        labels_zyx: On the grid of the next stage, uint8 or uint16.
        fold: That segmented it.
    """
    target = file_of(folder, case_id)
    if fold == "all" and _fold_of(target) not in {None, "all"}:
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{PARTIAL_PREFIX}{uuid4().hex}"
    try:
        write_npz(partial, {LABELS: labels_zyx}, {RECORD: HandedOn(fold=fold).model_dump_json().encode()})
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def find_next_stage(folders: Sequence[Path], case_id: CaseId) -> Path | None:
    """Return the file of a case, one of a numbered fold if there is any; None where no folder has one."""
    files = [file for folder in folders if (file := file_of(folder, case_id)).is_file()]
    numbered = [file for file in files if _fold_of(file) != "all"]
    return next(iter(numbered or files), None)


def load_with_previous(store: CaseStore, files: Mapping[CaseId, Path], case_id: CaseId) -> PreprocessedCase:
    """Open a preprocessed case together with what the previous stage segmented in it, where there is a file.

    Raises:
        DatasetError: Either is absent or damaged, or they do not belong together.
    """
    case, file = store.load(case_id), files.get(case_id)
    return case if file is None else replace(case, previous_zyx=read_next_stage(file, case_id, case))


def read_next_stage(file: Path, case_id: CaseId, case: PreprocessedCase) -> LabelArray:
    """Map what the previous stage segmented in a preprocessed case, read-only.

    Raises:
        DatasetError: The file is absent or damaged, or belongs to another grid.
    """
    try:
        labels_zyx: LabelArray = map_npz(file).arrays[LABELS]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"what the previous stage segmented in case {case_id} cannot be read from {file}; validate the fold "
            "of that stage again",
            case=case_id,
        ) from error
    shape = case.voxels_czyx.shape[1:]
    if labels_zyx.shape != shape or labels_zyx.dtype.kind not in "iu":
        raise DatasetError(
            f"what the previous stage segmented in case {case_id} has {labels_zyx.shape} voxels (z, y, x), but the "
            f"preprocessed case {shape}: image or plan changed since; train the previous stage again",
            case=case_id,
        )
    return labels_zyx


def file_of(folder: Path, case_id: CaseId) -> Path:
    """Return where a case is, there or not.

    Raises:
        DatasetError: The identifier is no name of a file.
    """
    if not is_file_name(case_id):
        raise DatasetError(f"{case_id!r} cannot be a case identifier, because it is no file name")
    return folder / f"{case_id}{ENDING}"


def _fold_of(file: Path) -> Fold | None:
    """Return which fold a file comes from; None where it cannot be read."""
    try:
        return HandedOn.model_validate_json(map_npz(file).texts[RECORD]).fold
    except (OSError, ValueError, KeyError):  # ValidationError is a ValueError.
        return None
