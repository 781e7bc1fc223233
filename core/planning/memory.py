"""What a network would cost in GPU memory, from its feature-map sizes, and the batch that this allows."""

from itertools import pairwise
from math import prod

from core.domain.plan import ArchitectureArguments
from core.planning.presets import Preset

REFERENCE_BATCH = {2: 12, 3: 2}
"""Samples that a preset's reference cost stands for, by the number of dimensions."""

SMALLEST_BATCH = 2
"""Samples; a single one makes the gradient too noisy."""


def feature_maps(patch_size: tuple[int, ...], network: ArchitectureArguments, classes: int) -> int:
    """Count the activations of one sample, layer by layer.

    A proxy for memory that needs no network and no GPU. Input channels and the heads of deep
    supervision do not enter.

    Args:
        patch_size: Voxels, two or three axes.
        network: The arguments of the plain or the residual U-Net.
        classes: Entries of `labels` in dataset.json.

    Returns:
        Elements of all feature maps.

    Source:
        Engine specification A 5.10.
    """
    sizes = _stage_sizes(patch_size, network.strides)
    widths = network.features_per_stage
    maps = [width * prod(size) for width, size in zip(widths, sizes, strict=True)]
    if network.n_blocks_per_stage is None:
        encoder = sum(count * cost for count, cost in zip(network.n_conv_per_stage or (), maps, strict=True))
    else:
        encoder = maps[0] + sum(
            2 * blocks * cost for blocks, cost in zip(network.n_blocks_per_stage, maps, strict=True)
        )
        stages = list(zip(widths, sizes, maps, strict=True))
        encoder += sum(after[2] for before, after in pairwise(stages) if before[:2] != after[:2])
    upwards = reversed(maps[:-1])
    decoder = sum(
        (count + 1) * cost for count, cost in zip(network.n_conv_per_stage_decoder, upwards, strict=True)
    )
    return encoder + decoder + classes * prod(sizes[0])


def _stage_sizes(
    patch_size: tuple[int, ...], strides: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], ...]:
    """Return the voxels of the feature maps of each stage."""
    sizes, size = [], patch_size
    for stride in strides:
        size = tuple(count // factor for count, factor in zip(size, stride, strict=True))
        sizes.append(size)
    return tuple(sizes)


def budget(preset: Preset, dimensions: int, gpu_memory_gb: float | None) -> float:
    """Return the feature-map elements that the reference batch may cost in total.

    Args:
        preset: Its references.
        dimensions: 2 or 3.
        gpu_memory_gb: Memory target in GB; None for the preset's own.

    Source:
        Engine specification A 5.6 (4).
    """
    reference = preset.reference_3d if dimensions == len("zyx") else preset.reference_2d
    target = preset.reference_gb if gpu_memory_gb is None else gpu_memory_gb
    return reference * (target / preset.reference_gb)


def is_over_budget(cost: int, limit: float, dimensions: int, *, patch_outranks_batch: bool) -> bool:
    """Say whether the patch must shrink.

    Args:
        cost: Feature-map elements of one sample.
        limit: The budget.
        dimensions: 2 or 3.
        patch_outranks_batch: Whether the cost of the smallest batch, as a share of the reference
            batch, is what counts, so that a large patch may reduce the batch.

    Source:
        Engine specification A 5.6 (5).
    """
    if patch_outranks_batch:
        return cost / REFERENCE_BATCH[dimensions] * SMALLEST_BATCH > limit
    return cost > limit


def batch_size(
    cost: int, limit: float, patch_size: tuple[int, ...], dataset_voxels: float, coverage: float
) -> int:
    """Choose the samples per batch: what memory allows, but no more of the dataset than `coverage`.

    Args:
        cost: Feature-map elements of one sample.
        limit: The budget.
        patch_size: Voxels.
        dataset_voxels: Voxels of all training cases together, after resampling.
        coverage: Largest share of them in one batch.

    Source:
        Engine specification A 5.6 (6) to (8).
    """
    affordable = round(limit / cost * REFERENCE_BATCH[len(patch_size)])
    diverse = round(dataset_voxels * coverage / prod(patch_size))
    return max(min(affordable, diverse), SMALLEST_BATCH)
