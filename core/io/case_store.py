"""Preprocessed cases on local disk: raw arrays, memory-mapped, each with its crop and class locations."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.domain.geometry import Box, Shape, Spacing
from core.domain.record import Record
from core.io.image import FloatArray, Geometry, LabelArray


class CaseProperties(Record):
    """What must survive preprocessing so that a segmentation finds its way back.

    Source:
        Engine specification A 4.8, A 6.1.
    """

    geometry: Geometry
    spacing: Spacing
    """Of the file, (z, y, x), not transposed."""
    shape_before_cropping: Shape
    """Transposed axis order, as the two below."""
    bbox_used_for_cropping: Box
    shape_after_cropping_and_before_resampling: Shape


@dataclass(frozen=True, slots=True)
class PreprocessedCase:
    """What the network is fed from: cropped, normalized, resampled, transposed."""

    voxels_czyx: FloatArray
    labels_zyx: LabelArray | None
    """int16 (-1 outside the nonzero mask); None where no reference was given."""
    properties: CaseProperties
    locations: Mapping[str, npt.NDArray[np.int64]]
    """Per label key (`core.domain.labels.label_key`), sampled flat C-order indices into `labels_zyx`,
    in the order in which they were drawn."""
