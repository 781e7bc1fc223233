"""Whether a fingerprint can be planned from: each entry that is no measurement, with its cure."""

import logging
from collections.abc import Iterator
from math import isfinite, prod

from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import MEASURE_AGAIN, Fingerprint, IntensityProperties
from core.domain.geometry import COARSEST_MM, FINEST_MM, MOST_VOXELS, Shape, Spacing
from core.errors import PlanningError

log = logging.getLogger(__name__)


def require_plannable(fingerprint: Fingerprint, description: DatasetDescription) -> None:
    """Refuse a fingerprint that is broken or belongs to another dataset; warn of another number of cases.

    The number of cases in dataset.json bounds the batch, as in the reference, and may be wrong without harm.

    Raises:
        PlanningError: Something is wrong; the sentence names each kind of mistake once, and the cure.
    """
    mistakes = [
        *_list_mistakes(fingerprint),
        *_spacing_mistakes(fingerprint.spacings),
        *_shape_mistakes(fingerprint.shapes_after_crop),
        *_share_mistakes(fingerprint.median_relative_size_after_cropping),
        *_channel_mistakes(fingerprint, description.channels),
    ]
    if mistakes:
        raise PlanningError(f"the fingerprint cannot be planned from: {'; '.join(mistakes)}; {MEASURE_AGAIN}")
    measured = len(fingerprint.spacings)
    if measured != description.training_cases:
        log.warning(
            "dataset.json: numTraining is %d, but the fingerprint was measured on %d cases; correct it, or "
            "measure again",
            description.training_cases,
            measured,
        )


def _list_mistakes(fingerprint: Fingerprint) -> Iterator[str]:
    """Compare the lengths of the two lists."""
    spacings, shapes = len(fingerprint.spacings), len(fingerprint.shapes_after_crop)
    if spacings != shapes:
        yield f"it has {spacings} spacings but {shapes} shapes, one of each per case is needed"
    elif not spacings:
        yield "it has no case"


def _spacing_mistakes(spacings: tuple[Spacing, ...]) -> Iterator[str]:
    """Report distances that are none."""
    wrong = [
        number
        for number, spacing in enumerate(spacings)
        if not all(FINEST_MM <= edge <= COARSEST_MM for edge in spacing)
    ]
    if wrong:
        yield (
            f"{_of_cases(len(wrong), len(spacings), 'spacings')}spacings.{wrong[0]} is {list(spacings[wrong[0]])} mm, "
            f"which no image has (case number {wrong[0]}, counted from 0: mend its header)"
        )


def _shape_mistakes(shapes: tuple[Shape, ...]) -> Iterator[str]:
    """Report voxel counts that are none, or that nobody can store."""
    wrong = [number for number, shape in enumerate(shapes) if min(shape) < 1 or prod(shape) > MOST_VOXELS]
    if wrong:
        yield (
            f"{_of_cases(len(wrong), len(shapes), 'shapes')}shapes_after_crop.{wrong[0]} is {list(shapes[wrong[0]])} "
            "voxels, which no image has"
        )


def _of_cases(wrong: int, total: int, what: str) -> str:
    """Say how many are wrong, where the sentence names only the first."""
    return "" if wrong == 1 else f"{wrong} {what} of {total} are wrong, such as "


def _share_mistakes(share: float) -> Iterator[str]:
    """Report a relative size that is no share of the whole."""
    if not 0 < share <= 1:
        yield f"median_relative_size_after_cropping is {share}, but must be above 0 and at most 1"


def _channel_mistakes(fingerprint: Fingerprint, channels: tuple[str, ...]) -> Iterator[str]:
    """Compare the intensities with the channels, and report those that are no numbers."""
    place, known = (
        "foreground_intensity_properties_per_channel",
        (fingerprint.foreground_intensity_properties_per_channel),
    )
    missing = [f"{number} ({name})" for number, name in enumerate(channels) if str(number) not in known]
    if len(known) != len(channels):
        yield f"it has {len(known)} channels, dataset.json {len(channels)} ({', '.join(channels)})"
    elif missing:
        yield f"{place} lacks channel {', '.join(missing)}"
    for channel, properties in known.items():
        for key in IntensityProperties.model_fields:
            value = getattr(properties, key)
            if not isfinite(value) or (key == "std" and value < 0):
                yield f"{place}.{channel}.{key} is {value}, which no voxels have"
                break
