from dataclasses import replace
from pathlib import Path

import pytest

from core.domain.labels import label_set
from core.errors import CancelledError, TrainingError
from core.training import checkpoint
from core.training.fold import FoldSetup
from core.training.loop import train_fold
from tests.core.training.small_training import Listener, recorded_epochs, setup_in

pytestmark = pytest.mark.usefixtures("one_thread")


def interrupted_in_third_epoch(setup: FoldSetup) -> None:
    with pytest.raises(CancelledError):
        train_fold(setup, Listener(stops=lambda done: done >= 13))


def test_a_damaged_checkpoint_falls_back_to_the_previous_one(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    interrupted_in_third_epoch(setup)
    content = bytearray((tmp_path / checkpoint.LATEST).read_bytes())
    content[-20] ^= 1
    (tmp_path / checkpoint.LATEST).write_bytes(content)

    found = checkpoint.read(tmp_path)

    assert found is not None
    assert len(found[0].epochs) == 1
    train_fold(setup, Listener())
    assert [record.epoch for record in recorded_epochs(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x02\0\0\0\0\0\0\0{}"])
def test_no_readable_checkpoint_is_said_plainly(tmp_path: Path, content: bytes) -> None:
    (tmp_path / checkpoint.LATEST).write_bytes(content)

    with pytest.raises(TrainingError, match="start it anew"):
        train_fold(setup_in(tmp_path), Listener())


def test_a_crash_between_the_renames_loses_one_epoch_at_most(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    interrupted_in_third_epoch(setup)
    (tmp_path / checkpoint.LATEST).unlink()

    found = checkpoint.read(tmp_path)

    assert found is not None
    assert len(found[0].epochs) == 1


def test_other_settings_do_not_go_on(tmp_path: Path) -> None:
    train_fold(setup_in(tmp_path, epochs=1), Listener())

    with pytest.raises(TrainingError, match=r"epochs 1, now 2"):
        train_fold(setup_in(tmp_path, epochs=2), Listener())


def test_a_finished_training_goes_on_with_more_epochs_if_that_is_asked_for(tmp_path: Path) -> None:
    train_fold(setup_in(tmp_path, epochs=2), Listener())
    listener = Listener()

    record = train_fold(replace(setup_in(tmp_path, epochs=4), goes_further=True), listener)

    assert [epoch.epoch for epoch in listener.epochs] == [0, 1, 2, 3]
    assert record.epochs == record.settings.epochs == 4
    assert listener.epochs[2].learning_rate == pytest.approx(0.01 * 0.5**0.9)


def test_more_epochs_are_all_that_may_change_on_the_way(tmp_path: Path) -> None:
    train_fold(setup_in(tmp_path, epochs=2), Listener())

    for chosen in ({"epochs": 1}, {"epochs": 3, "momentum": 0.9}):
        with pytest.raises(TrainingError, match="holds a training with other settings"):
            train_fold(replace(setup_in(tmp_path, **chosen), goes_further=True), Listener())


def test_another_network_does_not_go_on(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    train_fold(setup, Listener())
    other = label_set({"background": 0, "ball": 1, "cube": 2}, None)

    with pytest.raises(TrainingError, match="another network"):
        train_fold(replace(setup, labels=other), Listener())


def test_a_newer_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_fold(setup_in(tmp_path, epochs=1), Listener())
    monkeypatch.setattr(checkpoint, "VERSION", 0)

    with pytest.raises(TrainingError, match="update it"):
        checkpoint.read(tmp_path)
