"""The fingerprint: what planning needs to know of a dataset, without its voxels."""

from typing import Final, Self

from pydantic import Field, ValidationError

from core.domain.geometry import Shape, Spacing
from core.domain.record import SharedRecord, describe, parse_json
from core.errors import PlanningError

FINGERPRINT_FILE: Final = "dataset_fingerprint.json"

MEASURE_AGAIN: Final = "measure again with `fingerprint`"
"""The cure for a fingerprint that cannot be used."""


class IntensityProperties(SharedRecord):
    """Statistics of the foreground voxels of one channel over all training cases."""

    max: float
    mean: float
    median: float
    min: float
    percentile_00_5: float
    percentile_99_5: float
    std: float


class Fingerprint(SharedRecord):
    """dataset_fingerprint.json of nnU-Net v2; lists are in the order of the cases.

    Source:
        Engine specification A 1.5.
    """

    foreground_intensity_properties_per_channel: dict[str, IntensityProperties]
    """Keyed by channel number."""

    median_relative_size_after_cropping: float

    shapes_after_crop: tuple[Shape, ...] = Field(min_length=1)
    """Voxels, in the axis order of the files (z, y, x), not transposed."""

    spacings: tuple[Spacing, ...] = Field(min_length=1)
    """Millimetres, same order."""

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read the text of a dataset_fingerprint.json.

        Raises:
            PlanningError: It is none; every offending entry is named.
        """
        try:
            return cls.model_validate(parse_json(text, FINGERPRINT_FILE, PlanningError))
        except ValidationError as error:
            raise PlanningError(
                f"{FINGERPRINT_FILE} cannot be used: {describe(error)}; {MEASURE_AGAIN}"
            ) from error
