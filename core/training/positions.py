"""Where in a case a patch lies, and reading it: only the voxels that are needed, padded beyond the image."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from core.domain.geometry import Box, Shape
from core.domain.labels import LabelSet, label_key, location_key
from core.io.case_store import PreprocessedCase

V = TypeVar("V", bound=np.generic)


def forced_from(batch_size: int, share: float) -> int:
    """Return the first position of a batch whose patch must be centred on a foreground voxel.

    Source:
        Engine specification B 1.6; half rounds to even.
    """
    return round(batch_size * (1 - share))


def start_bounds(
    shape: Shape, initial: Shape, patch: Shape
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the lowest and the highest start of an initial patch, both inclusive.

    The final patch may overlap the border only as far as an image is too small for it.

    Source:
        Engine specification B 3.4.
    """
    extent, window = np.asarray(shape), np.asarray(initial)
    overhang = np.maximum(window - np.asarray(patch), window - extent)
    low = -overhang // 2
    return low, extent - low - window


def draw_start(
    rng: np.random.Generator,
    bounds: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    initial: Shape,
    centre: Shape | None,
) -> Shape:
    """Place an initial patch around a voxel, or anywhere.

    Around a voxel there is no upper bound: the patch extends beyond the image and is padded.

    Args:
        rng: Source of randomness, used without a centre only.
        bounds: Lowest and highest start, inclusive.
        initial: Size of the initial patch.
        centre: The voxel that it is to surround, if any.

    Source:
        Engine specification B 3.4.
    """
    low, high = bounds
    if centre is None:
        start = rng.integers(low, high, endpoint=True)
    else:
        start = np.maximum(low, np.asarray(centre) - np.asarray(initial) // 2)
    z, y, x = (int(first) for first in start)
    return (z, y, x)


def draw_centre(
    rng: np.random.Generator, case: PreprocessedCase, labels: LabelSet, *, is_forced: bool
) -> Shape | None:
    """Draw the voxel that a patch is to surround.

    Every class that a case has is equally likely, however small. With an ignore label, patches that
    need no foreground surround an annotated voxel at least.

    Returns:
        A voxel (z, y, x); None where the patch may lie anywhere.

    Source:
        Engine specification B 3.4, B 4.3.
    """
    annotated = [] if labels.ignore is None else [label_key(labels.annotated)]
    foreground = [location_key(head) for head in labels.foreground_heads] if is_forced else []
    keys = _present(case, foreground) or _present(case, annotated)
    if not keys:
        return None
    candidates = case.locations[keys[rng.integers(len(keys))]]
    _, z, y, x = (int(index) for index in candidates[rng.integers(len(candidates))])
    return (z, y, x)


def _present(case: PreprocessedCase, keys: list[str]) -> list[str]:
    """Keep the classes that occur in the case."""
    return [key for key in keys if len(case.locations.get(key, ())) > 0]


def read_box(
    source: npt.NDArray[V], box: Box, within: Box, padding: float, dtype: npt.DTypeLike | None = None
) -> npt.NDArray[V]:
    """Copy a box from an array whose last three axes are (z, y, x).

    Args:
        source: The (memory-mapped) array.
        box: What to copy; it may reach beyond the array.
        within: What may be looked at; padding elsewhere.
        padding: The value of everything else.
        dtype: Of the copy, which must hold the padding; that of the array if not given.
    """
    sizes = [high - low for low, high in box]
    copied = np.full((*source.shape[:-3], *sizes), padding, dtype=source.dtype if dtype is None else dtype)
    reach = [
        (max(low, first, 0), min(high, end, extent))
        for (low, high), (first, end), extent in zip(box, within, source.shape[-3:], strict=True)
    ]
    if all(low < high for low, high in reach):
        z, y, x = (slice(low, high) for low, high in reach)
        to_z, to_y, to_x = (
            slice(low - start, high - start) for (low, high), (start, _) in zip(reach, box, strict=True)
        )
        copied[..., to_z, to_y, to_x] = source[..., z, y, x]
    return copied
