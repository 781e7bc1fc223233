"""Whether names of files make whole cases: channels that are left out, partners that lack, names too much alike."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from core.domain.dataset import CaseId, DatasetProblem
from core.domain.problems import problem, some
from core.io.scan import looks_the_same


def channel_gaps(
    folder: Path, images: Mapping[CaseId, Mapping[int, Path]], ending: str
) -> Iterator[DatasetProblem]:
    """Report channel numbers that are left out before the last one."""
    for case_id, channels in sorted(images.items()):
        missing = sorted(set(range(max(channels))) - set(channels))
        if missing:
            names = some([f"{case_id}_{number:04d}{ending}" for number in missing])
            yield problem(
                case_id, "missing-channel", f"{folder.name} lacks {names}; add it, or number from 0000"
            )


def missing_partners(
    images_folder: Path,
    labels_folder: Path,
    files: tuple[Mapping[CaseId, Mapping[int, Path]], Mapping[CaseId, Path]],
    ending: str,
) -> Iterator[DatasetProblem]:
    """Report images without label and labels without image."""
    images, labels = files
    single_images = {looks_the_same(case_id): case_id for case_id in images if case_id not in labels}
    single_labels = {looks_the_same(case_id): case_id for case_id in labels if case_id not in images}
    for likeness, case_id in sorted(single_images.items(), key=lambda item: item[1]):
        twin = single_labels.get(likeness)
        cure = f"rename {twin}{ending} to it" if twin else "add it, or take the image out"
        yield problem(case_id, "missing-label", f"{labels_folder.name} has no {case_id}{ending}; {cure}")
    for likeness, case_id in sorted(single_labels.items(), key=lambda item: item[1]):
        twin, without_number = single_images.get(likeness), re.sub(r"_\d{4}$", "", case_id)
        if twin:
            cure = f"rename it to {twin}{ending}"
        elif without_number in images:
            cure = f"labels carry no channel number: rename it to {without_number}{ending}"
        else:
            cure = f"add {case_id}_0000{ending} to {images_folder.name}, or take the label out"
        yield problem(
            case_id, "missing-image", f"{labels_folder.name}/{case_id}{ending} has no image; {cure}"
        )


def ambiguous_names(case_ids: Iterable[CaseId]) -> Iterator[DatasetProblem]:
    """Report names that some systems cannot tell apart."""
    seen: dict[str, CaseId] = {}
    for case_id in sorted(case_ids):
        twin = seen.setdefault(looks_the_same(case_id), case_id)
        if twin != case_id:
            message = f"{case_id} and {twin} differ only in upper and lower case, or in how letters are coded; rename one"
            yield problem(case_id, "ambiguous-case", message)
