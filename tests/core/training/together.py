"""Train a few steps and write each step's loss: by one process, or as one of several that torch's launcher started."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from core.domain.labels import label_set
from core.domain.training import TrainingSettings
from core.training.distributed import joined
from core.training.fold import FoldSetup
from core.training.loop import train_fold
from tests.core.training.small_training import CONFIGURATION, Listener, ball

STEPS = 20


def setup_of(folder: Path, batch_size: int, *, batch_dice: bool, chosen: dict[str, Any]) -> FoldSetup:
    """Each epoch is one step, so that each epoch's record holds one loss."""
    return FoldSetup(
        training_cases={name: ball(number) for number, name in enumerate("abcd")},
        validation_cases={"e": ball(2)},
        configuration=CONFIGURATION.model_copy(update={"batch_size": batch_size, "batch_dice": batch_dice}),
        labels=label_set({"background": 0, "ball": 1}, None),
        settings=TrainingSettings(
            epochs=STEPS, iterations_per_epoch=1, validation_iterations_per_epoch=1, **chosen
        ),
        folder=folder,
        device="cpu",
        precision="fp32",
    )


def main() -> None:
    """Take folder, batch size, batch dice and further settings from the command line."""
    from dataclasses import replace

    torch.set_num_threads(1)
    folder, batch_size, batch_dice, chosen = sys.argv[1:]
    setup = setup_of(
        Path(folder), int(batch_size), batch_dice=batch_dice == "batch", chosen=json.loads(chosen)
    )
    with joined() as ranks:
        train_fold(replace(setup, ranks=ranks), Listener())


if __name__ == "__main__":
    main()
