"""The processes that train one network together: who computes which samples, and sums over all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

Sum = Callable[[Tensor], Tensor]
"""Of a tensor over all processes; each gets the same result."""


def _own(tensor: Tensor) -> Tensor:
    """Return the sum over the one process that there is."""
    return tensor


def _as_it_is(network: nn.Module) -> nn.Module:
    """Return the network, which one process trains."""
    return network


def _by_itself(*, flag: bool) -> bool:
    """Return what the one process knows."""
    return flag


def _for_nobody() -> None:
    """Wait for the processes that there are not."""


class Agree(Protocol):
    """Tells all processes what the first one knows."""

    def __call__(self, *, flag: bool) -> bool:
        """Return the flag of the process of rank 0."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among those that train a network together, each on its share of every batch."""

    rank: int = 0
    """Of this process."""
    count: int = 1
    total: Sum = _own
    """Without a gradient."""
    total_with_gradient: Sum = _own
    """With the gradient that, averaged over the processes, is the one of the whole batch's loss."""
    joined: Callable[[nn.Module], nn.Module] = _as_it_is
    """Wraps a network so that all processes take the same steps."""
    agreed: Agree = _by_itself
    """Whether the process of rank 0 says so."""
    wait: Callable[[], None] = _for_nobody
    """Until all processes have come here."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks to the caller."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """Return which samples of a batch are this process's: even shares, the first ones larger.

        Source:
            Engine specification B 1.11.
        """
        each, over = divmod(batch_size, self.count)
        start = self.rank * each + min(self.rank, over)
        return slice(start, start + each + (self.rank < over))


ALONE = Ranks()
"""The only process."""
