"""How many weights the network of a plan has, and in how many tensors: arithmetic, without building it."""

from itertools import pairwise
from math import prod
from typing import Final, NamedTuple

from core.domain.names import last_part
from core.domain.plan import ArchitectureArguments

BUFFERS: Final = 3
"""Tensors of a batch norm beside its weights: running mean and variance, and how many batches they are of."""


class NetworkSize(NamedTuple):
    """What the weights of a network come to."""

    parameters: int
    """Numbers that training changes."""
    tensors: int
    """Each once, those of running statistics among them."""

    def plus(self, other: "NetworkSize", times: int = 1) -> "NetworkSize":
        """Return the size of both together, the other so many times."""
        return NetworkSize(self.parameters + times * other.parameters, self.tensors + times * other.tensors)


def network_size(arguments: ArchitectureArguments, input_channels: int, heads: int) -> NetworkSize:
    """Count the weights of a plain or residual U-Net.

    Args:
        arguments: Of which the lists have the right lengths.
        input_channels: That the first convolution sees.
        heads: Logits per voxel.

    Source:
        Engine specification A 7.1 to 7.5.
    """
    size = NetworkSize(0, 0)
    widths, kernels = arguments.features_per_stage, [prod(kernel) for kernel in arguments.kernel_sizes]
    before = input_channels
    if arguments.n_blocks_per_stage is not None:
        size = size.plus(_block(arguments, before, widths[0], kernels[0]))
        before = widths[0]
    counts = arguments.n_blocks_per_stage or arguments.n_conv_per_stage or ()
    for width, kernel, count in zip(widths, kernels, counts, strict=True):
        if arguments.n_blocks_per_stage is None:
            size = size.plus(_stack(arguments, before, width, kernel, count))
        else:
            size = size.plus(_stack(arguments, before, width, kernel, 2 * count))
            if before != width:  # The shortcut of the first block, without a bias.
                size = size.plus(NetworkSize(before * width, 1)).plus(_norm(arguments, width))
        before = width
    levels = list(zip(pairwise(widths), kernels, arguments.strides[1:], strict=False))
    for ((width, deeper), kernel, stride), count in zip(
        reversed(levels), arguments.n_conv_per_stage_decoder, strict=True
    ):
        enlarging = NetworkSize(deeper * width * prod(stride), 1).plus(_bias(arguments, width))
        stack = _stack(arguments, 2 * width, width, kernel, count)
        size = size.plus(enlarging).plus(stack).plus(NetworkSize((width + 1) * heads, 2))
    return size


def _stack(
    arguments: ArchitectureArguments, inputs: int, outputs: int, kernel: int, count: int
) -> NetworkSize:
    """Return the size of blocks in a row, of which only the first changes channels."""
    first = _block(arguments, inputs, outputs, kernel)
    return first.plus(_block(arguments, outputs, outputs, kernel), times=count - 1)


def _block(arguments: ArchitectureArguments, inputs: int, outputs: int, kernel: int) -> NetworkSize:
    """Return the size of a convolution with its norm."""
    convolution = NetworkSize(inputs * outputs * kernel, 1)
    return convolution.plus(_bias(arguments, outputs)).plus(_norm(arguments, outputs))


def _bias(arguments: ArchitectureArguments, outputs: int) -> NetworkSize:
    """Return the size of a convolution's bias, if it has one."""
    return NetworkSize(outputs, 1) if arguments.conv_bias else NetworkSize(0, 0)


def _norm(arguments: ArchitectureArguments, outputs: int) -> NetworkSize:
    """Return the size of a norm."""
    is_batch = last_part(arguments.norm_op or "").startswith("BatchNorm")
    return NetworkSize(2 * outputs, 2 + BUFFERS * is_batch)
