"""Patch, pooling and kernels."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import PlanningError
from core.planning.topology import SMALLEST_EDGE, Topology, fitted, initial_patch, shrunk, topology

edges = st.floats(min_value=0.1, max_value=10.0)
counts = st.integers(min_value=1, max_value=400)


def test_anisotropic_volume_pools_the_slice_axis_late() -> None:
    chosen = topology((5.0, 1.5625, 1.5625), (18, 233.5, 204))

    assert chosen.patch_size == (20, 256, 224)
    assert chosen.divisors == (4, 32, 32)
    assert chosen.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert chosen.kernel_sizes == ((1, 3, 3), *((3, 3, 3),) * 5)


def test_hippocampus_volume_pools_three_times() -> None:
    chosen = topology((1.0, 1.0, 1.0), (36, 50, 35))

    assert chosen.patch_size == (40, 56, 40)
    assert chosen.strides == ((1, 1, 1), *((2, 2, 2),) * 3)
    assert chosen.kernel_sizes == ((3, 3, 3),) * 4


def test_hippocampus_slice_pools_three_times() -> None:
    assert topology((1.0, 1.0), (50, 35)).patch_size == (56, 40)


def test_an_image_too_small_to_pool_keeps_one_stage() -> None:
    assert topology((1.0, 1.0, 1.0), (5, 7, 3)) == Topology((5, 7, 3), ((1, 1, 1),), ((3, 3, 3),), (1, 1, 1))


def test_the_last_axis_alone_needs_twelve_voxels_to_be_pooled() -> None:
    assert topology((1.0, 1.0), (4, 11)).divisors == (1, 1)
    assert topology((1.0, 1.0), (4, 12)).divisors == (1, 2)


def test_the_first_patch_never_exceeds_the_median_image() -> None:
    assert initial_patch((1.0, 0.7675, 0.7675), (432.0, 512.0, 512.0)) == (215, 280, 280)
    assert initial_patch((5.0, 1.5625, 1.5625), (18.0, 233.5, 204.0)) == (18.0, 233.5, 204.0)


def test_a_liver_patch_shrinks_along_the_published_path() -> None:
    spacing, median = (1.0, 0.7675, 0.7675), (432.0, 512.0, 512.0)
    current = topology(spacing, initial_patch(spacing, median))
    path = [current.patch_size]

    for _ in range(13):
        current = shrunk(current, spacing, median)
        path.append(current.patch_size)

    assert path == [
        (224, 320, 320),
        (224, 320, 256),
        (224, 256, 256),
        (192, 256, 256),
        (192, 256, 224),
        (192, 224, 224),
        (160, 224, 224),
        (160, 224, 192),
        (160, 192, 192),
        (160, 192, 160),
        (160, 160, 160),
        (128, 160, 160),
        (128, 160, 128),
        (128, 128, 128),
    ]


@given(st.tuples(edges, edges, edges), st.tuples(counts, counts, counts))
def test_every_patch_is_divisible_and_holds_what_was_asked(
    spacing: tuple[float, float, float], wanted: tuple[int, int, int]
) -> None:
    chosen = topology(spacing, wanted)

    for axis in range(3):
        divisor = prod(stride[axis] for stride in chosen.strides)
        assert chosen.divisors[axis] == divisor
        assert chosen.patch_size[axis] % divisor == 0
        assert wanted[axis] <= chosen.patch_size[axis] < wanted[axis] + divisor
        assert divisor == 1 or chosen.patch_size[axis] // divisor >= SMALLEST_EDGE
    assert len(chosen.kernel_sizes) == len(chosen.strides)


@given(st.tuples(edges, edges, edges), st.tuples(counts, counts, counts), st.integers(1, 10**6))
def test_a_patch_shrinks_until_it_fits(
    spacing: tuple[float, float, float], median: tuple[int, int, int], voxels: int
) -> None:
    start = topology(spacing, initial_patch(spacing, median))

    chosen = fitted(start, spacing, median, lambda candidate: prod(candidate.patch_size) > voxels)

    assert prod(chosen.patch_size) <= voxels


def test_a_patch_that_cannot_shrink_asks_for_more_memory() -> None:
    start = topology((1.0, 1.0), (20, 20))

    with pytest.raises(PlanningError, match="gpu_memory_gb"):
        fitted(start, (1.0, 1.0), (20, 20), lambda _: True)
