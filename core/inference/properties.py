"""What the reference keeps of a case beside its probabilities (CASE.pkl): where a segmentation of it lies in space."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from core.errors import ImageError
from core.io.image import PLANE_AXES, Geometry, array_spacing
from core.io.nifti import geometry_of_affine
from core.network.pickled import Call, PickleError, read_pickle
from core.network.pickled_numbers import NUMPY_NAMES, array_of

LARGEST_BYTES: Final = 1 << 24
"""Of such a file; the usual ones have less than a thousand."""

FLAT: Final = 999
"""From this spacing on the first axis is no axis, but marks a picture; Engine specification A 4.3."""


def geometry_of_properties(path: Path) -> Geometry:
    """Read where the image of a case lies.

    Args:
        path: A pickle of a dictionary; nothing that it names is loaded or run.

    Raises:
        ImageError: It cannot be read, names what no properties name, or does not say where the image lies.

    Source:
        Engine specification B 6.8 (5), A 4.
    """
    values = _read(path)
    try:
        geometry = _geometry(values)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ImageError(
            f"{path.name} does not say where its image lies in a way that is known; keep the segmentation of the case "
            "beside it, which says so too",
            file=path.name,
        ) from error
    return geometry


def _read(path: Path) -> Mapping[str, Any]:
    """Read the dictionary.

    Raises:
        ImageError: The file holds something else.
    """
    try:
        with path.open("rb") as file:
            values = _dictionary(file.read(LARGEST_BYTES + 1))
    except PickleError as error:
        raise ImageError(
            f"{path.name} cannot be used as properties of a case: {error}; have it written again",
            file=path.name,
        ) from error
    except OSError as error:
        raise ImageError(
            f"{path.name} cannot be read: {error.strerror}; predict with probabilities again", file=path.name
        ) from error
    return values


def _dictionary(content: bytes) -> dict[Any, Any]:
    """Read the dictionary of a pickle.

    Raises:
        PickleError: It holds something else.
    """
    if len(content) > LARGEST_BYTES:
        raise PickleError("it is larger than any such file")
    values = read_pickle(io.BytesIO(content), NUMPY_NAMES)
    if not isinstance(values, dict):
        raise PickleError("it holds no dictionary")
    return values


def _geometry(values: Mapping[str, Any]) -> Geometry:
    """Understand what each of the reference's readers keeps.

    Raises:
        ValueError: The image was turned after reading; how, only its file says.
    """
    spacing = _numbers(values["spacing"])
    if "sitk_stuff" in values:
        placed = values["sitk_stuff"]
        if "original_orientation" in placed:
            raise ValueError("turned")
        spacing_xyz = _numbers(placed["spacing"])
        return Geometry(
            spacing=array_spacing(spacing_xyz),
            file_spacing_xyz=spacing_xyz,
            origin_xyz=_numbers(placed["origin"]),
            direction=_numbers(placed["direction"]),
        )
    if "nibabel_stuff" in values:
        placed = values["nibabel_stuff"]
        if "reoriented_affine" in placed:
            raise ValueError("turned")
        return geometry_of_affine(np.array(_numbers(placed["original_affine"])).reshape(4, 4), spacing[::-1])
    edges_xyz = spacing[:0:-1] if spacing[0] >= FLAT else spacing[::-1]
    axes = len(edges_xyz)
    return Geometry(
        spacing=array_spacing(edges_xyz),
        file_spacing_xyz=edges_xyz,
        origin_xyz=(0.0,) * axes,
        direction=tuple(np.eye(axes).ravel().tolist()),
    )


def _numbers(value: Any) -> tuple[float, ...]:
    """Return a sequence or array of numbers as floats.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(value, Call):
        return tuple(array_of(value).astype(np.float64).ravel().tolist())
    if len(value) < PLANE_AXES or not all(isinstance(one, int | float | Call) for one in value):
        raise ValueError("no numbers")
    return tuple(float(array_of(one)) if isinstance(one, Call) else float(one) for one in value)
