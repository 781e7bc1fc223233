"""Epochs of a training as scalars for TensorBoard, where that is installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from core.domain.progress import SilentObserver
from core.domain.training import EpochRecord
from core.errors import TrainingError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardObserver(SilentObserver):
    """Writes what each epoch measured; the epoch is the step, counted from 0."""

    def __init__(self, writer: "SummaryWriter") -> None:
        self._writer = writer

    def record_epoch(self, epoch: EpochRecord) -> None:
        """Write one scalar per figure; one that is undefined is left out."""
        for tag, value in scalars(epoch).items():
            self._writer.add_scalar(tag, value, epoch.epoch)
        self._writer.flush()


def scalars(epoch: EpochRecord) -> dict[str, float]:
    """Return what an epoch measured under the names that TensorBoard shows it with."""
    figures = {
        "loss/training": epoch.train_loss,
        "loss/validation": epoch.validation_loss,
        "pseudo_dice/mean": epoch.mean_pseudo_dice,
        "pseudo_dice/moving_average": epoch.smoothed_pseudo_dice,
        "learning_rate": epoch.learning_rate,
        "seconds": epoch.seconds,
    } | {f"pseudo_dice/{name}": value for name, value in epoch.pseudo_dice.items()}
    return {tag: value for tag, value in figures.items() if value is not None}


@contextmanager
def tensorboard(folder: Path) -> Iterator[TensorBoardObserver]:
    """Write for TensorBoard while a fold is trained.

    A training that goes on tells its earlier epochs once more; what an earlier run left in the folder is no
    longer shown.

    Args:
        folder: Of this one fold.

    Raises:
        TrainingError: TensorBoard is not installed.
        OSError: Nothing can be written there.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # Here, because it is an extra.
    except ImportError as error:
        raise TrainingError(
            "--tensorboard needs the package tensorboard, which is not installed; install nnunet-service with "
            "the extra of that name: pip install 'nnunet-service[tensorboard]'"
        ) from error
    with SummaryWriter(folder, purge_step=0) as writer:
        yield TensorBoardObserver(writer)
