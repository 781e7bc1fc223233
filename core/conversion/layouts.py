"""Which layout a dataset folder has: told by its dataset.json and by how its files are named."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from core.conversion.legacy import is_older, is_v2
from core.domain.conversion import Layout
from core.domain.problems import some
from core.domain.record import parse_json
from core.errors import DatasetError
from core.io.cases import DESCRIPTION_FILE, IMAGES_FOLDER, LABELS_FOLDER, description_text
from core.io.readers import known_endings

HIDDEN: Final = {Layout.DECATHLON: (".", "_"), Layout.V1: (".",)}
"""How names begin of files that are none of the dataset, `._` of macOS among them; Engine specification A 1.3."""

CHANNEL: Final = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})")
"""How the name of an image ends in nnU-Net, before its ending."""


def tell_layout(folder: Path) -> Layout | None:
    """Tell the layout of a dataset folder by its dataset.json and the names of its files.

    The two older layouts share their dataset.json. They differ in the images, which carry a channel number
    in nnU-Net v1 (CASE_0000.nii.gz beside the label CASE.nii.gz) and none in the Decathlon.

    Returns:
        None where dataset.json is written as in none of the three, or cannot be read.

    Raises:
        DatasetError: It is an older one, but images or labels are missing, or images are named partly in the
            one way and partly in the other.
    """
    try:
        values = parse_json(description_text(folder), DESCRIPTION_FILE, DatasetError)
    except DatasetError:
        return None
    return layout_of(folder, values)


def layout_of(folder: Path, values: Mapping[str, Any]) -> Layout | None:
    """Tell the layout by the values of dataset.json and, of the older two, by the names of the images.

    Raises:
        DatasetError: As `tell_layout`.
    """
    if is_v2(values):
        return Layout.V2
    if not is_older(values):
        return None
    ending = ending_of(folder, values)
    images = files_in(folder / IMAGES_FOLDER, ending, Layout.V1).keys()
    labels = files_in(folder / LABELS_FOLDER, ending, Layout.V1).keys()
    numbered = {match["case"] for match in map(CHANNEL.fullmatch, images) if match} & labels
    plain = images & labels
    if plain and numbered - plain:
        raise DatasetError(
            f"images of some cases carry a channel number ({some(sorted(numbered - plain))}), those of others do "
            f"not ({some(sorted(plain))}); name all in one way"
        )
    if plain or numbered:
        return Layout.DECATHLON if plain else Layout.V1
    return Layout.V1 if images and all(map(CHANNEL.fullmatch, images)) else Layout.DECATHLON


def ending_of(folder: Path, values: Mapping[str, Any]) -> str:
    """Return the one ending of all images and labels; dataset.json may know it already.

    Raises:
        DatasetError: A folder is missing, or the files are of several formats or of none that can be read.
    """
    missing = [name for name in (IMAGES_FOLDER, LABELS_FOLDER) if not (folder / name).is_dir()]
    if missing:
        raise DatasetError(f"the dataset has no folder {' and no folder '.join(missing)} beside dataset.json")
    stated = values.get("file_ending")
    if isinstance(stated, str):
        return stated
    count: Counter[str] = Counter()
    for name in (IMAGES_FOLDER, LABELS_FOLDER):
        for path in (folder / name).iterdir():
            known = next((one for one in known_endings() if path.name.lower().endswith(one)), None)
            if known is not None and not path.name.startswith(HIDDEN[Layout.DECATHLON]):
                count[path.name[-len(known) :]] += 1
    if len(count) > 1:
        found = ", ".join(f"{number} files of {ending}" for ending, number in count.most_common())
        raise DatasetError(f"images and labels are of several formats ({found}); save all in one")
    if not count:
        raise DatasetError(
            f"{IMAGES_FOLDER} and {LABELS_FOLDER} hold no image; they may be of: {', '.join(known_endings())}"
        )
    return next(iter(count))


def files_in(folder: Path, ending: str, layout: Layout) -> dict[str, Path]:
    """Return the files of a folder by name without ending, without those that systems leave behind."""
    if not folder.is_dir():
        return {}
    return {
        path.name.removesuffix(ending): path
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending) and not path.name.startswith(HIDDEN[layout]) and path.is_file()
    }
