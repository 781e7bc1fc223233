"""Segment images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from core.domain.model import PredictionOptions
from core.domain.progress import Observer, Progress, QuietObserver
from core.errors import DatasetError, ImageError, ModelError
from core.io.cases import (
    CaseFiles,
    find_images,
)
from core.io.image import LabelArray, disagreement
from core.io.placement import copy_placement
from core.io.readers import (
    read_header,
    read_image,
    read_labels,
    reader_for_file,
    write_labels,
)

if TYPE_CHECKING:
    from core.inference.model import LoadedModel

MOST_NAMED = 10
"""Files that a sentence names."""


@dataclass(frozen=True, slots=True)
class PredictionFiles:
    """Where a segmentation and its picture go."""

    segmentation: Path
    preview: Path | None = None


@dataclass(frozen=True, slots=True)
class PredictionSummary:
    """What a prediction measured."""

    volumes: dict[str, float]
    """Millilitres per label or region name; empty for a 2D image."""
    seconds: dict[str, float]
    """Per stage."""
    provenance: dict[str, Any] = field(default_factory=dict)


def load(
    folder: Path, options: PredictionOptions, *, previous_model: Path | None = None, alone: bool = False
) -> "LoadedModel":
    """Load a trained model, ready to predict.

    Args:
        folder: Of the model.
        options: How to predict.
        previous_model: Folder of the model of a cascade's stage before, if not the one that lies in the folder.
        alone: Whether to leave out the stage before, because its segmentations are given.

    Raises:
        ModelError: It is incomplete or does not fit.
    """
    from core.inference.model import load_model, load_stage, with_previous

    if previous_model is not None:
        before = load_model(previous_model, options.model_copy(update={"folds": None}))
        return with_previous(load_stage(folder, options), before)
    return load_stage(folder, options) if alone else load_model(folder, options)


def predict_files(
    model: "LoadedModel",
    channels: Sequence[Path],
    targets: PredictionFiles,
    observer: Observer,
    options: PredictionOptions | None = None,
    *,
    previous: Path | None = None,
) -> PredictionSummary:
    """Segment one image.

    Args:
        model: From `load`.
        channels: One file per channel in the model's order, or one file that holds all.
        targets: The segmentation's ending chooses its format.
        observer: Told after each tile, and asked before each whether to stop.
        options: Folds, step size and mirroring; the model's own if not given.
        previous: In a cascade, what the stage before segmented; the model does it itself if not given.

    Raises:
        ImageError: The image cannot be read, its channels are not the model's, or `previous` lies elsewhere.
        ModelError: The model is a later stage of a cascade, and neither the stage before nor `previous` is given.
        CancelledError: The observer asked to stop.
    """
    from core.evaluation.metrics import volumes_ml
    from core.inference.predict import predict_image
    from core.io.preview import save_preview

    started = perf_counter()
    reader = input_reader(model.plan.image_reader_writer, channels[0])
    image = read_image(channels, reader)
    previous_zyx = None if previous is None else _read_previous(previous, channels[0], reader)
    read = perf_counter()
    done = predict_image(model, image, options or PredictionOptions(), observer, previous_zyx=previous_zyx)
    computed = perf_counter()
    segmentation = targets.segmentation
    write_labels(done.segmentation, segmentation, reader)
    copy_placement(channels[0], segmentation)
    written = perf_counter()
    if targets.preview is not None:
        names = {value: name for name, value in model.description.labels.items() if isinstance(value, int)}
        save_preview(targets.preview, image, done.segmentation, names=names)
    return PredictionSummary(
        volumes=volumes_ml(done.segmentation, model.labels),
        seconds={"read": read - started, **done.seconds, "write": written - computed}
        | {"preview": perf_counter() - written},
        provenance={
            "configuration": model.configuration_name,
            "folds": list(done.folds),
            "precision": done.precision.name,
            "precision_reason": done.precision.reason,
            "device": str(model.device),
        }
        | _provenance_of_previous(model, previous),
    )


def _provenance_of_previous(model: "LoadedModel", previous: Path | None) -> dict[str, Any]:
    """Say in a cascade which stage before it was."""
    if previous is not None:
        return {"previous": {"configuration": model.configuration.previous_stage, "given": True}}
    before = model.previous
    if before is None:
        return {}
    return {"previous": {"configuration": before.configuration_name, "folds": list(before.folds)}}


def _read_previous(previous: Path, image: Path, reader: str) -> LabelArray:
    """Read what the stage before segmented in an image.

    Raises:
        ImageError: It cannot be read, or lies on another grid.
    """
    difference = disagreement(read_header(image, reader), read_header(previous, reader))
    if difference is not None:
        raise ImageError(
            f"{image.name} and {previous.name}, what the stage before segmented, do not belong together: "
            f"{difference}; give its segmentation of this image",
            file=previous.name,
        )
    return read_labels(previous, reader).labels_zyx


def predict_folder(
    folder: Path,
    images: Path,
    out: Path,
    options: PredictionOptions,
    observer: Observer,
    *,
    previous: Path | None = None,
    previous_model: Path | None = None,
) -> int:
    """Segment every case of a folder of images.

    Args:
        folder: Of the model.
        images: Files `CASE_0000.nii.gz` and so on, one per channel.
        out: Gets one segmentation per case, of the same name and format.
        options: How to predict.
        observer: Told after each case.
        previous: In a cascade, a folder of what the stage before segmented, files `CASE.nii.gz`.
        previous_model: Or the folder of its model; by default the one that lies within the model.

    Returns:
        The number of cases.

    Raises:
        DatasetError: There is no case in the folder, or the stage before did not segment one.
        ModelError: The model cannot be used, or nothing is known of the stage before it.
    """
    from core.inference.predict import require_whole

    if previous is not None and previous_model is not None:
        raise ModelError("give what the stage before segmented or its model, not both")
    model = load(folder, options, previous_model=previous_model, alone=previous is not None)
    cases = find_images(images, model.description)
    if previous is not None:
        _require_all(previous, cases)
    else:
        require_whole(model)
    out.mkdir(parents=True, exist_ok=True)
    for done, case in enumerate(cases):
        observer.report(Progress(stage="predict", done=done, total=len(cases), note=case.case_id))
        ending = _ending(case)
        targets = PredictionFiles(out / f"{case.case_id}{ending}")
        before = None if previous is None else previous / f"{case.case_id}{ending}"
        predict_files(model, case.images, targets, QuietObserver(observer), options, previous=before)
    observer.report(Progress(stage="predict", done=len(cases), total=len(cases)))
    return len(cases)


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


def input_reader(preferred: str, path: Path) -> str:
    """Return the model's own reader if it knows the file's format, else the one that does.

    Raises:
        ImageError: No reader has the ending.
    """
    return reader_for_file(path, preferred)


def _ending(case: CaseFiles) -> str:
    """Return what follows `CASE_0000` in the name of the first channel."""
    return case.images[0].name[len(f"{case.case_id}_0000") :]
