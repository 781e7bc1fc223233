import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.errors import TrainingError
from core.training import checkpoint
from core.training.loop import train_fold
from tests.core.training.small_training import Listener, recorded_epochs, setup_in

pytestmark = pytest.mark.usefixtures("one_thread")


@contextmanager
def room_for_files_of(size_bytes: int) -> Iterator[None]:
    """What a full disk is like: larger files cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_in_one_sentence_and_the_training_can_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "fold_0"
    with (
        room_for_files_of(2000),
        pytest.raises(
            TrainingError, match=r"^checkpoint\.safetensors of fold_0 cannot be written: .*free space[^\n]*$"
        ),
    ):
        train_fold(setup_in(folder), Listener())
    assert not [path.name for path in folder.iterdir() if path.name.startswith(checkpoint.LATEST)]

    train_fold(setup_in(folder), Listener())

    assert [record.epoch for record in recorded_epochs(folder)] == [0, 1, 2]
