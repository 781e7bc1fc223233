import threading

import pytest
import torch

from core.training.prefetch import MADE_AHEAD, made_ahead


def test_everything_arrives_in_order() -> None:
    assert list(made_ahead(lambda index: index * index, 7)) == [0, 1, 4, 9, 16, 25, 36]


@pytest.mark.parametrize("count", [0, 1])
def test_few_are_no_exception(count: int) -> None:
    assert list(made_ahead(lambda index: index, count)) == list(range(count))


def test_it_is_made_ahead_but_not_far() -> None:
    made: list[int] = []
    both = threading.Event()

    def make(index: int) -> int:
        made.append(index)
        if index == MADE_AHEAD:
            both.set()
        return index

    arriving = made_ahead(make, 50)
    next(arriving)

    assert both.wait(timeout=10)
    assert max(made) == MADE_AHEAD
    arriving.close()


def test_a_mistake_reaches_the_consumer_in_its_turn() -> None:
    def make(index: int) -> int:
        if index == 1:
            raise ValueError("nothing to draw from")
        return index

    arriving = made_ahead(make, 3)

    assert next(arriving) == 0
    with pytest.raises(ValueError, match="nothing to draw from"):
        next(arriving)


def test_the_thread_ends_with_its_consumer() -> None:
    before = threading.active_count()
    arriving = made_ahead(lambda index: index, 1000)
    next(arriving)

    arriving.close()

    assert threading.active_count() == before


def test_the_consumer_keeps_its_cores() -> None:
    before = torch.get_num_threads()

    inside = list(made_ahead(lambda _: torch.get_num_threads(), 3))

    assert inside == [1, 1, 1]
    assert torch.get_num_threads() == before
