"""Results of the official tools, as small as they can be, and checkpoints that are not what they say."""

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.domain.dataset import DatasetDescription
from core.domain.plan import Plan
from core.domain.stages import input_channels
from core.network.unet import build_network
from core.network.weights import expanded
from tests.core.inference.conftest import DATASET, PLANS

NAME = "Dataset901_Small"
TRAINER = "nnUNetTrainer"

Files = dict[str, bytes]
"""By their names below the folder of results."""


def folder_of(configuration: str, trainer: str = TRAINER) -> str:
    return f"{NAME}/{trainer}__nnUNetPlans__{configuration}"


def drawn_weights(configuration: str, seed: int, plans: Mapping[str, Any] = PLANS) -> dict[str, Tensor]:
    chosen = Plan.model_validate(plans).configuration(configuration)
    labels = DatasetDescription.model_validate(DATASET).label_set()
    channels = input_channels(chosen, labels)
    return build_network(chosen.architecture, channels, len(labels.heads), seed=seed).state_dict()


def saved(contents: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(contents, stream)
    return stream.getvalue()


def checkpoint(configuration: str, weights: Mapping[str, Tensor], **more: Any) -> dict[str, Any]:
    """What a trainer saves: all aliases, numpy's scores, a device."""
    return {
        "network_weights": OrderedDict(expanded(weights)),
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "dice_per_class_or_region": [[np.float32(0.25)]]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 7,
        "init_args": {
            "plans": {},
            "configuration": configuration,
            "fold": 0,
            "device": torch.device("cuda", 0),
        },
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": (0, 2),
        **more,
    }


def results(
    configuration: str = "3d_fullres",
    folds: Sequence[int | str] = (0, 1),
    *,
    plans: Mapping[str, Any] = PLANS,
    dataset: Mapping[str, Any] = DATASET,
    trainer: str = TRAINER,
    file: str = "checkpoint_final.pth",
    seed: int = 0,
    **more: Any,
) -> Files:
    """The files of one model in a folder of results."""
    top = folder_of(configuration, trainer)
    files = {
        f"{top}/plans.json": json.dumps(plans).encode(),
        f"{top}/dataset.json": json.dumps(dataset).encode(),
    }
    for number, fold in enumerate(folds):
        weights = drawn_weights(configuration, seed + number, plans)
        contents = checkpoint(configuration, weights, **{"trainer_name": trainer, **more})
        files[f"{top}/fold_{fold}/{file}"] = saved(contents)
    return files


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unpacked(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


class Storage:
    """The values of a tensor, said to be so many."""

    def __init__(self, key: str, count: int) -> None:
        self.key, self.count = key, count


class Said:
    """What a checkpoint says of a tensor, whatever its file holds."""

    def __init__(self, count: int, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> None:
        self.arguments: tuple[Any, ...] = (
            Storage("0", count),
            offset,
            tuple(shape),
            tuple(strides),
            False,
            OrderedDict(),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (torch._utils._rebuild_tensor_v2, self.arguments)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, Storage):
            return ("storage", torch.FloatStorage, obj.key, "cpu", obj.count)
        return None


def lying(contents: Any, values: bytes = bytes(48)) -> bytes:
    """A checkpoint whose pickle is written by hand; its one storage has these bytes."""
    said, stream = io.BytesIO(), io.BytesIO()
    _Pickler(said, protocol=2).dump(contents)
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", said.getvalue())
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", values)
    return stream.getvalue()
