"""A fold that trains in a second: three balls in noise, a network of two stages, and a listener."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core.domain.labels import label_key, label_set
from core.domain.plan import Configuration
from core.domain.progress import Progress
from core.domain.training import EpochRecord, TrainingSettings
from core.io.case_store import PreprocessedCase
from core.training.fold import FoldSetup
from tests.core.training.setups import uncropped
from tests.factories import voxels_of

LABELS = label_set({"background": 0, "ball": 1}, None)
CONFIGURATION = Configuration.model_validate(
    {
        "batch_size": 2,
        "patch_size": [8, 8, 8],
        "spacing": [1, 1, 1],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {},
        "resampling_fn_seg_kwargs": {},
        "resampling_fn_probabilities_kwargs": {},
        "architecture": {
            "network_class_name": "PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [4, 8],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * 2,
                "strides": [[1, 1, 1], [2, 2, 2]],
                "n_conv_per_stage": [2, 2],
                "n_conv_per_stage_decoder": [2],
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "nonlin": "torch.nn.LeakyReLU",
            },
        },
    }
)


def ball(seed: int) -> PreprocessedCase:
    """A bright ball in noise, as preprocessing would leave it."""
    z, y, x = np.ogrid[:12, :12, :12]
    labels_zyx = ((z - 6) ** 2 + (y - 6) ** 2 + (x - 5 - seed) ** 2 < 16).astype(np.int16)
    noise_zyx = np.random.default_rng(seed).normal(size=labels_zyx.shape)
    return PreprocessedCase(
        voxels_czyx=(2 * labels_zyx + 0.3 * noise_zyx)[None].astype(np.float32),
        labels_zyx=labels_zyx,
        properties=uncropped((12, 12, 12)),
        locations={label_key(1): voxels_of(labels_zyx > 0)},
    )


def setup_in(folder: Path, *, epochs: int = 3, **chosen: Any) -> FoldSetup:
    return FoldSetup(
        training_cases={"a": ball(0), "b": ball(1)},
        validation_cases={"c": ball(2)},
        configuration=CONFIGURATION,
        labels=LABELS,
        settings=TrainingSettings(
            epochs=epochs, iterations_per_epoch=4, validation_iterations_per_epoch=2, seed=5, **chosen
        ),
        folder=folder,
        device="cpu",
        precision="fp32",
    )


@dataclass
class Listener:
    """Takes note of everything, and asks to stop once `stops` is true of the iterations done."""

    stops: Callable[[int], bool] = lambda _done: False
    progress: list[Progress] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)

    def report(self, progress: Progress) -> None:
        self.progress.append(progress)

    def record_epoch(self, epoch: EpochRecord) -> None:
        self.epochs.append(epoch)

    def stop_requested(self) -> bool:
        return self.stops(self.progress[-1].done if self.progress else -1)


def recorded_epochs(folder: Path) -> list[EpochRecord]:
    return [
        EpochRecord.model_validate_json(line) for line in (folder / "epochs.jsonl").read_text().splitlines()
    ]
