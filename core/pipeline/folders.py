"""Segment the images of a folder: which of them, one after the other, the next one read meanwhile."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Final

from core.domain.model import PredictionOptions
from core.domain.progress import Observer, Progress, QuietObserver
from core.domain.record import write_json
from core.errors import CancelledError, DatasetError, DomainError, ImageError, ModelError
from core.io.cases import CaseFiles, find_images
from core.io.readers import read_header
from core.pipeline.models import load
from core.pipeline.prediction import PredictionFiles, ReadFiles, read_files, segment_files
from core.preprocessing.budget import available_bytes

if TYPE_CHECKING:
    from core.inference.ensemble import TrainedModel

MOST_NAMED: Final = 10
"""Files that a sentence names."""

UNCERTAINTY_FOLDER: Final = "uncertainty"
"""Within the folder of segmentations, so that whoever takes all of its images for segmentations is not misled."""

COPIES_WHILE_READING: Final = 4
"""Of an image in 32-bit floats, while it is read, cropped and resampled; roughly."""


@dataclass(frozen=True, slots=True)
class FolderOptions:
    """Which images of a folder are segmented, and what is written of each."""

    part: tuple[int, int] = (1, 1)
    """Which of how many parts; the k-th of n takes every n-th image, from the k-th on."""
    overwrite: bool = False
    """Whether to segment again what has been segmented."""
    probabilities: bool = False
    uncertainty: bool = False


EVERYTHING: Final = FolderOptions()
"""Every image that has no segmentation yet."""


@dataclass(frozen=True, slots=True)
class FolderOutcome:
    """How many images of a folder were segmented."""

    segmented: int
    present: int
    """How many were there already."""


def predict_folder(
    folder: Path,
    images: Path,
    out: Path,
    options: PredictionOptions,
    observer: Observer,
    *,
    previous: Path | None = None,
    previous_model: Path | None = None,
    which: FolderOptions = EVERYTHING,
) -> FolderOutcome:
    """Load a model, and segment the cases of a folder of images.

    Args:
        folder: Of the model.
        images: Files `CASE_0000.nii.gz` and so on, one per channel.
        out: As for `segment_folder`.
        options: How to predict.
        observer: Told after each case.
        previous: In a cascade, a folder of what the stage before segmented, files `CASE.nii.gz`.
        previous_model: Or the folder of its model; by default the one that lies within the model.
        which: Which cases, and what to write.

    Raises:
        DomainError: As `segment_folder`.
        ModelError: The model cannot be used, or nothing is known of the stage before it.
    """
    if previous is not None and previous_model is not None:
        raise ModelError("give what the stage before segmented or its model, not both")
    model = load(folder, options, previous_model=previous_model, alone=previous is not None)
    return segment_folder(model, images, out, options, observer, previous=previous, which=which)


def segment_folder(
    model: "TrainedModel",
    images: Path,
    out: Path,
    options: PredictionOptions,
    observer: Observer,
    *,
    previous: Path | None = None,
    which: FolderOptions = EVERYTHING,
) -> FolderOutcome:
    """Segment the cases of a folder of images; one that fails does not keep the others from it.

    Args:
        model: From `load`.
        images: Files `CASE_0000.nii.gz` and so on, one per channel.
        out: Gets one segmentation per case, `CASE.nii.gz` in the format of its image, and what else is wanted.
        options: How to predict.
        observer: Told after each case.
        previous: In a cascade, a folder of what the stage before segmented, files `CASE.nii.gz`.
        which: Which cases, and what to write.

    Raises:
        DatasetError: There is no case in the folder, or the stage before did not segment one.
        ModelError: Nothing is known of the stage before.
        ImageError: Cases could not be segmented; the sentence names each with its reason. All others were.
        CancelledError: The observer asked to stop.
    """
    from core.inference.requirements import require_whole

    cases = _part(find_images(images, model.description), which.part)
    if previous is not None:
        _require_all(previous, cases)
    else:
        require_whole(model)
    targets = {case.case_id: _targets(case, out, which) for case in cases}
    waiting = [
        case
        for case in cases
        if which.overwrite or not all(path.is_file() for path in targets[case.case_id].all)
    ]
    _describe(model, out, which)
    failed: dict[str, str] = {}
    for done, (case, reading) in enumerate(_read_ahead(model, waiting, previous)):
        observer.report(Progress(stage="predict", done=done, total=len(waiting), note=case.case_id))
        reason = _segment(model, reading, targets[case.case_id], QuietObserver(observer), options)
        if reason is not None:
            failed[case.case_id] = reason
    if failed:
        raise ImageError(
            f"{len(failed)} of {len(waiting)} cases could not be segmented: "
            f"{'; '.join(f'{case_id}: {reason}' for case_id, reason in failed.items())}",
            cases=list(failed),
        )
    observer.report(Progress(stage="predict", done=len(waiting), total=len(waiting)))
    return FolderOutcome(segmented=len(waiting), present=len(cases) - len(waiting))


def _part(cases: Sequence[CaseFiles], part: tuple[int, int]) -> Sequence[CaseFiles]:
    """Take one part of the cases.

    Raises:
        DatasetError: There is no such part.
    """
    number, parts = part
    if not 1 <= number <= parts:
        raise DatasetError(f"there is no part {number}/{parts}; the first of {parts} is 1/{max(1, parts)}")
    return cases[number - 1 :: parts]


def _targets(case: CaseFiles, out: Path, which: FolderOptions) -> PredictionFiles:
    """Name the files of a case."""
    case_id = case.case_id
    return PredictionFiles(
        segmentation=out / f"{case_id}{_ending(case)}",
        probabilities=out / f"{case_id}.npz" if which.probabilities else None,
        uncertainty=out / UNCERTAINTY_FOLDER / f"{case_id}_uncertainty.nii.gz" if which.uncertainty else None,
    )


def _describe(model: "TrainedModel", out: Path, which: FolderOptions) -> None:
    """Make the folder, with what those need to know who average or clean what is in it; Engine specification B 6.3."""
    (out / UNCERTAINTY_FOLDER if which.uncertainty else out).mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("dataset.json", model.description.to_json()),
        ("plans.json", model.plan.to_json()),
    ):
        if not (out / name).exists():
            write_json(out / name, content)


def _read_ahead(
    model: "TrainedModel", cases: Sequence[CaseFiles], previous: Path | None
) -> Iterator[tuple[CaseFiles, "Future[ReadFiles]"]]:
    """Yield each case while it is being read; the next one is read meanwhile, if there is memory for both."""

    def read(case: CaseFiles) -> ReadFiles:
        before = None if previous is None else previous / f"{case.case_id}{_ending(case)}"
        return read_files(model, case.images, previous=before)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read") as pool:
        coming: Future[ReadFiles] | None = None
        try:
            for case, following in zip_longest(cases, cases[1:]):
                reading = coming or pool.submit(read, case)
                coming = pool.submit(read, following) if following is not None and _fits(following) else None
                yield case, reading
        finally:
            pool.shutdown(cancel_futures=True)


def _fits(case: CaseFiles) -> bool:
    """Whether a case can be read beside another; what is wrong with it is said when its turn comes."""
    try:
        values = sum(read_header(path).values for path in case.images)
    except DomainError:
        return True
    return 4 * COPIES_WHILE_READING * values <= available_bytes() // 2


def _segment(
    model: "TrainedModel",
    reading: "Future[ReadFiles]",
    targets: PredictionFiles,
    observer: Observer,
    options: PredictionOptions,
) -> str | None:
    """Segment one case, and say why if that is not possible.

    Raises:
        CancelledError: The observer asked to stop.
    """
    from core.network.device import is_out_of_memory

    try:
        segment_files(model, reading.result(), targets, observer, options)
    except CancelledError:
        raise
    except DomainError as error:
        return error.message
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return "there is not enough memory for it; `explain` says how much it takes"
    return None


def _require_all(previous: Path, cases: Sequence[CaseFiles]) -> None:
    """Refuse to begin where the stage before did not segment every image.

    Raises:
        DatasetError: Some are missing; the sentence names them.
    """
    names = [f"{case.case_id}{_ending(case)}" for case in cases]
    missing = [name for name in names if not (previous / name).is_file()]
    if missing:
        raise DatasetError(
            f"what the stage before segmented is missing for {len(missing)} of {len(names)} images: "
            f"{', '.join(missing[:MOST_NAMED])}{' …' * (len(missing) > MOST_NAMED)}; they should be in {previous}",
            cases=list(missing),
        )


def _ending(case: CaseFiles) -> str:
    """Return what follows `CASE_0000` in the name of the first channel."""
    return case.images[0].name[len(f"{case.case_id}_0000") :]
