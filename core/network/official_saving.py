"""Checkpoints that the official tools load: the same bytes for the same weights."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from core.domain.record import Record
from core.domain.training import Fold
from core.network.official import WEIGHTS
from core.network.weights import expanded

LOGGED: Final = (
    "mean_fg_dice",
    "ema_fg_dice",
    "dice_per_class_or_region",
    "train_losses",
    "val_losses",
    "lrs",
    "epoch_start_timestamps",
    "epoch_end_timestamps",
)
"""Lists with an entry per epoch; Engine specification A 1.12.1."""

RUNNING: Final = (".running_mean", ".running_var", ".num_batches_tracked")
"""Ends of the names of tensors that no optimizer changes."""


class CheckpointFacts(Record):
    """What a checkpoint says beside its weights."""

    plans: dict[str, Any]
    configuration: str
    fold: Fold
    dataset_json: dict[str, Any]
    trainer: str
    mirror_axes: tuple[int, ...]
    epochs: int
    """Trained; the official tools go on from there."""


def save_official_checkpoint(weights: Mapping[str, Tensor], facts: CheckpointFacts, path: Path) -> None:
    """Write a checkpoint_final.pth: tensors under all names that the official network has for them, and plain values.

    The optimizer begins anew, should anybody go on training.

    Args:
        weights: Canonical names, in the network's order; float32.
        facts: The rest.
        path: New; its name, without the ending, stands in the file.

    Source:
        Engine specification A 1.12, 1.15, B 1.12.
    """
    trained = [name for name in weights if not name.endswith(RUNNING)]
    group = {
        "lr": 0.01,
        "momentum": 0.99,
        "dampening": 0,
        "weight_decay": 3e-05,
        "nesterov": True,
        "maximize": False,
        "foreach": None,
        "differentiable": False,
        "fused": None,
        "initial_lr": 0.01,
        "params": list(range(len(trained))),
    }
    contents = {
        WEIGHTS: OrderedDict(expanded(weights)),
        "optimizer_state": {"state": {}, "param_groups": [group]},
        "grad_scaler_state": None,
        "logging": {name: [] for name in LOGGED},
        "_best_ema": None,
        "current_epoch": facts.epochs,
        "init_args": {
            "plans": facts.plans,
            "configuration": facts.configuration,
            "fold": facts.fold,
            "dataset_json": facts.dataset_json,
            "device": "cpu",
        },
        "trainer_name": facts.trainer,
        "inference_allowed_mirroring_axes": facts.mirror_axes or None,
    }
    torch.save(contents, path)
