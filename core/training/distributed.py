"""Several processes on one machine that train one network, each on a GPU of its own, started by torch's launcher."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed.nn.functional as with_gradient
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from core.errors import TrainingError
from core.network.operations import BatchNormActivation
from core.training.ranks import ALONE, Ranks

LONGEST_WAIT = timedelta(days=2)
"""For the first process, which preprocesses and scores alone; if one dies, torch's launcher ends the others."""


def own_device(wanted: str, ranks: Ranks) -> str:
    """Return the device of a process: where several train together, each has a GPU of its own, if there are any."""
    if ranks.count == 1 or wanted not in {"auto", "cuda"} or not torch.cuda.is_available():
        return wanted
    return f"cuda:{ranks.rank}"


def is_first() -> bool:
    """Return whether this process is the only one, or the first that torch's launcher started."""
    return not distributed.is_torchelastic_launched() or distributed.get_node_local_rank() == 0


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes that torch's launcher has started, and part from them at the end.

    A process that was started otherwise is alone.

    Raises:
        TrainingError: The processes cannot meet.
    """
    if not distributed.is_torchelastic_launched():
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    except (ValueError, RuntimeError) as error:  # DistError is a RuntimeError.
        raise TrainingError(f"the processes of this training cannot meet: {error}") from error
    try:
        yield Ranks(
            rank=distributed.get_rank(),
            count=distributed.get_world_size(),
            total=_total,
            total_with_gradient=_total_with_gradient,
            joined=_wrapped,
            agreed=_agreed,
            wait=distributed.barrier,
        )
    finally:
        distributed.destroy_process_group()


def _total(tensor: Tensor) -> Tensor:
    """Add up a tensor over all processes, without a gradient."""
    summed = tensor.detach().clone()
    distributed.all_reduce(summed)
    return summed


def _total_with_gradient(tensor: Tensor) -> Tensor:
    """Add up a tensor over all processes; backward, the gradients of all of them add up too.

    Each process computes the whole batch's loss, so the sum is as many times the gradient as there are
    processes, and DistributedDataParallel takes the average.
    """
    summed: Tensor = with_gradient.all_reduce(tensor)  # type: ignore[no-untyped-call]
    return summed


def _wrapped(network: nn.Module) -> nn.Module:
    """Let all processes average their gradients; the coarsest head has none under deep supervision."""
    if any(isinstance(module, BatchNormActivation) for module in network.modules()):
        raise TrainingError(
            "batch norm would take its statistics from each process's share of a batch; train on one GPU, or plan "
            "with instance norm"
        )
    return DistributedDataParallel(network, find_unused_parameters=True)


def _agreed(*, flag: bool) -> bool:
    """Tell all processes what the first one knows; on the CPU, so that no GPU is waited for."""
    told = torch.tensor([flag])
    distributed.broadcast(told, src=0)
    return bool(told.item())
