"""Segment one image: its files are read, a model is applied, and what is wanted of it is written."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from core.domain.model import PredictionOptions
from core.domain.progress import Observer
from core.errors import ImageError
from core.io.image import Image, LabelArray, disagreement
from core.io.placement import copy_placement
from core.io.probabilities import probabilities_written, write_map, write_properties
from core.io.readers import read_header, read_image, read_labels, reader_for_file, write_labels

if TYPE_CHECKING:
    from core.inference.ensemble import TrainedModel
    from core.inference.model import LoadedModel
    from core.inference.predict import Prepared


@dataclass(frozen=True, slots=True)
class PredictionFiles:
    """Where a segmentation goes, and what else is wanted of an image."""

    segmentation: Path
    preview: Path | None = None
    probabilities: Path | None = None
    """CASE.npz; CASE.pkl beside it says where the image lies."""
    uncertainty: Path | None = None
    """Ends in .nii.gz."""

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file that there will be."""
        beside = () if self.probabilities is None else (self.probabilities.with_suffix(".pkl"),)
        others = (self.probabilities, *beside, self.uncertainty, self.preview)
        return (self.segmentation, *(path for path in others if path is not None))


@dataclass(frozen=True, slots=True)
class ReadFiles:
    """An image that was read and preprocessed."""

    first: Path
    """The file of its first channel."""
    reader: str
    image: Image | None
    """Where somebody still wants to see it."""
    prepared: "Prepared"
    previous: Path | None
    """What the stage before segmented, where that was given."""
    seconds: float
    """Of reading."""


@dataclass(frozen=True, slots=True)
class PredictionSummary:
    """What a prediction measured."""

    volumes: dict[str, float]
    """Millilitres per label or region name; empty for a 2D image."""
    seconds: dict[str, float]
    """Per stage."""
    provenance: dict[str, Any] = field(default_factory=dict)


def predict_files(
    model: "TrainedModel",
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
    read = read_files(model, channels, previous=previous, with_image=targets.preview is not None)
    return segment_files(model, read, targets, observer, options or PredictionOptions())


def read_files(
    model: "TrainedModel", channels: Sequence[Path], *, previous: Path | None = None, with_image: bool = False
) -> ReadFiles:
    """Read and preprocess one image, which needs no network: the next one can be read while another is segmented.

    Raises:
        DomainError: As `predict_files`.
    """
    from core.inference.predict import prepare

    started = perf_counter()
    reader = input_reader(model.plan.image_reader_writer, channels[0])
    image = read_image(channels, reader)
    previous_zyx = None if previous is None else _read_previous(previous, channels[0], reader)
    read = perf_counter()
    prepared = prepare(model, image, previous_zyx=previous_zyx)
    return ReadFiles(
        first=channels[0],
        reader=reader,
        image=image if with_image else None,
        prepared=prepared,
        previous=previous,
        seconds=read - started,
    )


def segment_files(
    model: "TrainedModel",
    read: ReadFiles,
    targets: PredictionFiles,
    observer: Observer,
    options: PredictionOptions,
) -> PredictionSummary:
    """Segment an image that was read, and write what is wanted of it.

    Raises:
        DomainError: As `predict_files`.
    """
    from core.evaluation.metrics import volumes_ml
    from core.inference.export import Wanted
    from core.inference.predict import predict_prepared
    from core.io.preview import save_preview

    labels = model.labels
    shape = read.prepared.shape
    with (
        nullcontext()
        if targets.probabilities is None
        else probabilities_written(
            targets.probabilities, (len(labels.heads), *shape), has_background=not labels.has_regions
        )
    ) as keep:
        wanted = Wanted(keep, uncertainty=targets.uncertainty is not None)
        done = predict_prepared(model, read.prepared, options, observer, wanted=wanted)
        computed = perf_counter()
        if targets.probabilities is not None:
            write_properties(
                targets.probabilities.with_suffix(".pkl"), done.properties, model.plan.image_reader_writer
            )
    if targets.uncertainty is not None and done.uncertainty_zyx is not None:
        write_map(done.uncertainty_zyx, done.segmentation.geometry, targets.uncertainty)
        copy_placement(read.first, targets.uncertainty)
    write_labels(done.segmentation, targets.segmentation, read.reader)
    copy_placement(read.first, targets.segmentation)
    written = perf_counter()
    if targets.preview is not None and read.image is not None:
        names = {value: name for name, value in model.description.labels.items() if isinstance(value, int)}
        save_preview(targets.preview, read.image, done.segmentation, names=names)
    return PredictionSummary(
        volumes=volumes_ml(done.segmentation, labels),
        seconds={"read": read.seconds, **done.seconds, "write": written - computed}
        | {"preview": perf_counter() - written},
        provenance={
            "folds": list(done.folds),
            "postprocessed": done.is_postprocessed,
            **_provenance(model, read.previous),
        },
    )


def _provenance(model: "TrainedModel", previous: Path | None) -> dict[str, Any]:
    """Say what segmented an image."""
    from core.inference.ensemble import members_of

    common = {
        "configuration": model.configuration_name,
        "precision": model.precision.name,
        "precision_reason": model.precision.reason,
        "device": str(model.device),
    }
    members = members_of(model)
    if len(members) == 1:
        return common | _provenance_of_previous(members[0], previous)
    return common | {"members": [_member(member) for member in members]}


def _member(member: "LoadedModel") -> dict[str, Any]:
    """Say which member of an ensemble it was."""
    own = {"configuration": member.configuration_name, "folds": list(member.folds)}
    return own | _provenance_of_previous(member, None)


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


def input_reader(preferred: str, path: Path) -> str:
    """Return the model's own reader if it knows the file's format, else the one that does.

    Raises:
        ImageError: No reader has the ending.
    """
    return reader_for_file(path, preferred)
