import subprocess
import sys
from pathlib import Path
from threading import get_ident

import pytest
from PIL import Image

from core import plots
from core.domain.training import EpochRecord
from core.plots import ProgressPlot, draw


def epoch(number: int, dice: float | None = 0.5, loss: float = -0.5) -> EpochRecord:
    return EpochRecord(
        epoch=number,
        train_loss=loss,
        validation_loss=None if dice is None else loss,
        pseudo_dice={"ball": dice},
        mean_pseudo_dice=dice,
        smoothed_pseudo_dice=dice,
        learning_rate=0.01 / (number + 1),
        seconds=2.5,
    )


def colors(path: Path) -> set[object]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        counted = picture.convert("RGB").getcolors(picture.width * picture.height)
        return {color for _, color in counted or ()}


BLUE, RED, GREEN = (31, 119, 180), (214, 39, 40), (44, 160, 44)


def test_all_curves_are_drawn(tmp_path: Path) -> None:
    draw([epoch(number, loss=-number / 10) for number in range(9)], tmp_path / "progress.png")

    assert {BLUE, RED, GREEN} <= colors(tmp_path / "progress.png")
    assert [path.name for path in tmp_path.iterdir()] == ["progress.png"]


def test_epochs_without_validation_or_with_a_loss_that_is_no_number_leave_a_gap(tmp_path: Path) -> None:
    draw([epoch(0, None), epoch(1, None, float("inf"))], tmp_path / "progress.png")

    assert BLUE in colors(tmp_path / "progress.png")
    assert RED in colors(tmp_path / "progress.png")  # of the legend


def test_epochs_that_come_during_a_drawing_are_drawn_together_and_the_last_one_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, int]] = []
    monkeypatch.setattr(plots, "draw", lambda epochs, _path: drawn.append((len(epochs), get_ident())))

    with ProgressPlot(tmp_path / "progress.png") as plot:
        for number in range(1000):
            plot.record_epoch(epoch(number))

    lengths = [length for length, _ in drawn]
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == 1000
    assert all(thread != get_ident() for _, thread in drawn)


def test_without_an_epoch_nothing_is_drawn(tmp_path: Path) -> None:
    with ProgressPlot(tmp_path / "progress.png"):
        pass

    assert list(tmp_path.iterdir()) == []


def test_a_training_goes_on_where_nothing_can_be_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ProgressPlot(tmp_path / "missing" / "progress.png") as plot:
        for number in range(3):
            plot.record_epoch(epoch(number))

    assert "could not be drawn" in caplog.text


def test_an_error_of_the_training_is_not_hidden(tmp_path: Path) -> None:
    def train() -> None:
        with ProgressPlot(tmp_path / "progress.png") as plot:
            plot.record_epoch(epoch(0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()

    assert (tmp_path / "progress.png").is_file()


def test_the_library_is_loaded_by_the_first_drawing_only() -> None:
    code = "import core.plots, core.pipeline, sys; assert 'matplotlib' not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True)
