"""Small trainings over made datasets: seconds each, hand-made plans."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core import pipeline
from core.domain.plan import Plan
from core.domain.progress import Observer, SilentObserver
from core.domain.report import EvaluationReport
from core.domain.training import Fold, TrainingSettings
from core.pipeline import TrainOrder
from tests.factories import Recipe, case_name, make_dataset
from tests.plans import small_plan

SETTINGS = {
    "epochs": 1,
    "iterations_per_epoch": 2,
    "validation_iterations_per_epoch": 1,
    "augmentation": "none",
}

PLAIN = {"network_class_name": "PlainConvUNet", "blocks": {"n_conv_per_stage": [1, 1]}}
RESIDUAL = {"network_class_name": "ResidualEncoderUNet", "blocks": {"n_blocks_per_stage": [1, 1]}}


def architecture(
    axes: int, kind: Mapping[str, Any] = PLAIN, strides: Sequence[int] | None = None
) -> dict[str, Any]:
    """A U-Net of two stages."""
    name = f"torch.nn.modules.instancenorm.InstanceNorm{axes}d"
    return {
        "network_class_name": kind["network_class_name"],
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [[3] * axes] * 2,
            "strides": [[1] * axes, list(strides or [2] * axes)],
            "n_conv_per_stage_decoder": [1],
            "norm_op": name,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
            **kind["blocks"],
        },
    }


def plan_of(
    spacing: Sequence[float] = (1, 1, 1),
    *,
    kind: Mapping[str, Any] = PLAIN,
    entries: Mapping[str, Any] | None = None,
    **choices: Any,
) -> Plan:
    """A plan of the one configuration `small`, which can be trained."""
    axes = len(spacing)
    plan, _ = small_plan(
        spacing,
        entries={"architecture": architecture(axes, kind), "patch_size": [8] * axes} | dict(entries or {}),
        **choices,
    )
    return plan


def cascade_plan(**low: Any) -> Plan:
    """A plan of 3d_lowres, whose segmentation 3d_cascade_fullres refines."""
    plan = plan_of((1, 1, 1))
    full = plan.configurations["small"]
    configurations = {
        "3d_lowres": full | {"spacing": [2.0, 2.0, 2.0], "next_stage": "3d_cascade_fullres"} | low,
        "3d_fullres": full,
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    return plan.model_copy(update={"configurations": configurations})


def dataset(folder: Path, recipe: Recipe, *, folds: int = 2) -> Path:
    """A dataset with manual splits: case k validates in fold k modulo their number."""
    raw = make_dataset(folder, recipe)
    names = [case_name(number) for number in range(recipe.cases)]
    splits = [
        {"train": [n for k, n in enumerate(names) if k % folds != fold], "val": names[fold::folds]}
        for fold in range(folds)
    ]
    (raw / "splits_final.json").write_text(json.dumps(splits))
    return raw


def order_of(raw: Path, plan: Plan, name: str, model: Path, fold: Fold = 0, **settings: Any) -> TrainOrder:
    return TrainOrder(
        raw=raw,
        plan=plan,
        configuration=name,
        fold=fold,
        settings=TrainingSettings.model_validate(SETTINGS | settings),
        model=model,
        precision="fp32",
        device="cpu",
        threads=1,
    )


def train(order: TrainOrder, observer: Observer | None = None, **changes: Any) -> EvaluationReport:
    return pipeline.train(replace(order, **changes), observer or SilentObserver())
