"""Preprocessed cases on local disk: one npz file each, memory-mapped, with its crop and class locations."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from core.domain.dataset import CaseId
from core.domain.geometry import Box, Shape, Spacing
from core.domain.record import Record, describe
from core.errors import DatasetError
from core.io.image import FloatArray, Geometry, LabelArray
from core.io.npz import AnyArray, Contents, map_npz, write_npz

ENDING: Final = ".npz"
VOXELS: Final = "data"
LABELS: Final = "seg"
LOCATIONS: Final = "loc_"
"""Prefix of the arrays of class locations; those of the region (1, 2) are `loc_1_2`."""
RECORD: Final = "case.json"

PARTIAL_PREFIX: Final = ".partial-"
"""Of files that are still being written, or were left by a process that died; never a case."""

OPEN_CASES: Final = 128
"""Cases that are kept open for the next patch; each holds an open file, of which systems allow few."""

Locations = npt.NDArray[np.int32]
"""Voxels of one class (n, 4): the columns are 0, z, y, x."""


class CaseProperties(Record):
    """What must survive preprocessing so that a segmentation finds its way back.

    Source:
        Engine specification A 4.8, A 6.1.
    """

    geometry: Geometry
    spacing: Spacing
    """Of the file, (z, y, x), not transposed."""
    shape_before_cropping: Shape
    """Transposed axis order, as the two below."""
    bbox_used_for_cropping: Box
    shape_after_cropping_and_before_resampling: Shape


@dataclass(frozen=True, slots=True)
class PreprocessedCase:
    """What the network is fed from: cropped, normalized, resampled, transposed."""

    voxels_czyx: FloatArray
    labels_zyx: LabelArray | None
    """int8 or int16, -1 outside the nonzero mask; None where no reference was given."""
    properties: CaseProperties
    locations: Mapping[str, Locations]
    """Per label key (`core.domain.labels.label_key`), voxels of `labels_zyx` in the order in which they were
    drawn."""
    previous_zyx: LabelArray | None = None
    """What the previous stage of a cascade segmented, on the same grid; None outside cascades."""


class StoredCase(Record):
    """case.json of a stored case."""

    version: Literal[2] = 2
    properties: CaseProperties
    digest: str = ""
    """Of all that shaped the arrays; empty where nobody said."""


class CaseStore:
    """Preprocessed cases in one folder, a file each: `CASE.npz`, as `numpy.load` reads it.

    Arrays are stored as they lie in memory, so that a patch costs the pages that it touches and nothing is
    unpacked: `data` float32 (c, z, y, x), `seg` int8 or int16 (1, z, y, x), `loc_<label>` int32 (n, 4).

    Args:
        folder: Made with the first case.

    Source:
        Own measurement: a patch from a memory-mapped array takes 0.4 to 0.8 ms, from compressed chunks 4.7 ms.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def case_ids(self) -> tuple[CaseId, ...]:
        """Identifiers of all complete cases, ascending."""
        names = (path.name for path in self.folder.glob(f"*{ENDING}"))
        return tuple(sorted(name.removesuffix(ENDING) for name in names if not name.startswith(".")))

    def file(self, case_id: CaseId) -> Path:
        """Return where a case is, there or not; its identifier must be the name of a file and nothing else.

        Raises:
            DatasetError: It is not.
        """
        if not is_file_name(case_id):
            raise DatasetError(f"{case_id!r} cannot be a case identifier, because it is no file name")
        return self.folder / f"{case_id}{ENDING}"

    def has(self, case_id: CaseId) -> bool:
        """Return whether a complete case is there."""
        return self.file(case_id).is_file()

    def digest(self, case_id: CaseId) -> str | None:
        """Return the digest that a case was saved with; None where there is no case."""
        try:
            return _record(map_npz(self.file(case_id))).digest
        except (OSError, ValueError):  # ValidationError is a ValueError.
            return None

    def save(self, case_id: CaseId, case: PreprocessedCase, digest: str = "") -> None:
        """Write a case; it appears, or replaces an older one, when it is complete."""
        target = self.file(case_id)
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = _arrays(case)
        record = StoredCase(properties=case.properties, digest=digest).model_dump_json().encode()
        with self._partial() as partial:
            write_npz(partial, arrays, {RECORD: record})
            partial.replace(target)

    def adopt(self, case_id: CaseId, source: Path) -> None:
        """Take a case over from the file of another store, without a second copy where the disk allows it."""
        target = self.file(case_id)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._partial() as partial:
            try:
                os.link(source, partial)
            except OSError:
                shutil.copyfile(source, partial)
            partial.replace(target)

    def load(self, case_id: CaseId) -> PreprocessedCase:
        """Open a case; its arrays are memory-mapped and read-only.

        Raises:
            DatasetError: It is absent or damaged.
        """
        try:
            contents = map_npz(self.file(case_id))
            return _case(contents, _record(contents))
        except FileNotFoundError as error:
            raise DatasetError(f"case {case_id} is not preprocessed", case=case_id) from error
        except ValidationError as error:
            raise DatasetError(
                f"preprocessed case {case_id} is damaged, preprocess it again: {describe(error)}",
                case=case_id,
            ) from error
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"preprocessed case {case_id} is damaged: preprocess it again", case=case_id
            ) from error

    def discard(self, case_id: CaseId) -> None:
        """Delete a case; one that is not there is deleted already."""
        self.file(case_id).unlink(missing_ok=True)

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        """Give a name to write under; whatever is left there in the end is removed."""
        path = self.folder / f"{PARTIAL_PREFIX}{uuid4().hex}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def is_whole(file: Path) -> bool:
    """Return whether a case's file is what was written, by its checksums.

    Asked before a case is kept instead of made again: after a power cut a file can have its name and its record
    without its arrays.
    """
    try:
        map_npz(file, is_checked=True)
    except (OSError, ValueError):
        return False
    return True


class OpenCases(Mapping[CaseId, PreprocessedCase]):
    """Cases of a store, opened when they are asked for; the ones asked for last stay open.

    Args:
        load: Opens one, such as `CaseStore.load`.
        case_ids: Which.
    """

    def __init__(self, load: Callable[[CaseId], PreprocessedCase], case_ids: Sequence[CaseId]) -> None:
        self._case_ids = dict.fromkeys(case_ids)
        self._load = lru_cache(maxsize=OPEN_CASES)(load)

    def __getitem__(self, case_id: CaseId) -> PreprocessedCase:
        if case_id not in self._case_ids:
            raise KeyError(case_id)
        return self._load(case_id)

    def __iter__(self) -> Iterator[CaseId]:
        return iter(self._case_ids)

    def __len__(self) -> int:
        return len(self._case_ids)


def is_file_name(case_id: CaseId) -> bool:
    """Return whether a case identifier can name a file or folder, visible and in the folder meant."""
    return bool(case_id) and case_id == Path(case_id).name and not case_id.startswith(".")


def _record(contents: Contents) -> StoredCase:
    """Read what a stored case says of itself."""
    if RECORD not in contents.texts:
        raise ValueError(f"there is no {RECORD}")
    return StoredCase.model_validate_json(contents.texts[RECORD])


def _arrays(case: PreprocessedCase) -> dict[str, AnyArray]:
    """Name the arrays of a case as its file does."""
    arrays: dict[str, AnyArray] = {VOXELS: np.asarray(case.voxels_czyx, dtype=np.float32)}
    if case.labels_zyx is not None:
        arrays[LABELS] = _narrow(case.labels_zyx)[np.newaxis]
    for key, voxels in case.locations.items():
        arrays[LOCATIONS + key.strip("()").replace(", ", "_")] = voxels.astype(np.int32, copy=False)
    return arrays


def _case(contents: Contents, record: StoredCase) -> PreprocessedCase:
    """Put a case together from the members of its file."""
    arrays = contents.arrays
    voxels_czyx, labels_czyx = arrays.get(VOXELS), arrays.get(LABELS)
    if voxels_czyx is None or (labels_czyx is not None and labels_czyx.shape != (1, *voxels_czyx.shape[1:])):
        raise ValueError("image and labels do not belong together")
    return PreprocessedCase(
        voxels_czyx=voxels_czyx,
        labels_zyx=None if labels_czyx is None else labels_czyx[0],
        properties=record.properties,
        locations={_label_key(name): array for name, array in arrays.items() if name.startswith(LOCATIONS)},
    )


def _label_key(name: str) -> str:
    """Return the label key that an array of locations belongs to."""
    values = name.removeprefix(LOCATIONS).split("_")
    return values[0] if len(values) == 1 else f"({', '.join(values)})"


def _narrow(labels_zyx: LabelArray) -> LabelArray:
    """Return labels as int8 where that holds them, else as int16."""
    small = np.iinfo(np.int8)
    fits = labels_zyx.min(initial=0) >= small.min and labels_zyx.max(initial=0) <= small.max
    return labels_zyx.astype(np.int8 if fits else np.int16, copy=False)
