"""Slabs on the network's grid → rows on the image's grid, each as soon as the slices around it have come."""

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Final

import numpy as np
import torch
from torch import Tensor

from core.domain.geometry import permuted
from core.inference.slabs import Slab
from core.io.image import FloatArray
from core.preprocessing.operators import interpolate_axis
from core.preprocessing.resample import Regridding, interpolated_rows, value_range

SLAB_BYTES: Final = 1 << 26
"""Interpolated logits at hand at a time, float32."""

LINEAR: Final = 1
"""Highest order whose interpolated values are weighted means of their neighbours."""


def along(change: Regridding, axis: int) -> Regridding:
    """Describe a change of grids in the order (s, p, q), in which slabs come along an axis of (z, y, x)."""
    order = slab_order(axis)
    return replace(
        change,
        source=permuted(change.source, order),
        target=permuted(change.target, order),
        apart=None if change.apart is None else order.index(change.apart),
    )


def slab_order(axis: int) -> tuple[int, int, int]:
    """Return the axes in the order of a slab: that along which slabs follow each other, then the others."""
    first, second = (other for other in range(3) if other != axis)
    return (axis, first, second)


def is_linear(change: Regridding) -> bool:
    """Whether every interpolated value is a weighted mean of its neighbours."""
    return all(line.before == line.after or line.order <= LINEAR for line in map(change.line, range(3)))


def row_slabs(change: Regridding, heads: int) -> Iterator[slice]:
    """Cut the new grid into rows that need, or hold, a bounded number of logits."""
    row_bytes = 4 * heads * max(prod(change.source[1:]), prod(change.target[1:]))
    length = change.target[0]
    count = max(1, SLAB_BYTES // row_bytes)
    for start in range(0, length, count):
        yield slice(start, min(start + count, length))


class Slices:
    """Slices of slabs that come one after the other, held as long as they may still be asked for.

    Args:
        slabs: Ascending, without gaps.
    """

    def __init__(self, slabs: Iterator[Slab]) -> None:
        self._slabs = slabs
        self._held: list[Slab] = []

    def take(self, wanted: slice) -> Tensor:
        """Return some slices (k, s, p, q); none before them is asked for later, and they may be overwritten then."""
        self._held = [slab for slab in self._held if slab.stop > wanted.start]
        while not self._held or self._held[-1].stop < wanted.stop:
            self._held = [_kept(slab, wanted.start) for slab in self._held]  # Before they are overwritten.
            self._held.append(next(self._slabs))
        parts = [
            slab.logits_kspq[:, max(0, wanted.start - slab.start) : wanted.stop - slab.start]
            for slab in self._held
            if slab.start < wanted.stop
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def whole(self) -> Tensor:
        """Return all slices."""
        return torch.cat([slab.logits_kspq.clone() for slab in self._slabs], 1)


def _kept(slab: Slab, start: int) -> Slab:
    """Copy what is still needed of a slab."""
    first = max(slab.start, start)
    return Slab(first, slab.logits_kspq[:, first - slab.start :].clone())


class Rows:
    """Interpolated rows, asked for in ascending order.

    Splines of a higher order depend on every slice and are kept within the range of all; there, the logits of the
    whole image have to be collected first.

    Args:
        slabs: On the grid before.
        change: From grid to grid, in the order of the slabs.
    """

    def __init__(self, slabs: Iterator[Slab], change: Regridding) -> None:
        self._change = change
        self._slices = Slices(slabs)
        self._whole_kspq: FloatArray | None = None

    def take(self, rows: slice) -> FloatArray:
        """Return rows (k, s, p, q) in float32; the next ones must not begin before them."""
        if is_linear(self._change):
            return self._linear(rows)
        if self._whole_kspq is None:
            self._whole_kspq = self._slices.whole().float().cpu().numpy()
        within = value_range(self._whole_kspq, self._change)
        return interpolated_rows(self._whole_kspq, self._change, within, rows)

    def _linear(self, rows: slice) -> FloatArray:
        """Interpolate from the neighbouring slices; nothing can leave the range of its neighbours."""
        change, across = self._change, self._change.line(0).slab(rows)
        values_kspq = np.ascontiguousarray(self._slices.take(across.given).float().cpu().numpy())
        for axis in (*change.joint_axes, *(() if change.apart is None else (change.apart,))):
            values_kspq = interpolate_axis(values_kspq, axis, across if axis == 0 else change.line(axis))
        return values_kspq
