"""Where the voxels of each class lie, sampled once, so that training can centre patches on them."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from core.domain.labels import LabelSet, Region, location_key
from core.io.case_store import Locations
from core.io.image import LabelArray

SEED = 1234
"""Of the stream of each case; Engine specification A 6.10."""

MOST_LOCATIONS = 10_000
"""Voxels kept per class, unless 1 % of the class is more; Engine specification A 6.10."""

SMALLEST_SHARE = 0.01
"""Share of a class's voxels that is kept at least; Engine specification A 6.10."""

BLOCK_VOXELS = 1 << 20
"""Voxels that are sorted at once, so that a sorted index of the whole volume never exists."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Order:
    """All voxels of some labels, sorted by label and then by place; only where parts of the list begin."""

    flat: LabelArray
    """The label map in C order."""
    labels: tuple[int, ...]
    """Ascending."""
    block_voxels: int
    starts_bl: Indices
    """Rank of the first voxel of each label (l) that lies in a block (b) or after it; the last row are the ends."""


class _Streams(threading.local):
    """A stream for each thread."""

    def __init__(self) -> None:
        self.own = np.random.RandomState()


_STREAMS = _Streams()


def class_locations(
    labels_zyx: LabelArray, labels: LabelSet, block_voxels: int = BLOCK_VOXELS
) -> Mapping[str, Locations]:
    """Draw voxels of every class that training may ask for.

    With an ignore label, the voxels that somebody annotated are one more class.

    Args:
        labels_zyx: The preprocessed reference.
        labels: What the dataset declares.
        block_voxels: Voxels that are sorted at once; the result does not depend on it.

    Returns:
        Voxels (n, 4) per label key in the order of drawing, columns 0, z, y, x; none where a class is absent.

    Source:
        Engine specification A 6.10. The legacy Mersenne stream is part of the format: the draws agree
        with those that other nnU-Net tools store.
    """
    keys: list[Region] = list(labels.foreground_heads)
    if labels.ignore is not None:
        keys.append(labels.annotated)
    if not keys:
        return {}
    values = sorted({label for key in keys for label in _members(key)})
    order = _order(labels_zyx.reshape(-1), values, block_voxels)
    stream = _stream()
    drawn = [_draw(stream, order, _members(key)) for key in keys]
    voxels = _coordinates(_places(order, np.concatenate(drawn)), labels_zyx.shape)
    ends = np.cumsum([len(ranks) for ranks in drawn])
    return dict(zip(map(location_key, keys), np.split(voxels, ends[:-1]), strict=True))


def _stream() -> np.random.RandomState:
    """Return this thread's stream, at its beginning; to make one for each case takes 90 µs, to seed it 2."""
    _STREAMS.own.seed(SEED)
    return _STREAMS.own


def _members(key: Region) -> tuple[int, ...]:
    """Return the labels of a class."""
    return key if isinstance(key, tuple) else (key,)


def _order(flat: LabelArray, labels: Sequence[int], block_voxels: int) -> _Order:
    """Count the voxels of each label, block by block."""
    low, high = labels[0], labels[-1]
    counts_bl = [
        np.bincount(block[(block >= low) & (block <= high)].astype(np.intp) - low, minlength=high - low + 1)
        for _, block in _blocks(flat, block_voxels)
    ]
    ends_bl = np.cumsum(np.array(counts_bl, np.int64)[:, np.array(labels) - low], axis=0)
    before_l = np.cumsum(ends_bl[-1]) - ends_bl[-1]
    starts_bl = np.concatenate([before_l[np.newaxis], before_l + ends_bl])
    return _Order(flat, tuple(labels), block_voxels, starts_bl)


def _blocks(flat: LabelArray, block_voxels: int) -> Iterator[tuple[int, LabelArray]]:
    """Cut a label map into blocks, each with the place of its first voxel."""
    for start in range(0, flat.size, block_voxels):
        yield start, flat[start : start + block_voxels]


def _draw(stream: np.random.RandomState, order: _Order, members: Sequence[int]) -> Indices:
    """Draw voxels of a class, none of them twice; without any the stream is not touched.

    Returns:
        Their ranks. The candidates of a class are its labels' voxels, label after label.
    """
    columns = [order.labels.index(label) for label in members]
    starts, ends = order.starts_bl[0, columns], order.starts_bl[-1, columns]
    count = int((ends - starts).sum())
    if count == 0:
        return np.empty(0, np.int64)
    shuffled = np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)
    stream.shuffle(shuffled)  # Equal to a permutation of the count, in half the memory.
    candidates = shuffled[: max(min(MOST_LOCATIONS, count), ceil(SMALLEST_SHARE * count))].astype(np.int64)
    after = np.cumsum(ends - starts)
    label_of = np.searchsorted(after, candidates, side="right")
    ranks: Indices = candidates - (after - (ends - starts))[label_of] + starts[label_of]
    return ranks


def _places(order: _Order, ranks: Indices) -> Indices:
    """Find the voxels of some ranks: their places in the label map in C order."""
    ascending = np.argsort(ranks)
    wanted = ranks[ascending]
    limits_bl = np.searchsorted(wanted, order.starts_bl)
    places = np.empty_like(ranks)
    for block, (start, labels) in enumerate(_blocks(order.flat, order.block_voxels)):
        first_l, end_l = limits_bl[block], limits_bl[block + 1]
        if (first_l == end_l).all():
            continue
        candidates = np.flatnonzero((labels >= order.labels[0]) & (labels <= order.labels[-1]))
        values = labels[candidates]
        by_label = np.argsort(values, kind="stable")
        begins = np.searchsorted(values, order.labels, side="left", sorter=by_label)
        for column, (first, end) in enumerate(zip(first_l, end_l, strict=True)):
            within = wanted[first:end] - order.starts_bl[block, column]
            places[ascending[first:end]] = start + candidates[by_label[begins[column] + within]]
    return places


def _coordinates(places: Indices, shape: tuple[int, ...]) -> Locations:
    """Turn places in C order into voxels (n, 4)."""
    voxels = np.zeros((len(places), 1 + len(shape)), np.int32)
    for axis, coordinate in enumerate(np.unravel_index(places, shape)):
        voxels[:, axis + 1] = coordinate
    return voxels
