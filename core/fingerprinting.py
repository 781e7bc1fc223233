"""Cases → fingerprint: shapes, spacings and foreground intensities, without keeping a voxel."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, floor
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from core.domain.fingerprint import Fingerprint, IntensityProperties
from core.domain.geometry import Shape, Spacing, voxel_count
from core.domain.labels import BACKGROUND
from core.domain.progress import Observer
from core.errors import DatasetError, ImageError
from core.io.cases import CaseFiles, Stage, find_cases, map_cases, read_description
from core.io.image import FloatArray
from core.io.readers import choose_reader, read_image, read_labels
from core.preprocessing.crop import box_shape, nonzero_box, slices

TOTAL_SAMPLES: Final = 100_000_000
"""Foreground voxels drawn per channel over all cases; Engine specification A 3.1."""

SAMPLING_SEED: Final = 1234
"""Of the stream that every case starts anew; Engine specification A 3.1."""

DRAWN_AT_ONCE: Final = 2**20
"""Draws held in memory at the same time; portions of the stream are the stream."""

PERCENTILES: Final = (0.5, 99.5)
"""Bounds to which CT intensities are clipped; Engine specification A 3.2."""

SIGN_BIT: Final = 2**31
"""Of a 32-bit float, the type of intensities."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Intensities drawn from one channel of one case: distinct values, and how often each was drawn."""

    values: FloatArray
    """Ascending."""
    up_to: npt.NDArray[np.int64]
    """How many draws gave this value or a smaller one."""

    @property
    def count(self) -> int:
        """How many draws there were."""
        return int(self.up_to[-1]) if len(self.up_to) else 0


@dataclass(frozen=True, slots=True)
class CaseMeasurements:
    """What one case contributes."""

    shape_after_crop: Shape
    spacing: Spacing
    relative_size: float
    """Share of the voxels that cropping leaves."""
    samples: tuple[Samples, ...]
    """One per channel."""


def fingerprint_dataset(
    raw: Path, observer: Observer, workers: int, samples: int = TOTAL_SAMPLES, *, outside: bool = False
) -> Fingerprint:
    """Measure a dataset.

    Args:
        raw: The dataset folder, checked by `core.io.verification.verify_dataset`.
        observer: Told of every case; may ask to stop.
        workers: Cases measured at the same time.
        samples: Foreground voxels drawn per channel over all cases; another number than the method's is for
            tests.
        outside: Whether dataset.json may list files outside the folder; see `core.io.cases.find_cases`.

    Raises:
        DatasetError: There is no case, a case lacks a file, or no label file marks anything.
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
    draws = samples // len(cases)
    measure = partial(measure_case, reader=reader, channels=len(description.channels), draws=draws)
    measured = map_cases(measure, cases, Stage("fingerprint", observer, workers))
    channels = list(zip(*(case.samples for case in measured), strict=True))
    if not any(case.count for channel in channels for case in channel):
        raise DatasetError(
            "no label file marks anything, so intensities of the foreground cannot be measured; add labels"
        )
    return Fingerprint(
        foreground_intensity_properties_per_channel={
            str(number): intensity_properties(channel) for number, channel in enumerate(channels)
        },
        median_relative_size_after_cropping=float(np.median([case.relative_size for case in measured])),
        shapes_after_crop=tuple(case.shape_after_crop for case in measured),
        spacings=tuple(case.spacing for case in measured),
    )


def measure_case(case: CaseFiles, reader: str, channels: int, draws: int) -> CaseMeasurements:
    """Read one case, crop it, and draw intensities of its foreground.

    Args:
        case: Its files.
        reader: A name in READERS.
        channels: How many the image must have.
        draws: How many foreground voxels to draw per channel.

    Raises:
        DatasetError: The case has no label file.
        ImageError: A file cannot be read, channels are missing, or image and label differ in shape.

    Source:
        Engine specification A 3.1.
    """
    if case.label is None:
        raise DatasetError(f"case {case.case_id} has no label file; add it to labelsTr", case=case.case_id)
    image = read_image(case.images, reader)
    if len(image.voxels_czyx) != channels:
        raise ImageError(
            f"case {case.case_id} has {len(image.voxels_czyx)} channels, but dataset.json names {channels}; add "
            "the missing files or correct channel_names",
            case=case.case_id,
        )
    labels_zyx = read_labels(case.label, reader).labels_zyx
    if labels_zyx.shape != image.shape:
        raise ImageError(
            f"case {case.case_id}: the image has shape {image.shape}, its label file {labels_zyx.shape}; resample "
            "one to the grid of the other",
            case=case.case_id,
        )
    box = nonzero_box(image.voxels_czyx)
    foreground_zyx = labels_zyx[slices(box)] > BACKGROUND
    cropped_czyx = image.voxels_czyx[(slice(None), *slices(box))]
    shape = box_shape(box)
    return CaseMeasurements(
        shape_after_crop=shape,
        spacing=image.geometry.spacing,
        relative_size=voxel_count(shape) / voxel_count(image.shape),
        samples=draw_samples([channel_zyx[foreground_zyx] for channel_zyx in cropped_czyx], draws),
    )


def draw_samples(channels: Sequence[FloatArray], draws: int) -> tuple[Samples, ...]:
    """Draw intensities with replacement from each channel's foreground, one stream for all channels.

    Args:
        channels: Foreground intensities in C order, the same voxels for each channel.
        draws: How many to draw per channel; none where there is no foreground.

    Source:
        Engine specification A 3.1: the legacy Mersenne Twister is part of the method.
    """
    stream = np.random.RandomState(SAMPLING_SEED)
    return tuple(_draw(channel, draws, stream) for channel in channels)


def _draw(values: FloatArray, draws: int, stream: np.random.RandomState) -> Samples:
    """Draw from one channel and count how often each intensity came; the draws themselves are forgotten."""
    if not len(values):
        return Samples(np.empty(0, np.float32), np.empty(0, np.int64))
    counts = np.zeros(len(values), np.int64)
    portion = max(DRAWN_AT_ONCE, len(values))
    for start in range(0, draws, portion):
        drawn = stream.randint(0, len(values), min(portion, draws - start))
        counts += np.bincount(drawn, minlength=len(values))
    came = np.flatnonzero(counts)
    order = came[np.argsort(values[came])]
    ascending, up_to = values[order], np.cumsum(counts[order])
    last_of_equals = np.append(ascending[1:] != ascending[:-1], True)
    return Samples(ascending[last_of_equals], up_to[last_of_equals])


def intensity_properties(samples: Sequence[Samples]) -> IntensityProperties:
    """Describe the intensities of one channel over all cases.

    Equal to the statistics of all draws put in a row, which would take 400 MB per channel.

    Source:
        Engine specification A 3.2.
    """
    drawn = [case for case in samples if case.count]
    count = sum(case.count for case in drawn)
    mean = _moment(drawn, 0.0, 1) / count
    low, high = (percentile(drawn, share) for share in PERCENTILES)
    return IntensityProperties(
        max=float(value_at_rank(drawn, count - 1)),
        mean=mean,
        median=percentile(drawn, 50),
        min=float(value_at_rank(drawn, 0)),
        percentile_00_5=low,
        percentile_99_5=high,
        std=(_moment(drawn, mean, 2) / count) ** 0.5,
    )


def _moment(samples: Sequence[Samples], centre: float, power: int) -> float:
    """Sum (draw - centre) ** power over all draws, in 64 bits."""
    return sum(
        float(np.diff(case.up_to, prepend=0) @ (case.values.astype(np.float64) - centre) ** power)
        for case in samples
    )


def percentile(samples: Sequence[Samples], share: float) -> float:
    """Interpolate linearly between the two order statistics around a percentile."""
    position = share / 100 * (sum(case.count for case in samples) - 1)
    below, above = value_at_rank(samples, floor(position)), value_at_rank(samples, ceil(position))
    return below + (above - below) * (position - floor(position))


def value_at_rank(samples: Sequence[Samples], rank: int) -> float:
    """Find the draw that has `rank` draws before it when all are sorted, without sorting them together.

    32-bit floats have an order that can be halved again and again; in each case's own sorted list it is quick
    to count how many draws lie below the middle.
    """
    low = min(_position(case.values[0]) for case in samples if case.count)
    high = max(_position(case.values[-1]) for case in samples if case.count)
    while low < high:
        middle = (low + high) // 2
        if sum(_draws_up_to(case, _float_at(middle)) for case in samples) > rank:
            high = middle
        else:
            low = middle + 1
    return float(_float_at(low))


def _draws_up_to(case: Samples, value: np.float32) -> int:
    """Count the draws that gave `value` or less."""
    index = int(np.searchsorted(case.values, value, side="right"))
    return int(case.up_to[index - 1]) if index else 0


def _position(value: np.float32) -> int:
    """Return the rank of a 32-bit float among all of them; the bits of negative ones run backwards."""
    bits = int(value.view(np.uint32))
    return bits + SIGN_BIT if bits < SIGN_BIT else 2 * SIGN_BIT - 1 - bits


def _float_at(position: int) -> np.float32:
    """Return the 32-bit float of a rank."""
    bits = position - SIGN_BIT if position >= SIGN_BIT else 2 * SIGN_BIT - 1 - position
    return np.uint32(bits).view(np.float32)
