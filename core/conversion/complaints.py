"""What keeps cases of an older layout from being converted: files that lack, and names that say two things."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from core.domain.conversion import Layout
from core.domain.dataset import CaseId, DatasetDescription, DatasetProblem
from core.domain.problems import LISTED, problem, some
from core.errors import LabelsError
from core.io.cases import DESCRIPTION_FILE, IMAGES_FOLDER, LABELS_FOLDER
from core.io.readers import PICTURE_ENDINGS


@dataclass(frozen=True, slots=True)
class Found:
    """Files by case, and what dataset.json says about them."""

    layout: Layout
    ending: str
    channels: int
    images: Mapping[CaseId, Mapping[int, Path]]
    labels: Mapping[str, Path]
    listed: Mapping[CaseId, frozenset[str]]
    """Label names, without ending, that `training` gives to each case; one, unless entries contradict."""


def label_of(case_id: CaseId, found: Found) -> Path | None:
    """Return the label of a case: that of its name or, if there is none, the one that is listed for it."""
    own = found.labels.get(case_id)
    if own is not None:
        return own
    return next((found.labels[name] for name in found.listed.get(case_id, ()) if name in found.labels), None)


def label_problems(values: Mapping[str, Any]) -> Iterator[DatasetProblem]:
    """Report labels that nnU-Net v2 does not take, gaps between their numbers above all."""
    try:
        DatasetDescription.model_validate(values).label_set()
    except LabelsError as error:
        yield problem(None, "invalid-labels", error.message)


def name_problems(unnumbered: tuple[Path, ...]) -> Iterator[DatasetProblem]:
    """Report images of nnU-Net v1 that tell no channel."""
    for path in unnumbered:
        message = f"{IMAGES_FOLDER}/{path.name} has no channel number, others have; rename it to CASE_0000"
        yield problem(path.name, "file-name", message)


def case_problems(found: Found) -> Iterator[DatasetProblem]:
    """Report cases that lack a file, or of which dataset.json and the folders tell two stories."""
    labels = {case_id: label_of(case_id, found) for case_id in {*found.images, *found.listed}}
    used = Counter(path for path in labels.values() if path is not None)
    labels |= {name: path for name, path in found.labels.items() if path not in used}
    for case_id, label in sorted(labels.items()):
        images, names = found.images.get(case_id, {}), found.listed.get(case_id, frozenset())
        if not images or label is None:
            yield _absence(case_id, label, found)
        elif used[label] > 1 or (names and {label.name.removesuffix(found.ending)} != names):
            message = (
                f"{DESCRIPTION_FILE} gives {case_id} the label {some(sorted(names))}, which is another case's, or "
                f"not the only one, or not the one of its name; correct the entries under training"
            )
            yield problem(case_id, "ambiguous-case", message)
        elif found.layout is Layout.V1 and not found.ending.lower().endswith(PICTURE_ENDINGS):
            # One picture may hold all channels, so that its files do not tell how many there are.
            yield from _channel_problems(case_id, images, found)


def _absence(case_id: CaseId, label: Path | None, found: Found) -> DatasetProblem:
    """Report a case without image, without label, or without both, which only dataset.json knows."""
    number = "_0000" if found.layout is Layout.V1 else ""
    image_name = f"{IMAGES_FOLDER}/{case_id}{number}{found.ending}"
    if case_id in found.images:
        message = f"{LABELS_FOLDER} has no {case_id}{found.ending}; add it, or take the image out"
        return problem(case_id, "missing-label", message)
    if label is not None:
        message = f"{LABELS_FOLDER}/{label.name} has no image; add {image_name}, or take the label out"
        return problem(case_id, "missing-image", message)
    message = (
        f"{DESCRIPTION_FILE} lists {case_id} under training, but neither {image_name} nor its label is there; "
        "add both, or take the entry out"
    )
    return problem(case_id, "missing-image", message)


def _channel_problems(case_id: CaseId, images: Mapping[int, Path], found: Found) -> Iterator[DatasetProblem]:
    """Report channels that are missing, or that dataset.json does not name."""
    names = (
        f"{case_id}_{number:04d}{found.ending}" for number in range(found.channels) if number not in images
    )
    shown = list(islice(names, LISTED))
    more = found.channels - sum(number < found.channels for number in images) - len(shown)
    surplus = [images[number].name for number in sorted(images) if number >= found.channels]
    if shown:
        missing = ", ".join(shown) + (f" and {more} more" if more else "")
        message = f"{IMAGES_FOLDER} lacks {missing}; there must be one file per channel: add what is missing"
        yield problem(case_id, "missing-channel", message)
    if surplus:
        message = (
            f"{IMAGES_FOLDER} holds {some(surplus)}, but {DESCRIPTION_FILE} names {found.channels} channels"
        )
        yield problem(case_id, "channel-count", f"{message}; name all under modality, or take the file out")
