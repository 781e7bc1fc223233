"""Image: voxels with the place in space that they came from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.domain.geometry import Shape, Spacing
from core.domain.record import Record

FloatArray = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.integer]


class Geometry(Record):
    """Where an image lies in space, exactly as its file says, so that a segmentation can lie there too."""

    spacing: Spacing
    """Millimetres in array order (z, y, x), as the method uses it; a 2D image gets a large first entry."""

    file_spacing_xyz: tuple[float, ...]
    """As in the file; two entries for a 2D image."""

    origin_xyz: tuple[float, ...]
    direction: tuple[float, ...]
    """Row-major direction matrix, 4 or 9 entries."""

    @property
    def is_2d(self) -> bool:
        """Whether the file holds one slice without a third axis."""
        return len(self.file_spacing_xyz) == 2  # noqa: PLR2004 - the two of 2D


@dataclass(frozen=True, slots=True)
class Image:
    """One case as the network's channels see it."""

    voxels_czyx: FloatArray
    """Channels first; a 2D image has z = 1."""

    geometry: Geometry

    @property
    def shape(self) -> Shape:
        """Voxel counts (z, y, x)."""
        _, z, y, x = self.voxels_czyx.shape
        return (z, y, x)


@dataclass(frozen=True, slots=True)
class LabelMap:
    """A segmentation or a reference, with its place in space."""

    labels_zyx: LabelArray
    geometry: Geometry
