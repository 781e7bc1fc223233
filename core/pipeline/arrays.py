"""Segment images that are in memory: arrays in, arrays out, no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from core.domain.geometry import Spacing
from core.domain.model import PredictionOptions
from core.domain.progress import Observer, SilentObserver
from core.errors import ImageError
from core.io.image import FloatArray, Geometry, Image, LabelArray

if TYPE_CHECKING:
    from core.inference.ensemble import TrainedModel

IMAGE_AXES = 4
"""Channels, z, y, x."""


@dataclass(frozen=True, slots=True)
class ArrayPrediction:
    """What a model says of an image, on the grid of the image."""

    labels_zyx: LabelArray
    probabilities_kzyx: FloatArray | None
    """Where asked for: per head, background first unless there are regions."""
    uncertainty_zyx: FloatArray | None
    """Where asked for, 0 to 1; see docs/prediction.md."""
    seconds: dict[str, float]
    """Per stage."""


def predict_arrays(
    model: "TrainedModel",
    voxels_czyx: npt.NDArray[Any],
    spacing: Sequence[float],
    *,
    options: PredictionOptions | None = None,
    observer: Observer | None = None,
    previous_zyx: LabelArray | None = None,
    probabilities: bool = False,
    uncertainty: bool = False,
) -> ArrayPrediction:
    """Segment one image that is in memory; a model from `load` serves as many as one likes.

    Args:
        model: From `load`.
        voxels_czyx: All channels, in the model's order, numbers of any type.
        spacing: Millimetres, (z, y, x).
        options: Folds, step size and mirroring; the model's own if not given.
        observer: Told after each tile, and asked before each whether to stop.
        previous_zyx: In a cascade, what the stage before segmented; the model does it itself if not given.
        probabilities: Whether to return them: 4 bytes per head and voxel.
        uncertainty: Whether to return where the model is unsure.

    Raises:
        ImageError: The array is no image, or has other channels than the model was trained on.
        ModelError: As `predict_files`.
        CancelledError: The observer asked to stop.
    """
    from core.inference.export import Wanted
    from core.inference.predict import predict_image

    image = Image(_checked(voxels_czyx), _geometry(spacing))
    kept_kzyx = np.zeros((len(model.labels.heads) if probabilities else 0, *image.shape), np.float32)
    kept_kzyx[:1] = 0 if model.labels.has_regions else 1

    def keep(place_zyx: tuple[slice, slice, slice], values_kzyx: FloatArray) -> None:
        kept_kzyx[(slice(None), *place_zyx)] = values_kzyx

    done = predict_image(
        model,
        image,
        options or PredictionOptions(),
        observer or SilentObserver(),
        previous_zyx=previous_zyx,
        wanted=Wanted(keep if probabilities else None, uncertainty),
    )
    return ArrayPrediction(
        labels_zyx=done.segmentation.labels_zyx,
        probabilities_kzyx=kept_kzyx if probabilities else None,
        uncertainty_zyx=done.uncertainty_zyx,
        seconds=done.seconds,
    )


def _checked(voxels_czyx: npt.NDArray[Any]) -> FloatArray:
    """Return an image as 32-bit floats.

    Raises:
        ImageError: It is none.
    """
    given = np.asarray(voxels_czyx)
    if given.ndim != IMAGE_AXES or given.size == 0 or given.dtype.kind not in "biuf":
        raise ImageError(
            f"an image is an array of numbers (channels, z, y, x), not {given.dtype} of shape {given.shape}"
        )
    return np.ascontiguousarray(given, np.float32)


def _geometry(spacing: Sequence[float]) -> Geometry:
    """Place an image somewhere, since nothing but its spacing matters.

    Raises:
        ImageError: These are no spacings.
    """
    if len(spacing) != len("zyx") or not all(np.isfinite(edge) and edge > 0 for edge in spacing):
        raise ImageError(
            f"a spacing is three positive numbers of millimetres (z, y, x), not {tuple(spacing)}"
        )
    z, y, x = (float(edge) for edge in spacing)
    triple: Spacing = (z, y, x)
    return Geometry(
        spacing=triple,
        file_spacing_xyz=triple[::-1],
        origin_xyz=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
