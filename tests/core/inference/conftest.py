"""A small trained-model folder with untrained weights."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from core.domain.dataset import DatasetDescription
from core.domain.model import ModelRecord
from core.domain.plan import Plan
from core.domain.stages import input_channels
from core.network.unet import build_network

INTERPOLATION = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
RESAMPLING = "resample_data_or_seg_to_shape"

DATASET: dict[str, Any] = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "lesion": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}

ARCHITECTURE: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}

PLANS: dict[str, Any] = {
    "dataset_name": "Dataset901_Small",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [1, 0, 2],
    "transpose_backward": [1, 0, 2],
    "configurations": {
        "3d_fullres": {
            "patch_size": [8, 8, 8],
            "spacing": [1.0, 1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization", "ZScoreNormalization"],
            "use_mask_for_norm": [False, False],
            "resampling_fn_data": RESAMPLING,
            "resampling_fn_data_kwargs": {**INTERPOLATION, "order": 3},
            "resampling_fn_seg": RESAMPLING,
            "resampling_fn_seg_kwargs": {**INTERPOLATION, "is_seg": True},
            "resampling_fn_probabilities": RESAMPLING,
            "resampling_fn_probabilities_kwargs": INTERPOLATION,
            "architecture": ARCHITECTURE,
        },
        "3d_lowres": {
            "inherits_from": "3d_fullres",
            "spacing": [2.0, 2.0, 2.0],
            "next_stage": "3d_cascade_fullres",
        },
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
    "foreground_intensity_properties_per_channel": {},
}


@pytest.fixture
def description() -> DatasetDescription:
    return DatasetDescription.model_validate(DATASET)


@pytest.fixture
def plan() -> Plan:
    return Plan.model_validate(PLANS)


@pytest.fixture
def model_folder(tmp_path: Path, plan: Plan) -> Path:
    return write_model(tmp_path / "model", plan, "3d_fullres")


@pytest.fixture
def cascade_folder(tmp_path: Path, plan: Plan) -> Path:
    folder = write_model(tmp_path / "cascade", plan, "3d_cascade_fullres", seed=2)
    write_model(folder / "previous", plan, "3d_lowres", seed=4)
    return folder


def write_model(folder: Path, plan: Plan, name: str, *, seed: int = 0) -> Path:
    record = ModelRecord(configuration=name, mirror_axes=(0, 1, 2))
    configuration, labels = plan.configuration(name), DatasetDescription.model_validate(DATASET).label_set()
    for fold in (0, 1):
        (folder / f"fold_{fold}").mkdir(parents=True)
        channels = input_channels(configuration, labels)
        network = build_network(configuration.architecture, channels, len(labels.heads), seed=seed + fold)
        save_file(network.state_dict(), folder / f"fold_{fold}" / "weights.safetensors")
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    (folder / "plans.json").write_text(json.dumps(PLANS))
    (folder / "model.json").write_text(json.dumps(record.to_json()))
    return folder
