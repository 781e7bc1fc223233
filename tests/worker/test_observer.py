"""What a training hands over on its way: the first checkpoint at once, later ones now and then, the last on stop."""

from pathlib import Path

import pytest

from core.domain.progress import Progress
from tests.worker import plays
from worker.observer import CheckpointObserver, Message, PipeObserver

NEVER_AGAIN = 3600.0

ALWAYS = 0.0


class Fold:
    """A training that writes its checkpoint as the engine does, and what its parent hears of it."""

    def __init__(self, folder: Path, every_seconds: float) -> None:
        self.messages: list[Message] = []
        self.checkpoint = folder / "checkpoint_latest.safetensors"
        self.observer = CheckpointObserver(
            PipeObserver(self.messages.append), self.checkpoint, folder / "outbox", every_seconds
        )

    def begin(self, finished: int, *, is_stored: bool) -> None:
        """Go on where an earlier attempt stood."""
        self._save(finished)
        self.observer.starts_from(finished, is_stored=is_stored)

    def finish(self, number: int) -> None:
        """Finish an epoch."""
        self._save(number + 1)
        self.observer.record_epoch(plays.epoch(number))

    def repeat(self, number: int) -> None:
        """Tell an epoch again that an earlier attempt finished."""
        self.observer.record_epoch(plays.epoch(number))

    def handed_over(self) -> list[int]:
        """Return how many epochs each checkpoint holds that was handed over."""
        return [message["epochs"] for message in self.messages if message["event"] == "checkpoint"]

    def _save(self, finished: int) -> None:
        partial = self.checkpoint.with_suffix(".partial")
        partial.write_text(f"{finished} epochs")
        partial.replace(self.checkpoint)


@pytest.fixture
def rarely(tmp_path: Path) -> Fold:
    return Fold(tmp_path, NEVER_AGAIN)


@pytest.fixture
def always(tmp_path: Path) -> Fold:
    return Fold(tmp_path, ALWAYS)


def test_the_first_epoch_is_handed_over_at_once(rarely: Fold) -> None:
    rarely.finish(0)

    assert rarely.handed_over() == [1]


def test_later_epochs_wait_for_their_time(rarely: Fold) -> None:
    for number in range(5):
        rarely.finish(number)

    assert rarely.handed_over() == [1]


def test_every_epoch_is_handed_over_where_each_takes_longer_than_the_time(always: Fold) -> None:
    for number in range(3):
        always.finish(number)

    assert always.handed_over() == [1, 2, 3]


def test_every_epoch_is_told_whether_it_is_handed_over_or_not(rarely: Fold) -> None:
    for number in range(3):
        rarely.finish(number)

    told = [message["epoch"] for message in rarely.messages if message["event"] == "epoch"]
    assert told == [0, 1, 2]


def test_the_last_epoch_is_handed_over_when_the_training_stops(rarely: Fold) -> None:
    for number in range(3):
        rarely.finish(number)

    rarely.observer.hand_over()

    assert rarely.handed_over() == [1, 3]


def test_nothing_is_handed_over_twice(always: Fold) -> None:
    always.finish(0)

    always.observer.hand_over()
    always.observer.hand_over()

    assert always.handed_over() == [1]


def test_a_training_that_stops_before_its_first_epoch_hands_nothing_over(rarely: Fold) -> None:
    rarely.observer.starts_from(0, is_stored=False)

    rarely.observer.hand_over()

    assert rarely.messages == [{"event": "resumed", "epochs": 0}]


def test_epochs_of_earlier_attempts_hand_nothing_over(always: Fold) -> None:
    always.begin(3, is_stored=True)

    for number in range(3):
        always.repeat(number)

    assert always.handed_over() == []


def test_a_checkpoint_of_this_machine_that_the_store_lacks_is_handed_over_at_once(rarely: Fold) -> None:
    rarely.begin(3, is_stored=False)

    assert [message["event"] for message in rarely.messages] == ["resumed", "checkpoint"]
    assert rarely.handed_over() == [3]


def test_the_first_new_epoch_after_a_stored_checkpoint_is_handed_over_at_once(rarely: Fold) -> None:
    rarely.begin(3, is_stored=True)

    rarely.finish(3)
    rarely.finish(4)

    assert rarely.handed_over() == [4]


def test_what_was_handed_over_stays_as_it_was_while_the_training_goes_on(rarely: Fold) -> None:
    rarely.finish(0)
    file = Path(rarely.messages[-1]["path"])

    rarely.finish(1)

    assert file.read_text() == "1 epochs"


def test_progress_and_the_wish_to_stop_pass_through(rarely: Fold) -> None:
    rarely.observer.report(Progress(stage="train", done=1, total=2))
    before = rarely.observer.stop_requested()
    rarely.observer._inner.stop()

    assert rarely.messages == [{"event": "progress", "stage": "train", "done": 1, "total": 2, "note": ""}]
    assert (before, rarely.observer.stop_requested()) == (False, True)
