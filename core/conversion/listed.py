"""Which label dataset.json of an older layout lists for each case, and entries that no file can be found by."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from core.conversion.layouts import CHANNEL
from core.domain.dataset import CaseId
from core.domain.problems import some
from core.errors import DatasetError
from core.io.cases import IMAGES_FOLDER, LABELS_FOLDER
from core.io.readers import known_endings


def listed_labels(
    values: Mapping[str, Any], ending: str, images: Mapping[CaseId, object]
) -> dict[CaseId, frozenset[str]]:
    """Read `training`: the label names of each case.

    Args:
        values: dataset.json.
        ending: Of the files that there are.
        images: The cases that have any.

    Raises:
        DatasetError: Entries are not written as they must be, or name files elsewhere; all are named.
    """
    entries = values.get("training", [])
    if not isinstance(entries, list):
        raise DatasetError('dataset.json: training must be a list of {"image": "./imagesTr/…", "label": "…"}')
    pairs = [_paths(entry) for entry in entries]
    mistakes = [*_form_mistakes(pairs), *_place_mistakes([pair for pair in pairs if pair is not None])]
    if mistakes:
        raise DatasetError(f"dataset.json {'; '.join(mistakes)}")
    listed: dict[CaseId, set[str]] = defaultdict(set)
    for image, label in (
        tuple(_stem(path.name, ending) for path in pair) for pair in pairs if pair is not None
    ):
        match = CHANNEL.fullmatch(image)
        case_id = match["case"] if match and image not in images and match["case"] in images else image
        listed[case_id].add(label)
    return {case_id: frozenset(labels) for case_id, labels in listed.items()}


def _paths(entry: object) -> tuple[PurePosixPath, PurePosixPath] | None:
    """Return the image and the label of an entry, if it names one of each."""
    if not isinstance(entry, dict):
        return None
    image, label = entry.get("image"), entry.get("label")
    if not isinstance(image, str) or not isinstance(label, str):
        return None
    return PurePosixPath(image), PurePosixPath(label)


def _form_mistakes(pairs: Sequence[object | None]) -> Iterator[str]:
    """Report entries that do not name an image and a label."""
    wrong = [str(number) for number, pair in enumerate(pairs) if pair is None]
    if wrong:
        what = "entry" if len(wrong) == 1 else "entries"
        yield (
            f"has {what} {some(wrong)} of training that must each name one image and one label, as "
            '{"image": "./imagesTr/CASE.nii.gz", "label": "./labelsTr/CASE.nii.gz"}'
        )


def _place_mistakes(pairs: Sequence[tuple[PurePosixPath, PurePosixPath]]) -> Iterator[str]:
    """Report listed files that do not lie in the folder of their kind, all of a kind together."""
    for folder, paths in zip((IMAGES_FOLDER, LABELS_FOLDER), zip(*pairs, strict=True), strict=False):
        outside = [path for path in paths if path.is_absolute() or ".." in path.parts]
        elsewhere = [path for path in paths if path not in outside and path.parent != PurePosixPath(folder)]
        for wrong, one, several in (
            (outside, "leads out of the dataset", "lead out of the dataset"),
            (elsewhere, f"is not in {folder}", f"are not in {folder}"),
        ):
            if wrong:
                yield (
                    f"lists {some([repr(str(path)[:200]) for path in wrong])}, which "
                    f"{one if len(wrong) == 1 else several}; put what is meant into {folder} and list it as "
                    f"./{folder}/NAME"
                )


def _stem(name: str, ending: str) -> str:
    """Return a listed name without its ending, be it another one than the files have."""
    known = (ending, *known_endings())
    return next((name[: -len(one)] for one in known if one and name.lower().endswith(one.lower())), name)
