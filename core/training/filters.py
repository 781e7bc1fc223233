"""What a voxel's neighbours do to it: median filters and sharpening.

Every function takes rows, that is one channel of one sample each, and one parameter per row.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

VALUES_AT_ONCE = 2**27
"""Neighbours that a median on a GPU looks at in one go: 512 MiB in float32."""


def median_filtered(rows_nzyx: Tensor, edges: Sequence[int]) -> Tensor:
    """Replace each voxel by the median of the box around it; where an edge is even, the box reaches further down.

    Borders are mirrored, the outermost voxels repeated. Of an even number of neighbours the upper middle counts.

    Args:
        rows_nzyx: One channel per row.
        edges: Per row, the edge of the box in voxels, 1 or more.

    Source:
        Engine specification B 2.7, row 6. Own measurement: for a box of 7³ voxels on one core scipy takes half
        as long as selecting from all neighbours with torch.
    """
    filtered = _median_on_host if rows_nzyx.device.type == "cpu" else median_of_neighbours
    return torch.stack([filtered(row_zyx, edge) for row_zyx, edge in zip(rows_nzyx, edges, strict=True)])


def _median_on_host(row_zyx: Tensor, edge: int) -> Tensor:
    """Filter one row with scipy."""
    return torch.from_numpy(np.asarray(ndimage.median_filter(row_zyx.numpy(), size=edge, mode="reflect")))


def median_of_neighbours(row_zyx: Tensor, edge: int) -> Tensor:
    """Filter one row on any device, some slices at a time."""
    padded_zyx, axes = row_zyx, range(row_zyx.dim())
    for axis in axes:
        index = torch.from_numpy(_repeated(row_zyx.shape[axis], edge)).to(row_zyx.device)
        padded_zyx = padded_zyx.index_select(axis, index)
    neighbours = edge ** row_zyx.dim()
    slices = max(1, VALUES_AT_ONCE // (neighbours * row_zyx[0].numel()))
    filtered = []
    for first in range(0, row_zyx.shape[0], slices):
        windows = padded_zyx[first : first + slices + edge - 1]
        for axis in axes:
            windows = windows.unfold(axis, edge, 1)
        flat = windows.reshape(*windows.shape[: row_zyx.dim()], neighbours)
        filtered.append(flat.kthvalue(neighbours // 2 + 1, dim=-1).values)
    return torch.cat(filtered)


def _repeated(size: int, edge: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return indices that extend an axis by mirroring, the outermost voxels repeated."""
    below = edge // 2
    folded = np.arange(-below, size + edge - 1 - below) % (2 * size)
    return np.minimum(folded, 2 * size - 1 - folded)


def sharpened(rows_nzyx: Tensor, strengths: Sequence[float]) -> Tensor:
    """Add a share of what distinguishes each voxel from its neighbours along the axes; borders are repeated.

    Source:
        Engine specification B 2.7, row 17.
    """
    share = rows_nzyx.new_tensor(strengths).view(-1, *(1 for _ in rows_nzyx.shape[1:]))
    changed_nzyx = rows_nzyx.clone()
    for axis in range(1, rows_nzyx.dim()):
        steps = rows_nzyx.diff(dim=axis) * share
        last = rows_nzyx.shape[axis] - 1
        changed_nzyx.narrow(axis, 1, last).add_(steps)
        changed_nzyx.narrow(axis, 0, last).sub_(steps)
    return changed_nzyx
