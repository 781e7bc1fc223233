import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from core.domain.labels import label_set
from core.domain.plan import Configuration
from core.errors import CancelledError, TrainingError
from core.training import checkpoint
from core.training.fold import FoldSetup
from core.training.loop import train_fold
from tests.core.training.small_training import CONFIGURATION, Listener, ball, recorded_epochs, setup_in

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


def test_a_fold_that_stopped_early_goes_no_further_and_says_so(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"early_stop_epochs": 1, "initial_learning_rate": 1e-12}
    stopped = train_fold(setup_in(tmp_path, epochs=20, **chosen), Listener())
    assert stopped.epochs is not None
    assert stopped.epochs < 20
    longer = replace(setup_in(tmp_path, epochs=50, **chosen), goes_further=True)

    with pytest.raises(
        TrainingError, match=rf"stopped early after {stopped.epochs} epochs .* would do so again"
    ):
        train_fold(longer, Listener())

    again = train_fold(replace(longer, keeps_ended=True), Listener())
    assert again.epochs == stopped.epochs  # Beside folds of its model that do go further.


def configured(**entries: Any) -> Configuration:
    return Configuration.model_validate(CONFIGURATION.model_dump(mode="json") | entries)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"configuration": configured(batch_size=3, batch_dice=True)}, "batch_size, batch_dice"),
        ({"configuration": configured(patch_size=[8, 8, 12])}, "patch_size"),
        ({"training_cases": {"a": ball(0), "x": ball(1)}}, "the training cases"),
        (
            {"training_cases": {"a": ball(0), "c": ball(2)}, "validation_cases": {"b": ball(1)}},
            "the training cases, the validation cases",
        ),
        ({"labels": label_set({"background": 0, "cube": 1}, None)}, "the labels"),
    ],
)
def test_what_a_training_stands_on_stays_as_it_was(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    setup = setup_in(tmp_path)
    interrupted_in_third_epoch(setup)

    with pytest.raises(TrainingError, match="began otherwise") as refusal:
        train_fold(replace(setup, **changes), Listener())

    assert refusal.value.context["entries"] == named.split(", ")


def test_what_no_training_depends_on_may_change_on_the_way(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    interrupted_in_third_epoch(setup)
    cases = {name: setup.training_cases[name] for name in ("b", "a")}

    other = configured(data_identifier="other", next_stage="finer", median_image_size_in_voxels=[9, 9, 9])

    assert train_fold(replace(setup, configuration=other, training_cases=cases), Listener()).epochs == 3


def as_written_before(folder: Path) -> None:
    """Write the checkpoint again as an earlier release did, which kept nothing of what it was trained from."""
    found = checkpoint.read(folder)
    assert found is not None
    record, tensors = found
    values = record.model_dump(mode="json", exclude={"grounds"}) | {"version": 2}
    save_file(tensors, folder / checkpoint.LATEST, {checkpoint.STATE_KEY: json.dumps(values)})


def test_a_checkpoint_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    interrupted_in_third_epoch(setup)
    as_written_before(tmp_path)

    train_fold(replace(setup, configuration=configured(batch_size=3)), Listener())

    assert [record.epoch for record in recorded_epochs(tmp_path)] == [0, 1, 2]


def test_another_network_does_not_go_on(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    train_fold(setup, Listener())
    as_written_before(tmp_path)
    other = label_set({"background": 0, "ball": 1, "cube": 2}, None)

    with pytest.raises(TrainingError, match="another network"):
        train_fold(replace(setup, labels=other), Listener())


def test_a_newer_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_fold(setup_in(tmp_path, epochs=1), Listener())
    monkeypatch.setattr(checkpoint, "VERSION", 0)

    with pytest.raises(TrainingError, match="update it"):
        checkpoint.read(tmp_path)
