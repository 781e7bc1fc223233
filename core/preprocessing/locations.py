"""Where the voxels of each class lie, sampled once, so that training can centre patches on them."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
import numpy.typing as npt

from core.domain.labels import LabelSet, Region, label_key
from core.io.image import LabelArray

FlatIndices = npt.NDArray[np.int64]

SEED = 1234
"""Of the stream of each case; Engine specification A 6.10."""

MOST_LOCATIONS = 10_000
"""Voxels kept per class, unless 1 % of the class is more; Engine specification A 6.10."""

SMALLEST_SHARE = 0.01
"""Share of a class's voxels that is kept at least; Engine specification A 6.10."""


def class_locations(labels_zyx: LabelArray, labels: LabelSet) -> Mapping[str, FlatIndices]:
    """Draw voxels of every class that training may ask for.

    With an ignore label, the voxels that somebody annotated are one more class.

    Args:
        labels_zyx: The preprocessed reference.
        labels: What the dataset declares.

    Returns:
        Flat C-order indices per label key, in the order of drawing; empty where a class is absent.

    Source:
        Engine specification A 6.10. The legacy Mersenne stream is part of the format: the draws agree
        with those that other nnU-Net tools store.
    """
    keys: list[Region] = list(labels.foreground_heads)
    if labels.ignore is not None:
        keys.append(labels.annotated)
    voxels_by_label = _voxels_by_label(labels_zyx, keys)
    stream = np.random.RandomState(SEED)
    locations: dict[str, FlatIndices] = {}
    for key in keys:
        wanted = key if isinstance(key, tuple) else (key,)
        candidates = np.concatenate([voxels_by_label[label] for label in wanted])
        if candidates.size:
            count = max(min(MOST_LOCATIONS, candidates.size), ceil(SMALLEST_SHARE * candidates.size))
            candidates = candidates[stream.permutation(candidates.size)[:count]]
        locations[label_key(key)] = candidates
    return locations


def _voxels_by_label(labels_zyx: LabelArray, keys: Sequence[Region]) -> dict[int, FlatIndices]:
    """List the voxels of each label that occurs in the keys, in C order, by one stable sort."""
    wanted = sorted({label for key in keys for label in (key if isinstance(key, tuple) else (key,))})
    flat = labels_zyx.reshape(-1)
    chosen = np.flatnonzero((flat >= wanted[0]) & (flat <= wanted[-1])) if wanted else np.empty(0, np.int64)
    values = flat[chosen]
    order = np.argsort(values, kind="stable")
    starts = np.searchsorted(values, wanted, side="left", sorter=order)
    ends = np.searchsorted(values, wanted, side="right", sorter=order)
    return {label: chosen[order[start:end]] for label, start, end in zip(wanted, starts, ends, strict=True)}
