"""Postprocessing of folders of segmentations: given or found, applied, read from its file."""

from functools import partial
from math import prod
from pathlib import Path
from typing import Final

from core.domain.dataset import DatasetDescription
from core.domain.postprocessing import POSTPROCESSING_FILE, Postprocessing
from core.domain.progress import Observer
from core.domain.record import write_json
from core.errors import DatasetError, ModelError
from core.evaluation.evaluate import evaluate_files, file_pairs, write_summary
from core.evaluation.side_by_side import Errand, each_case
from core.inference.postprocess import postprocessed
from core.io.image import LabelMap
from core.io.placement import copy_placement
from core.io.readers import choose_reader, read_header, read_labels, write_labels
from core.network.official_postprocessing import LARGEST_BYTES, unpickled_postprocessing
from core.network.pickled import PickleError
from core.pipeline.data import default_workers
from core.pipeline.determining import BYTES_PER_VOXEL, Determined, ScoredCases, determine

STAGE: Final = "postprocess"
"""What an observer is told of."""

PICKLED: Final = ".pkl"
"""Ending of such a file."""


def postprocess(
    segmentations: Path,
    out: Path,
    postprocessing: Postprocessing,
    description: DatasetDescription,
    observer: Observer,
    *,
    workers: int | None = None,
) -> int:
    """Apply a postprocessing to every label map of a folder; each lies where it lay.

    Args:
        segmentations: Folder of label maps; other files in it are left alone.
        out: Gets a label map of the same name for each.
        postprocessing: What to remove.
        description: Labels and file ending of the dataset.
        observer: Told after each case; asked before each whether to stop.
        workers: Cases at the same time; one per core if not given.

    Returns:
        The number of cases.

    Raises:
        DatasetError: There is nothing to postprocess, or `out` is the folder itself.
        ModelError: The postprocessing is about labels that the dataset does not have.
        ImageError: A file cannot be read or written.
        CancelledError: The observer asked to stop.

    Source:
        Engine specification B 7.8.
    """
    files = _segmentations(segmentations, out, description)
    unknown = {label for group in postprocessing.keep_largest for label in group} - set(
        description.label_set().foreground
    )
    if unknown:
        raise ModelError(
            f"the postprocessing is about labels {', '.join(map(str, sorted(unknown)))}, which dataset.json does not "
            "declare; give the one that was determined for this dataset"
        )
    reader = choose_reader(description, files[0], permissive=True)
    out.mkdir(parents=True, exist_ok=True)
    work = partial(_write_with, out=out, reader=reader, postprocessing=postprocessing)
    errand = Errand(STAGE, observer, workers or default_workers())
    each_case(
        work,
        files,
        errand,
        name=lambda path: path.name,
        needs=lambda path: BYTES_PER_VOXEL * prod(read_header(path, reader).shape),
    )
    return len(files)


def _segmentations(folder: Path, out: Path, description: DatasetDescription) -> list[Path]:
    """Return the label maps of a folder.

    Raises:
        DatasetError: There is none, or they would be overwritten.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}")
    if folder.resolve() == out.resolve():
        raise DatasetError(f"{out} is read for this, and would be lost; name another folder for the result")
    ending = description.file_ending
    files = sorted(path for path in folder.iterdir() if path.name.endswith(ending) and path.is_file())
    if not files:
        raise DatasetError(f"there is nothing to postprocess: {folder} holds no file that ends in {ending}")
    return files


def _write_with(path: Path, *, out: Path, reader: str, postprocessing: Postprocessing) -> None:
    """Write one label map after a postprocessing."""
    segmentation = read_labels(path, reader)
    labels_zyx = postprocessed(segmentation.labels_zyx, postprocessing)
    write_labels(LabelMap(labels_zyx, segmentation.geometry), out / path.name, reader)
    copy_placement(path, out / path.name)


def determine_postprocessing(
    segmentations: Path,
    references: Path,
    out: Path,
    description: DatasetDescription,
    observer: Observer,
    *,
    workers: int | None = None,
) -> Determined:
    """Find which postprocessing helps, and apply it.

    Args:
        segmentations: Folder of label maps, of all cases of a cross-validation.
        references: Folder of label maps of the same names; there may be more.
        out: Gets postprocessing.json, the label maps after it, and their summary.json.
        description: Labels and file ending of the dataset.
        observer: Told after each case; asked before each whether to stop.
        workers: Cases at the same time; one per core if not given.

    Raises:
        DatasetError: The files of the two folders do not match.
        ImageError: A file cannot be read, or shapes differ.
        CancelledError: The observer asked to stop.
    """
    _segmentations(segmentations, out, description)
    pairs = file_pairs(segmentations, references, description.file_ending, is_partial=True)
    reader, labels = choose_reader(description, pairs[0].reference, permissive=True), description.label_set()
    errand = Errand(STAGE, observer, workers or default_workers())
    before = evaluate_files(pairs, labels, reader, observer, workers=errand.workers)
    determined = determine(ScoredCases(pairs, labels, reader, errand), before)
    postprocess(segmentations, out, determined.postprocessing, description, observer, workers=errand.workers)
    write_json(out / POSTPROCESSING_FILE, determined.postprocessing.to_json())
    write_summary(determined.report, out)
    return determined


def read_postprocessing(path: Path) -> Postprocessing:
    """Read a postprocessing.json, of ours or of the reference, or the reference's postprocessing.pkl.

    Raises:
        ModelError: It cannot be used; a pickle that names anything but the one function is refused.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; check the path") from error
    if len(content) > LARGEST_BYTES:
        raise ModelError(f"{path} is larger than any postprocessing; is it the right file?")
    if path.suffix != PICKLED:
        return Postprocessing.parse(content)
    try:
        return unpickled_postprocessing(content)
    except PickleError as error:
        raise ModelError(
            f"{path} cannot be used as a postprocessing: {error}; give the postprocessing.json beside it"
        ) from error
