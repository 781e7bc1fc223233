"""What segmenting an image will cost at most: memory of processor and GPU, tiles, from shapes alone."""

from collections.abc import Sequence
from math import prod
from typing import Final

from core.domain.explanation import PredictionMemory
from core.domain.geometry import Shape, Spacing, permuted, resampled_shape
from core.domain.plan import ArchitectureArguments, Configuration, ConfigurationName, Plan
from core.domain.tiling import STEP, slab_shape, tile_starts

BASE_BYTES: Final = 450 * 2**20
"""Of the process before it sees an image: torch and the other libraries. Own measurement."""

GB: Final = 10**9

FLOAT: Final = 4
"""Bytes of a 32-bit float, the type of intensities, logits and sums."""

HALF_FLOAT: Final = 2
"""Bytes of a 16-bit float, in which a GPU computes."""

READ_COPIES: Final = 2
"""How often the voxels of the file are held while they are read: as stored, at most 32 bits, and as floats."""

RESAMPLING_COPIES: Final = 3
"""Copies of the image while it is resampled: as read, normalized, and the larger of the passes' results."""

LABEL_MAPS: Final = 2
"""Bytes of a segmentation and of what is written of it, per voxel of the image."""

FEATURE_MAPS: Final = 6
"""Maps of the finest stage that a forward pass holds at once: the skip connection, what is upsampled, both side by
side (two), what is convolved of them, and a scratch map. Those of the coarser stages add less than one."""

LOGIT_MAPS: Final = 3
"""How often the logits of a tile are held: two arrays while they are computed, and their mean over mirrorings."""


def prediction_memory(
    plan: Plan,
    name: ConfigurationName,
    heads: int,
    image_shape: Shape,
    image_spacing: Spacing | None = None,
    *,
    foreground: int | None = None,
) -> PredictionMemory:
    """Estimate the peak memory of a prediction.

    Args:
        plan: Of the model.
        name: Of the configuration.
        heads: Logits per voxel: regions, or labels with background.
        image_shape: Voxels of the image, (z, y, x) as in its file.
        image_spacing: Its spacing in millimetres, same order; that of the plan's median case if not given.
        foreground: Labels that a later stage of a cascade sees as a channel each; one less than heads if not given.

    Returns:
        Estimates; measured peaks lay within 25 % of `cpu_bytes` (docs/decisions/0017 and 0032).

    Raises:
        PlanError: A package adds the network, so that nobody here knows what it costs.
    """
    chosen = plan.configuration(name)
    channels, arguments = len(chosen.normalization_schemes), chosen.architecture.unet
    is_later = chosen.previous_stage is not None
    seen = channels + is_later * (heads - 1 if foreground is None else foreground)
    grid = _grid(plan, chosen, image_shape, image_spacing)
    image, network, patch = prod(image_shape), prod(grid), prod(chosen.patch_size)
    weights = FLOAT * parameters(arguments, seen, heads)
    maps = FEATURE_MAPS * arguments.features_per_stage[0] + LOGIT_MAPS * heads + is_later * 2 * seen
    parts = {
        "the image": FLOAT * channels * image,
        "the image on the network's grid": FLOAT * (channels + 2 * is_later) * network,
        "the sum of logits": FLOAT * (heads + 1) * prod(slab_shape(grid, chosen.patch_size)),
        "the label map": LABEL_MAPS * image,
        "one forward pass": FLOAT * patch * maps,
        "the weights": weights,
        "the process itself": BASE_BYTES,
    }
    while_reading = READ_COPIES * parts["the image"]
    while_resampling = RESAMPLING_COPIES * max(parts["the image"], parts["the image on the network's grid"])
    always = BASE_BYTES + weights
    peak = always + max(while_reading, while_resampling, sum(parts.values()) - always)
    on_gpu = (
        weights // FLOAT * HALF_FLOAT
        + parts["one forward pass"] // FLOAT * HALF_FLOAT
        + parts["the image on the network's grid"]
        + parts["the sum of logits"]
    )
    largest = max(parts, key=lambda part: parts[part])
    return PredictionMemory(
        configuration=name,
        grid=grid,
        tiles=_tiles(grid, chosen.patch_size),
        cpu_bytes=peak,
        gpu_bytes=on_gpu,
        reason=f"on a processor, the largest part is {largest}: {_size(parts[largest])} of {_size(peak)}",
    )


def _grid(plan: Plan, chosen: Configuration, image_shape: Shape, image_spacing: Spacing | None) -> Shape:
    """Return the voxels of an image on the network's grid, at least those of the patch."""
    axes = plan.transpose_forward
    shape = permuted(image_shape, axes)
    spacing = (
        plan.original_median_spacing_after_transp if image_spacing is None else permuted(image_spacing, axes)
    )
    if spacing is not None:
        shape = resampled_shape(shape, spacing, chosen.target_spacing(spacing))
    patch = (1, *chosen.patch_size) if chosen.is_2d else chosen.patch_size
    z, y, x = (max(count, edge) for count, edge in zip(shape, patch, strict=True))
    return (z, y, x)


def _tiles(grid: Shape, patch: Sequence[int]) -> int:
    """Count the tiles; a 2D network visits every slice."""
    slices, extent = grid[: len(grid) - len(patch)], grid[len(grid) - len(patch) :]
    return prod(slices) * prod(
        len(tile_starts(count, edge, STEP)) for count, edge in zip(extent, patch, strict=True)
    )


def parameters(arguments: ArchitectureArguments, channels: int, heads: int) -> int:
    """Count the weights of a network.

    Args:
        arguments: Of the plain or the residual U-Net.
        channels: Of the image.
        heads: Logits per voxel.

    Source:
        Engine specification A 7.1 to 7.3; the counts of A 7.5 (5).
    """
    widths, kernels, strides = arguments.features_per_stage, arguments.kernel_sizes, arguments.strides
    bias = int(arguments.conv_bias)
    if arguments.n_blocks_per_stage is None:
        encoder = _stacks(channels, arguments.n_conv_per_stage or (), arguments)
    else:
        encoder = _convolution(channels, widths[0], kernels[0], bias) + _residual_stages(
            arguments.n_blocks_per_stage, arguments
        )
    decoder = 0
    for depth, count in enumerate(arguments.n_conv_per_stage_decoder):
        level = len(widths) - 2 - depth
        width, below = widths[level], widths[level + 1]
        decoder += below * width * prod(strides[level + 1]) + bias * width
        decoder += _convolution(2 * width, width, kernels[level], bias)
        decoder += (count - 1) * _convolution(width, width, kernels[level], bias)
        decoder += (width + 1) * heads
    return encoder + decoder


def _convolution(inputs: int, outputs: int, kernel: Sequence[int], bias: int) -> int:
    """Count the weights of a convolution with its norm."""
    return inputs * outputs * prod(kernel) + bias * outputs + 2 * outputs


def _stacks(channels: int, counts: Sequence[int], arguments: ArchitectureArguments) -> int:
    """Count the weights of the plain encoder."""
    bias, total, before = int(arguments.conv_bias), 0, channels
    for count, width, kernel in zip(
        counts, arguments.features_per_stage, arguments.kernel_sizes, strict=True
    ):
        total += _convolution(before, width, kernel, bias)
        total += (count - 1) * _convolution(width, width, kernel, bias)
        before = width
    return total


def _residual_stages(counts: Sequence[int], arguments: ArchitectureArguments) -> int:
    """Count the weights of the residual stages after the stem; a shortcut that changes channels has some too."""
    bias, total, before = int(arguments.conv_bias), 0, arguments.features_per_stage[0]
    for count, width, kernel in zip(
        counts, arguments.features_per_stage, arguments.kernel_sizes, strict=True
    ):
        total += _convolution(before, width, kernel, bias)
        total += (2 * count - 1) * _convolution(width, width, kernel, bias)
        total += _convolution(before, width, (1,), 0) if before != width else 0
        before = width
    return total


def _size(count: int) -> str:
    """Write bytes in the unit that people would use."""
    return f"{count / 1e9:.1f} GB" if count >= GB else f"{count / 1e6:.0f} MB"
