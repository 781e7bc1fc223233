"""The table of odd inputs: how each is made, what verification must say of it, and what it does say."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import SimpleITK

from core.domain.dataset import DatasetProblem
from core.domain.progress import SilentObserver
from core.verification.verify import Verification, verify_dataset
from tests.factories import Recipe, case_name, make_dataset, write_array

VOLUME: Final = Recipe(cases=6, shape=(10, 14, 12))
"""Six cases: more than there are folds, even if one is taken out."""

PLAIN: Final = replace(VOLUME, ending=".nii")
"""Uncompressed, so that bytes of the header can be changed."""

TWO_CHANNELS: Final = replace(VOLUME, channels=2)
PICTURE: Final = Recipe(cases=6, shape=(1, 30, 31), ending=".png", channels=3)
GREY_PICTURE: Final = replace(PICTURE, channels=1)
STACK: Final = replace(VOLUME, ending=".tif")

FIRST: Final = case_name(0)

Making = Callable[[Path], None]
"""Turns a sound dataset folder into an odd one."""


@dataclass(frozen=True)
class OddInput:
    """One kind of damaged or odd input."""

    name: str
    make: Making
    kinds: tuple[str, ...]
    """Of the problems and notes that it gets, the one that is meant first; none for what is as good as any."""
    names: str
    """The file, folder or case that the sentence must name."""
    says: str
    """Words that the sentence must hold; empty where they are the reader's own."""
    recipe: Recipe
    unless_root: bool
    """Whether it cannot be made by somebody who may read everything."""


ODD_INPUTS: Final[list[OddInput]] = []


def odd(
    name: str,
    *kinds: str,
    names: str = FIRST,
    says: str = "",
    recipe: Recipe = VOLUME,
    unless_root: bool = False,
) -> Callable[[Making], Making]:
    """Enter a function into the table."""

    def enter(make: Making) -> Making:
        ODD_INPUTS.append(OddInput(name, make, kinds, names, says, recipe, unless_root))
        return make

    return enter


def fine(name: str, recipe: Recipe = VOLUME) -> Callable[[Making], Making]:
    """Enter what looks odd and is none the less as good as any."""
    return odd(name, recipe=recipe)


class Kitchen:
    """Makes odd datasets; the sound ones that they start from are drawn once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sound: dict[str, Path] = {}
        self._made = 0

    def dataset(self, entry: OddInput) -> Path:
        """Make the dataset of an entry in a folder of its own."""
        key = repr(entry.recipe)
        if key not in self._sound:
            self._sound[key] = make_dataset(self._folder / f"sound{len(self._sound)}", entry.recipe)
        self._made += 1
        raw = self._folder / f"odd{self._made}"
        shutil.copytree(self._sound[key], raw)
        entry.make(raw)
        return raw


def verified(raw: Path) -> Verification:
    """Verify as the command line does."""
    return verify_dataset(raw, SilentObserver(), outside=True)


def findings(found: Verification) -> tuple[DatasetProblem, ...]:
    """Return problems and notes in one row."""
    return (*found.problems, *found.notes)


def meant(entry: OddInput, found: Verification) -> Iterator[DatasetProblem]:
    """Yield what verification says about the odd thing itself."""
    for one in findings(found):
        if (
            one.kind in entry.kinds[:1]
            and entry.names in f"{one.case} {one.message}"
            and entry.says in one.message
        ):
            yield one


# --- tools for making ----------------------------------------------------------------------------------------


def image(raw: Path, number: int = 0, channel: int = 0) -> Path:
    """Return the path of an image."""
    return next((raw / "imagesTr").glob(f"{case_name(number)}_{channel:04d}.*"))


def label(raw: Path, number: int = 0) -> Path:
    """Return the path of a label file."""
    return next(path for path in (raw / "labelsTr").glob(f"{case_name(number)}.*") if path.suffix != ".json")


def edit(raw: Path, **changes: Any) -> None:
    """Change entries of dataset.json; None takes one out."""
    path = raw / "dataset.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def change(path: Path, work: Callable[[bytearray], object]) -> None:
    """Change the bytes of a file."""
    content = bytearray(path.read_bytes())
    work(content)
    path.write_bytes(content)


def put(path: Path, form: str, offset: int, *values: float) -> None:
    """Pack numbers into a file."""
    change(path, lambda content: struct.pack_into(form, content, offset, *values))


def cut(path: Path, left: float) -> None:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])


def labels_of(
    values: list[float], dtype: npt.DTypeLike = np.int16, recipe: Recipe = VOLUME
) -> npt.NDArray[Any]:
    """Return an array that holds each value, (z, y, x)."""
    return np.resize(np.array(values, dtype), recipe.shape)


def rewrite(path: Path, voxels_zyx: npt.NDArray[Any], recipe: Recipe = VOLUME) -> None:
    """Write other voxels into a file."""
    write_array(voxels_zyx, path, recipe)


def write_series(path: Path, volumes_zyx: Sequence[npt.NDArray[Any]]) -> None:
    """Write volumes as one file of four dimensions."""
    itk: Any = SimpleITK  # its functions carry no types
    itk.WriteImage(itk.JoinSeries([itk.GetImageFromArray(one) for one in volumes_zyx]), str(path))
