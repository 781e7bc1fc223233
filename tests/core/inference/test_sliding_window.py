import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.domain.tiling import tile_starts
from core.errors import CancelledError, ModelError
from core.inference.slabs import Accumulator, fold_mean_logits, logit_slabs, slab_values, tile_count
from core.inference.sliding_window import (
    Window,
    gaussian_map,
    mirror_passes,
    mirrored_mean,
    pad_to_patch,
    tile_corners,
    tile_rows,
)

GOLDENS = Path(__file__).resolve().parents[3] / "../shared/goldens/inference_goldens"
CPU = torch.device("cpu")


def _silent(_: int) -> None:
    """Listen to nothing."""


def _identity(tiles: Tensor) -> Tensor:
    return tiles.clone()


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], Window]:
    dimensions = draw(st.sampled_from([2, 3]))
    patch = tuple(draw(st.lists(st.integers(3, 9), min_size=dimensions, max_size=dimensions)))
    shape = tuple(draw(st.lists(st.integers(1, 14), min_size=3, max_size=3)))
    axes = tuple(sorted(draw(st.sets(st.integers(0, dimensions - 1)))))
    window = Window(
        patch,
        step=draw(st.floats(0.4, 1)),
        mirror_axes=axes,
        has_gaussian=draw(st.booleans()),
        tiles_per_batch=draw(st.integers(1, 3)),
        passes_per_batch=draw(st.integers(1, 8)),
    )
    return shape, window


@pytest.mark.parametrize(
    ("size", "tile", "step", "starts"),
    [
        (110, 64, 0.5, (0, 23, 46)),
        (129, 128, 0.5, (0, 1)),
        (319, 128, 0.5, (0, 64, 127, 191)),
        (300, 96, 0.5, (0, 41, 82, 122, 163, 204)),
        (165, 64, 0.5, (0, 25, 50, 76, 101)),
        (300, 96, 1, (0, 68, 136, 204)),
        (64, 64, 0.5, (0,)),
    ],
)
def test_tiles_start_where_the_method_puts_them(
    size: int, tile: int, step: float, starts: tuple[int, ...]
) -> None:
    assert tile_starts(size, tile, step) == starts


@pytest.mark.parametrize(("size", "tile", "step"), [(3, 4, 0.5), (4, 4, 0), (4, 4, 1.1)])
def test_impossible_tilings_are_refused(size: int, tile: int, step: float) -> None:
    with pytest.raises(ValueError, match="cannot lay tiles"):
        tile_starts(size, tile, step)


def test_weights_of_a_tile_are_those_of_the_method() -> None:
    line, long, square = gaussian_map((8,)), gaussian_map((128,)), gaussian_map((64, 64))

    assert line[:5] == pytest.approx([0.003355, 0.11108, 1.35352, 6.06641, 10], abs=1e-5)
    assert [long[0], long[1], long[-1]] == pytest.approx([0.0033550, 0.0042992, 0.0042992], abs=1e-7)
    assert square.min() == pytest.approx(1.1325e-6, rel=1e-4)
    assert np.argwhere(square == square.min()).tolist() == [[0, 0]]
    assert square[-1, -1] == pytest.approx(3.0398e-6, rel=1e-4)
    assert square.sum() == pytest.approx(4020.7, abs=0.1)


def test_corners_of_a_large_tile_keep_the_smallest_weight() -> None:
    weights = gaussian_map((128, 128, 128))

    assert weights.min() == pytest.approx(5.96e-8, rel=1e-3)
    assert (weights == weights.min()).sum() == 18_987
    assert weights[0, 64, 64] == pytest.approx(0.003355, abs=1e-6)


def test_padding_is_centred_with_the_odd_voxel_at_the_end() -> None:
    voxels = torch.ones(1, 3, 5, 10)

    padded, inner = pad_to_patch(voxels, (8, 8))

    assert padded.shape == (1, 3, 8, 10)
    assert inner == (slice(None), slice(0, 3), slice(1, 6), slice(0, 10))
    assert torch.equal(padded[inner], voxels)
    assert padded.sum() == voxels.sum()


def test_a_2d_network_visits_every_slice() -> None:
    corners = tile_corners((2, 6, 4), (4, 4), 0.5)

    assert corners == [(0, 0, 0), (0, 2, 0), (1, 0, 0), (1, 2, 0)]


def test_mirrorings_come_by_number_of_axes() -> None:
    assert mirror_passes((0, 1, 2)) == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    assert mirror_passes(()) == [()]


@settings(max_examples=25, deadline=None)
@given(layout=layouts(), axis=st.integers(0, 2))
def test_groups_of_tiles_follow_each_other_and_hold_each_once(
    layout: tuple[tuple[int, ...], Window], axis: int
) -> None:
    shape, window = layout
    padded, _ = pad_to_patch(torch.zeros(1, *shape), window.patch)

    groups = tile_rows(padded.shape[1:], window, axis)

    corners = [corner for group in groups for corner in group]
    assert sorted(corners) == tile_corners(padded.shape[1:], window.patch, window.step)
    assert all(
        max(corner[axis] for corner in one) < min(corner[axis] for corner in following)
        for one, following in pairwise(groups)
    )
    assert all(len(group) >= window.tiles_per_batch for group in groups[:-1])


@settings(max_examples=25, deadline=None)
@given(layout=layouts(), axis=st.integers(0, 2))
def test_a_network_that_changes_nothing_gives_the_image_back(
    layout: tuple[tuple[int, ...], Window], axis: int
) -> None:
    shape, window = layout
    voxels = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))

    logits = fold_mean_logits([_identity, _identity], voxels, window, Accumulator(2, CPU, axis=axis), _silent)

    assert torch.allclose(logits, voxels, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(layout=layouts())
def test_a_constant_network_gives_constant_logits(layout: tuple[tuple[int, ...], Window]) -> None:
    shape, window = layout

    logits = fold_mean_logits(
        [lambda tiles: torch.full_like(tiles, 3.0)],
        torch.zeros(1, *shape),
        window,
        Accumulator(1, CPU),
        _silent,
    )

    assert torch.allclose(logits, torch.tensor(3.0), atol=1e-5)


def test_mirroring_averages_what_a_network_says_of_the_mirrored_tile() -> None:
    tiles = torch.rand(2, 1, 4, 4)
    ramp = torch.arange(4.0).expand(4, 4)

    mean = mirrored_mean(lambda batch: batch + ramp, tiles, Window((4, 4), mirror_axes=(1,)))

    assert torch.allclose(mean, tiles + 1.5)


def test_batches_change_nothing_but_how_often_the_network_is_called() -> None:
    voxels = torch.rand(1, 5, 12, 9)
    calls: list[int] = []

    def network(tiles: Tensor) -> Tensor:
        calls.append(len(tiles))
        return tiles.roll(1, -1)

    one = fold_mean_logits(
        [network], voxels, Window((4, 4), mirror_axes=(0, 1)), Accumulator(1, CPU), _silent
    )
    singles = len(calls)
    calls.clear()
    window = Window((4, 4), mirror_axes=(0, 1), tiles_per_batch=7, passes_per_batch=4)
    many = fold_mean_logits([network], voxels, window, Accumulator(1, CPU), _silent)

    assert torch.allclose(one, many)
    assert singles == 4 * tile_count(voxels, window, folds=1)
    assert max(calls) == 28


def test_sums_are_held_for_one_patch_of_slices_only() -> None:
    voxels, window = torch.rand(1, 6, 40, 7), Window((4, 8, 4), tiles_per_batch=2)
    slabs = logit_slabs([_identity], voxels, window, Accumulator(1, CPU, axis=1), _silent)

    seen = [(slab.start, slab.stop, slab.logits_kspq.clone()) for slab in slabs]

    assert slab_values((6, 40, 7), window, 1, 1) == 2 * 6 * 8 * 7
    assert [start for start, _, _ in seen[1:]] == [stop for _, stop, _ in seen[:-1]]
    assert max(stop - start for start, stop, _ in seen) <= 8
    assert torch.allclose(torch.cat([logits for *_, logits in seen], 1).movedim(1, 2), voxels, atol=1e-5)


def test_logits_of_folds_are_averaged() -> None:
    networks = [lambda tiles: tiles * 0 + 1, lambda tiles: tiles * 0 + 4]

    logits = fold_mean_logits(
        networks, torch.zeros(1, 5, 5, 5), Window((4, 4, 4)), Accumulator(1, CPU), _silent
    )

    assert torch.allclose(logits, torch.tensor(2.5))


def test_progress_counts_the_tiles_of_all_folds_and_stops_between_tiles() -> None:
    voxels, window = torch.zeros(1, 5, 5, 5), Window((4, 4, 4))
    seen: list[int] = []

    def stop_at_five(done: int) -> None:
        seen.append(done)
        if done == 5:
            raise CancelledError("enough")

    fold_mean_logits([_identity] * 2, voxels, window, Accumulator(1, CPU), seen.append)
    total = seen[-1]
    seen.clear()
    with pytest.raises(CancelledError):
        fold_mean_logits([_identity] * 2, voxels, window, Accumulator(1, CPU), stop_at_five)

    assert total == tile_count(voxels, window, folds=2) == 16
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ModelError, match="not finite"):
        fold_mean_logits(
            [lambda tiles: tiles + value],
            torch.zeros(1, 4, 4, 4),
            Window((4, 4, 4)),
            Accumulator(1, CPU),
            _silent,
        )


@pytest.mark.parity
def test_recorded_tile_starts_are_reproduced() -> None:
    recorded = GOLDENS / "steps_dev.json"
    if not recorded.is_file():
        pytest.skip("the reference's recorded tiles (../shared) are absent")

    for entry in json.loads(recorded.read_text()):
        found = [
            list(tile_starts(size, tile, entry["step"]))
            for size, tile in zip(entry["image"], entry["patch"], strict=True)
        ]
        assert found == entry["steps"]


@pytest.mark.parity
def test_recorded_weights_are_reproduced() -> None:
    recorded = GOLDENS / "gaussian_dev.npz"
    if not recorded.is_file():
        pytest.skip("the reference's recorded weights (../shared) are absent")

    with np.load(recorded) as maps:
        for name in [name for name in maps if name.endswith("f16_scale10")]:
            patch = tuple(int(size) for size in name.split("__")[0].split("x"))
            assert np.array_equal(gaussian_map(patch), maps[name].astype(np.float32)), name
