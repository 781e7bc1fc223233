"""Which layout a dataset folder has, and which cases the folders of nnU-Net v1 and the Decathlon hold."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final

from core.conversion.legacy import convert_values, is_older, is_v2, read_values
from core.domain.conversion import Layout
from core.domain.dataset import CaseId, DatasetDescription, DatasetProblem
from core.domain.problems import LISTED, problem, some
from core.domain.record import parse_json
from core.errors import DatasetError, LabelsError
from core.io.cases import DESCRIPTION_FILE, IMAGES_FOLDER, LABELS_FOLDER, CaseFiles, description_text
from core.io.readers import PICTURE_ENDINGS, known_endings

FURTHER_FOLDERS: Final = (("imagesTs", "labelsTs"), ("imagesVal", "labelsVal"))
"""Cases that no training sees: test images, and what nnU-Net v1 also kept; Engine specification B 11.1."""

HIDDEN: Final = {Layout.DECATHLON: (".", "_"), Layout.V1: (".",)}
"""How names begin of files that are none of the dataset, `._` of macOS among them; Engine specification A 1.3."""

CHANNEL: Final = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})")
"""How the name of an image ends in nnU-Net, before its ending."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a dataset of an older layout holds, by its dataset.json and the names of its files."""

    source: Path
    """The folder."""
    layout: Layout
    ending: str
    """Of every file."""
    values: Mapping[str, Any]
    """dataset.json of nnU-Net v2, but for `numTraining`."""
    channels: int
    cases: tuple[CaseFiles, ...]
    """Training cases that have all files, by identifier. In the Decathlon one file holds all channels."""
    further: Mapping[tuple[str, str], tuple[CaseFiles, ...]]
    """Further cases by their folders of images and labels; either may be missing."""
    problems: tuple[DatasetProblem, ...]
    """What keeps cases from being converted."""
    notes: tuple[DatasetProblem, ...]


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
    return _layout(folder, values)


def survey(folder: Path) -> Survey:
    """List what a dataset of an older layout holds; no image is opened.

    The folders say which cases there are, as in the reference's own conversion. `training` in dataset.json
    adds what the folders cannot tell: that a case is missing, or that a label has another name than its
    image. A case that is complete but not listed is converted all the same, and noted. `test` is not
    looked at. Nothing that dataset.json names is opened unless it is a file of the two folders.

    Raises:
        DatasetError: The folder is of no older layout, or its dataset.json cannot be used.

    Source:
        Engine specification A 1.3, A 11.1 (16) and (17), B 11.
    """
    values = read_values(folder)
    layout = _layout(folder, values)
    if layout is Layout.V2:
        raise DatasetError("this is a nnU-Net v2 dataset already; there is nothing to convert")
    if layout is None:
        raise DatasetError(
            "dataset.json is written as in no layout that is known: nnU-Net v2 has channel_names, labels and "
            "file_ending; nnU-Net v1 and the Decathlon have modality, labels and training"
        )
    ending = _ending(folder, values)
    converted, notes = convert_values(values, layout, ending)
    channels = len(converted["channel_names"])
    images, labels = (_files(folder / name, ending, layout) for name in (IMAGES_FOLDER, LABELS_FOLDER))
    grouped, unnumbered = _grouped(images, layout)
    listed = _listed(values, ending, grouped)
    found = _Found(layout, ending, channels, grouped, labels, listed)
    problems = [*_label_problems(converted), *_name_problems(unnumbered), *_case_problems(found)]
    unusable = {one.case for one in problems}
    cases = tuple(
        CaseFiles(case_id, _in_order(files), _label_of(case_id, found))
        for case_id, files in sorted(grouped.items())
        if case_id not in unusable
    )
    unlisted = [case.case_id for case in cases if case.case_id not in listed]
    if unlisted and "training" in values:
        message = (
            f"{len(unlisted)} complete cases are not listed under training ({some(unlisted)}), yet converted"
        )
        notes = (*notes, problem(None, "unlisted-case", message))
    return Survey(
        source=folder,
        layout=layout,
        ending=ending,
        values=converted,
        channels=channels,
        cases=cases,
        further={names: _further(folder, names, ending, layout) for names in FURTHER_FOLDERS},
        problems=tuple(problems),
        notes=notes,
    )


# --- layout and ending ---------------------------------------------------------------------------------------


def _layout(folder: Path, values: Mapping[str, Any]) -> Layout | None:
    """Tell the layout by dataset.json and, of the older two, by the names of the images."""
    if is_v2(values):
        return Layout.V2
    if not is_older(values):
        return None
    ending = _ending(folder, values)
    images = _files(folder / IMAGES_FOLDER, ending, Layout.V1).keys()
    labels = _files(folder / LABELS_FOLDER, ending, Layout.V1).keys()
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


def _ending(folder: Path, values: Mapping[str, Any]) -> str:
    """Return the one ending of all images and labels; dataset.json may know it already."""
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


def _files(folder: Path, ending: str, layout: Layout) -> dict[str, Path]:
    """Return the files of a folder by name without ending, without those that systems leave behind."""
    if not folder.is_dir():
        return {}
    return {
        path.name.removesuffix(ending): path
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending) and not path.name.startswith(HIDDEN[layout]) and path.is_file()
    }


# --- cases ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """Files by case, and what dataset.json says about them."""

    layout: Layout
    ending: str
    channels: int
    images: Mapping[CaseId, Mapping[int, Path]]
    labels: Mapping[str, Path]
    listed: Mapping[CaseId, frozenset[str]]
    """Label names, without ending, that `training` gives to each case; one, unless entries contradict."""


def _grouped(
    images: Mapping[str, Path], layout: Layout
) -> tuple[dict[CaseId, dict[int, Path]], tuple[Path, ...]]:
    """Group images by case and channel; return those too whose name tells no channel though it must."""
    if layout is Layout.DECATHLON:
        return {name: {0: path} for name, path in images.items()}, ()
    grouped: dict[CaseId, dict[int, Path]] = defaultdict(dict)
    unnumbered = []
    for name, path in images.items():
        match = CHANNEL.fullmatch(name)
        if match is None:
            unnumbered.append(path)
        else:
            grouped[match["case"]][int(match["channel"])] = path
    return dict(grouped), tuple(unnumbered)


def _listed(
    values: Mapping[str, Any], ending: str, images: Mapping[CaseId, object]
) -> dict[CaseId, frozenset[str]]:
    """Read `training`: the label names of each case."""
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


def _label_of(case_id: CaseId, found: _Found) -> Path | None:
    """Return the label of a case: that of its name or, if there is none, the one that is listed for it."""
    own = found.labels.get(case_id)
    if own is not None:
        return own
    return next((found.labels[name] for name in found.listed.get(case_id, ()) if name in found.labels), None)


def _in_order(files: Mapping[int, Path]) -> tuple[Path, ...]:
    """Return images by channel number."""
    return tuple(files[number] for number in sorted(files))


def _further(folder: Path, names: tuple[str, str], ending: str, layout: Layout) -> tuple[CaseFiles, ...]:
    """List cases of a pair of folders; nobody demands that they are complete."""
    images, labels = (_files(folder / name, ending, layout) for name in names)
    grouped, unnumbered = _grouped(images, layout)
    cases = {case_id: _in_order(files) for case_id, files in grouped.items()}
    cases |= {path.name.removesuffix(ending): (path,) for path in unnumbered}
    return tuple(
        CaseFiles(case_id, cases.get(case_id, ()), labels.get(case_id))
        for case_id in sorted({*cases, *labels})
    )


# --- problems ------------------------------------------------------------------------------------------------


def _label_problems(values: Mapping[str, Any]) -> Iterator[DatasetProblem]:
    """Report labels that nnU-Net v2 does not take, gaps between their numbers above all."""
    try:
        DatasetDescription.model_validate(values).label_set()
    except LabelsError as error:
        yield problem(None, "invalid-labels", error.message)


def _name_problems(unnumbered: tuple[Path, ...]) -> Iterator[DatasetProblem]:
    """Report images of nnU-Net v1 that tell no channel."""
    for path in unnumbered:
        message = f"{IMAGES_FOLDER}/{path.name} has no channel number, others have; rename it to CASE_0000"
        yield problem(path.name, "file-name", message)


def _case_problems(found: _Found) -> Iterator[DatasetProblem]:
    """Report cases that lack a file, or of which dataset.json and the folders tell two stories."""
    labels = {case_id: _label_of(case_id, found) for case_id in {*found.images, *found.listed}}
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


def _absence(case_id: CaseId, label: Path | None, found: _Found) -> DatasetProblem:
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


def _channel_problems(case_id: CaseId, images: Mapping[int, Path], found: _Found) -> Iterator[DatasetProblem]:
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
