"""Cases → fingerprint: shapes, spacings and foreground intensities, without keeping a voxel."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from core.crew import Crew, LostWorkerError, worked_on
from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import Fingerprint
from core.domain.geometry import Shape, Spacing, voxel_count
from core.domain.labels import BACKGROUND
from core.domain.progress import Observer, Progress
from core.errors import CancelledError, DatasetError, ImageError
from core.intensities import Samples, draw_samples, intensity_properties
from core.io.cases import CaseFiles, find_cases, read_description
from core.io.readers import choose_reader, read_header, read_image, read_labels
from core.preprocessing.crop import box_shape, nonzero_box, slices

log = logging.getLogger(__name__)

STAGE: Final = "fingerprint"

TOTAL_SAMPLES: Final = 100_000_000
"""Foreground voxels drawn per channel over all cases; Engine specification A 3.1."""

CT_CHANNEL: Final = "ct"
"""Name of a channel that is clipped to the intensities of the foreground; Engine specification A 5.9."""

BASE_BYTES: Final = 32 * 2**20
"""What a case takes however small it is."""


@dataclass(frozen=True, slots=True)
class CaseMeasurements:
    """What one case contributes."""

    shape_after_crop: Shape
    spacing: Spacing
    relative_size: float
    """Share of the voxels that cropping leaves."""
    samples: tuple[Samples, ...]
    """One per channel."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How a case is measured."""

    reader: str
    channels: int
    """How many an image must have."""
    draws: int
    """Voxels drawn per channel."""
    is_whole: bool = False
    """Whether they are drawn from all voxels, marked or not."""


def fingerprint_dataset(
    raw: Path, observer: Observer, crew: Crew, samples: int = TOTAL_SAMPLES, *, outside: bool = False
) -> Fingerprint:
    """Measure a dataset.

    Where no label file marks anything, intensities are those of whole images, unless a channel is CT: it would
    be clipped to the intensities of air and table.

    Args:
        raw: The dataset folder, checked by `core.verification.verify.verify_dataset`.
        observer: Told of every case; may ask to stop.
        crew: Cases measured at the same time, and the memory for them.
        samples: Foreground voxels drawn per channel over all cases; another number than the method's is for
            tests.
        outside: Whether dataset.json may list files outside the folder; see `core.io.cases.find_cases`.

    Raises:
        DatasetError: There is no case, a case lacks a file, or no label file marks anything in a CT dataset.
        ImageError: A file cannot be read, or image and label differ in shape.
        CancelledError: The observer asked to stop.

    Source:
        Engine specification A 3. The ignore label counts as foreground, as in the reference.
    """
    description = read_description(raw)
    cases = find_cases(raw, description, outside=outside)
    examples = [path for case in cases for path in case.images[:1]]
    if not examples:
        raise DatasetError("the dataset has no training case; add images to imagesTr")
    reader = choose_reader(description, examples[0])
    measure = Measure(reader, len(description.channels), samples // len(cases))
    measured = _measured(cases, measure, crew, observer)
    if not any(case.samples[0].count for case in measured):
        _require_no_ct(description)
        log.warning("no label file marks anything; intensities are those of whole images")
        measured = _measured(cases, replace(measure, is_whole=True), crew, observer)
    channels = zip(*(case.samples for case in measured), strict=True)
    return Fingerprint(
        foreground_intensity_properties_per_channel={
            str(number): intensity_properties(channel) for number, channel in enumerate(channels)
        },
        median_relative_size_after_cropping=float(np.median([case.relative_size for case in measured])),
        shapes_after_crop=tuple(case.shape_after_crop for case in measured),
        spacings=tuple(case.spacing for case in measured),
    )


def _measured(
    cases: Sequence[CaseFiles], measure: Measure, crew: Crew, observer: Observer
) -> list[CaseMeasurements]:
    """Measure every case, in their order."""
    measured: dict[int, CaseMeasurements] = {}
    work, needs = partial(measure_case, measure=measure), partial(needed_bytes, reader=measure.reader)
    try:
        with closing(worked_on(work, cases, crew, needs)) as results:
            for finished in results:
                if finished.result is None:
                    raise finished.error or AssertionError("work that raises nothing returns something")
                measured[finished.index] = finished.result
                observer.report(Progress(stage=STAGE, done=len(measured), total=len(cases)))
                if len(measured) < len(cases) and observer.stop_requested():
                    raise CancelledError(f"{STAGE} stopped after {len(measured)} of {len(cases)} cases")
    except LostWorkerError as error:
        names = ", ".join(cases[index].case_id for index in error.indices)
        raise DatasetError(
            f"a process was killed while it measured {names}, probably because the machine ran out of memory; use "
            "fewer workers, or close other programs"
        ) from error
    return [measured[index] for index in range(len(cases))]


def needed_bytes(case: CaseFiles, reader: str) -> int:
    """Estimate from its header how much memory a case takes at most: image, label file, and what is drawn from.

    Raises:
        ImageError: The header cannot be read.
    """
    header = read_header(case.images[0], reader)
    channels, voxels = max(header.channels, len(case.images)), voxel_count(header.shape)
    image = 4 * channels * voxels
    reading = image * (2 if len(case.images) > 1 else 1) + header.stored_type.itemsize * voxels
    drawing = image + 6 * voxels + image
    return BASE_BYTES + max(reading, drawing)


def _require_no_ct(description: DatasetDescription) -> None:
    """Refuse to clip a CT channel to the intensities of whole images.

    Raises:
        DatasetError: There is such a channel.
    """
    if any(name.casefold() == CT_CHANNEL for name in description.channels):
        raise DatasetError(
            "no label file marks anything, but a CT channel is clipped to the intensities of what is marked; mark "
            "something, or name the channel otherwise in dataset.json"
        )


def measure_case(case: CaseFiles, measure: Measure) -> CaseMeasurements:
    """Read one case, crop it, and draw intensities of its foreground.

    Args:
        case: Its files.
        measure: What the dataset asks for.

    Raises:
        DatasetError: The case has no label file.
        ImageError: A file cannot be read, channels are missing, or image and label differ in shape.

    Source:
        Engine specification A 3.1.
    """
    if case.label is None:
        raise DatasetError(f"case {case.case_id} has no label file; add it to labelsTr", case=case.case_id)
    image = read_image(case.images, measure.reader)
    if len(image.voxels_czyx) != measure.channels:
        raise ImageError(
            f"case {case.case_id} has {len(image.voxels_czyx)} channels, but dataset.json names {measure.channels}; add "
            "the missing files or correct channel_names",
            case=case.case_id,
        )
    labels_zyx = read_labels(case.label, measure.reader).labels_zyx
    if labels_zyx.shape != image.shape:
        raise ImageError(
            f"case {case.case_id}: the image has shape {image.shape}, its label file {labels_zyx.shape}; resample "
            "one to the grid of the other",
            case=case.case_id,
        )
    box = nonzero_box(image.voxels_czyx)
    foreground_zyx = (labels_zyx[slices(box)] > BACKGROUND) | measure.is_whole
    cropped_czyx = image.voxels_czyx[(slice(None), *slices(box))]
    shape = box_shape(box)
    return CaseMeasurements(
        shape_after_crop=shape,
        spacing=image.geometry.spacing,
        relative_size=voxel_count(shape) / voxel_count(image.shape),
        samples=draw_samples([channel_zyx[foreground_zyx] for channel_zyx in cropped_czyx], measure.draws),
    )
