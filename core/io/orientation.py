"""Images turned so that their axes run to right, front and up, and label maps turned back as their file lies."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from core.domain.geometry import inverse, permuted
from core.errors import ImageError
from core.io.image import (
    Geometry,
    Header,
    ImageFile,
    LabelMap,
    StoredArray,
    Turn,
    array_spacing,
    nearest_axes,
)
from core.io.nibabel_view import Matrix, closest_axes

RIGHT_FRONT_UP = (-1.0, -1.0, 1.0)
"""Signs of x, y and z in ITK's patient space, where they grow to left, back and up."""


def turned_by_itk(file: ImageFile, path: Path) -> ImageFile:
    """Turn an image to right, front and up (RAS) as ITK's DICOM orientation does.

    Raises:
        ImageError: It is a 2D image, which does not say where right and front are.

    Source:
        Engine specification A 4.4.
    """
    _require_volume(file.header, path)
    rows, signs = nearest_axes(np.array(file.header.geometry.direction).reshape(3, 3))
    turn = _turn(rows.tolist(), (signs * np.array(RIGHT_FRONT_UP)[rows]).tolist(), file.header.geometry)
    if turn is None:
        return file
    spacing_xyz = permuted(file.header.geometry.spacing, turn.axes)[::-1]
    return _turned(file, turn, spacing_xyz)


def turned_by_nibabel(
    file: ImageFile, path: Path, affine: Matrix, precision: type[np.floating] = np.float32
) -> ImageFile:
    """Turn an image to right, front and up (RAS+) as nibabel's closest canonical orientation does.

    The spacing of a turned image is what nibabel then writes into a header: lengths of the affine's columns.

    Args:
        file: What to turn.
        path: For error sentences.
        affine: Its transform as nibabel has it, 4 x 4; the choice of axes depends on its last bits.
        precision: Of spacings in the header, 64 bits in NIfTI-2.

    Raises:
        ImageError: It is a 2D image, or its transform lets two axes run the same way.

    Source:
        Engine specification A 4.5; on oblique images nibabel looks for the nearest rotation first, so that it
        may choose other axes than ITK.
    """
    _require_volume(file.header, path)
    found = closest_axes(affine)
    if np.isnan(found).any():
        raise ImageError(
            f"{path.name} cannot be reoriented: its transform to space lets axes run nowhere or the same way; "
            "correct its sform",
            file=path.name,
        )
    turn = _turn(found[:, 0].astype(int).tolist(), found[:, 1].tolist(), file.header.geometry)
    if turn is None:
        return file
    steps = affine[:3, [2 - axis for axis in turn.axes[::-1]]]
    x, y, z = np.sqrt((steps * steps).sum(axis=0)).astype(precision).tolist()
    return _turned(file, turn, (x, y, z))


def as_stored(labels: LabelMap) -> LabelMap:
    """Turn a label map back, so that it lies as the file of its image does."""
    turn = labels.geometry.turn
    if turn is None:
        return labels
    back = tuple(slice(None, None, -1 if is_reversed else 1) for is_reversed in turn.reversed_axes)
    return LabelMap(labels.labels_zyx[back].transpose(inverse(turn.axes)), turn.stored)


def _require_volume(header: Header, path: Path) -> None:
    if header.geometry.is_2d:
        raise ImageError(
            f"{path.name} is a 2D image, which has no orientation in space; choose the reader SimpleITKIO",
            file=path.name,
        )


def _turn(targets: list[int], signs: list[float], stored: Geometry) -> Turn | None:
    """Describe a turn, None if there is nothing to do.

    Args:
        targets: Per axis of the file (x, y, z), which axis of the array it becomes.
        signs: Of the same axes, negative where they run the other way.
        stored: Of the file.
    """
    sources_xyz = [targets.index(axis) for axis in range(3)]
    z, y, x = (2 - axis for axis in reversed(sources_xyz))
    up, front, right = (signs[axis] < 0 for axis in reversed(sources_xyz))
    turn = Turn(axes=(z, y, x), reversed_axes=(up, front, right), stored=stored)
    return None if turn.axes == (0, 1, 2) and not any(turn.reversed_axes) else turn


def _turned(file: ImageFile, turn: Turn, spacing_xyz: tuple[float, float, float]) -> ImageFile:
    """Turn array and geometry; voxels stay what they are and where they are."""
    header = file.header
    steps = _steps(turn.stored)
    origin = np.array(turn.stored.origin_xyz)
    columns = []
    for axis, is_reversed in reversed(list(zip(turn.axes, turn.reversed_axes, strict=True))):
        step = steps[:, 2 - axis]
        if is_reversed:
            origin = origin + step * (header.shape[axis] - 1)
            step = -step
        columns.append(step)
    direction = np.column_stack(columns) / np.array(spacing_xyz)
    geometry = Geometry(
        spacing=array_spacing(spacing_xyz),
        file_spacing_xyz=spacing_xyz,
        origin_xyz=tuple(origin.tolist()),
        direction=tuple(direction.ravel().tolist()),
        turn=turn,
    )

    def load() -> StoredArray:
        stored_czyx = file.load()
        turned_czyx = stored_czyx.transpose(0, *(axis + 1 for axis in turn.axes))
        return np.flip(turned_czyx, tuple(axis + 1 for axis in range(3) if turn.reversed_axes[axis]))

    shape = permuted(header.shape, turn.axes)
    return ImageFile(replace(header, shape=shape, geometry=geometry), load)


def _steps(geometry: Geometry) -> Matrix:
    """Return the steps from voxel to voxel as columns, in millimetres of ITK's patient space."""
    steps: Matrix = np.array(geometry.direction).reshape(3, 3) * np.array(geometry.file_spacing_xyz)
    return steps
