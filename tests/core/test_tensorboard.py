import subprocess
import sys
from pathlib import Path

import pytest

from core.domain.progress import Progress, SeveralObservers, SilentObserver
from core.domain.record import write_json
from core.domain.training import EpochRecord
from core.tensorboard import tensorboard
from tests.planned import HIPPOCAMPUS, plan


def epoch(number: int, dice: float | None) -> EpochRecord:
    return EpochRecord(
        epoch=number,
        train_loss=-number / 8,
        validation_loss=None,
        pseudo_dice={"ball": dice},
        mean_pseudo_dice=dice,
        smoothed_pseudo_dice=dice,
        learning_rate=0.01,
        seconds=2.5,
    )


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(it.step, it.value) for it in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_every_figure_of_every_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")

    with tensorboard(tmp_path) as observer:
        observer.record_epoch(epoch(0, None))
        observer.record_epoch(epoch(1, 0.5))

    found = shown(tmp_path)
    assert found["loss/training"] == [(0, 0), (1, -0.125)]
    assert found["pseudo_dice/ball"] == [(1, 0.5)]
    assert set(found) == {
        "loss/training",
        "pseudo_dice/ball",
        "pseudo_dice/mean",
        "pseudo_dice/moving_average",
        "learning_rate",
        "seconds",
    }


def test_a_training_that_goes_on_shows_each_epoch_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")

    for last in (2, 3):
        with tensorboard(tmp_path) as observer:
            for number in range(last):
                observer.record_epoch(epoch(number, 0.5))

    assert shown(tmp_path)["loss/training"] == [(0, 0), (1, -0.125), (2, -0.25)]


def test_without_tensorboard_the_extra_is_named(tmp_path: Path) -> None:
    plans = tmp_path / "plans.json"
    write_json(plans, plan(HIPPOCAMPUS).to_json())
    code = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "from core.__main__ import main\n"
        f"sys.exit(main(['train', '--raw', {str(tmp_path)!r}, '--plans', {str(plans)!r}, '--configuration', '2d',"
        f" '--out', {str(tmp_path)!r}, '--tensorboard', {str(tmp_path)!r}]))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "pip install 'nnunet-service[tensorboard]'" in done.stderr
    assert "Traceback" not in done.stderr


class Counting(SilentObserver):
    def __init__(self, *, stops: bool) -> None:
        self.seen: list[object] = []
        self.stops = stops

    def report(self, progress: Progress) -> None:
        self.seen.append(progress)

    def record_epoch(self, epoch: EpochRecord) -> None:
        self.seen.append(epoch)

    def stop_requested(self) -> bool:
        return self.stops


def test_several_observers_hear_the_same_and_each_may_stop() -> None:
    one, other = Counting(stops=False), Counting(stops=True)
    progress = Progress(stage="train", done=1, total=2)

    both = SeveralObservers(one, other)
    both.report(progress)
    both.record_epoch(epoch(0, 0.5))

    assert one.seen == other.seen == [progress, epoch(0, 0.5)]
    assert both.stop_requested()
    assert not SeveralObservers(one, one).stop_requested()
