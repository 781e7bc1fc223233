"""Two processes that torch's launcher starts learn what one process learns from the whole batch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.domain.training import EpochRecord
from core.training.loop import train_fold
from core.training.ranks import Ranks
from tests.core.training.small_training import Listener
from tests.core.training.together import STEPS, setup_of

ROOT = Path(__file__).resolve().parents[3]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def records(folder: Path) -> list[EpochRecord]:
    return [
        EpochRecord.model_validate_json(line) for line in (folder / "epochs.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize(
    ("batch_size", "batch_dice", "chosen"),
    [
        (2, False, {}),
        (3, False, {}),
        (3, True, {"deep_supervision": False}),
        (
            4,
            True,
            {"loss": "dice_ce", "label_smoothing": 0.1, "optimizer": "adamw", "initial_learning_rate": 1e-3},
        ),
        (3, False, {"loss": "topk"}),
    ],
    ids=[
        "even",
        "uneven",
        "uneven, batch dice",
        "even, batch dice, plain loss, AdamW",
        "uneven, hardest voxels",
    ],
)
def test_two_processes_learn_what_one_learns(
    tmp_path: Path, *, batch_size: int, batch_dice: bool, chosen: dict[str, Any]
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = Listener()
    train_fold(setup_of(tmp_path / "one", batch_size, batch_dice=batch_dice, chosen=chosen), alone)
    torch.set_num_threads(threads)

    arguments = [tmp_path / "two", str(batch_size), "batch" if batch_dice else "sample", json.dumps(chosen)]
    command = [*LAUNCHER, "-m", "tests.core.training.together", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    together = records(tmp_path / "two")
    assert len(together) == len(alone.epochs) == STEPS
    differences = [
        max(
            abs(one.train_loss - two.train_loss), abs((one.validation_loss or 0) - (two.validation_loss or 0))
        )
        for one, two in zip(alone.epochs, together, strict=True)
    ]
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two")]
    moved = max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0])
    print(f"largest difference over {STEPS} steps: loss {max(differences):.1e}, weights {moved:.1e}")  # noqa: T201
    assert differences[0] < 2e-6
    assert max(differences) < 1e-4
    assert [one.pseudo_dice for one in alone.epochs[:3]] == [two.pseudo_dice for two in together[:3]]


def test_shares_of_a_batch_are_even_and_the_first_are_larger() -> None:
    def shares(batch_size: int, count: int) -> list[list[int]]:
        return [
            list(range(batch_size))[Ranks(rank=rank, count=count).share(batch_size)] for rank in range(count)
        ]

    assert shares(5, 2) == [[0, 1, 2], [3, 4]]
    assert shares(9, 4) == [[0, 1, 2], [3, 4], [5, 6], [7, 8]]
    assert shares(2, 2) == [[0], [1]]


def test_more_processes_than_samples_are_refused(tmp_path: Path) -> None:
    command = [*LAUNCHER, "-m", "tests.core.training.together", str(tmp_path), "1", "sample", "{}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode != 0
    assert "a batch of 1 cannot be shared by 2 processes" in done.stderr
