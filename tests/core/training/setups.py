"""Cases and rules that batches are drawn from in tests: small blocks of labels in noise."""

from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from core.domain.geometry import Shape
from core.domain.labels import LabelSet, label_key, label_set
from core.domain.training import TrainingSettings
from core.io.case_store import CaseProperties, PreprocessedCase
from core.io.image import FloatArray, Geometry, LabelArray
from core.training.patches import Batch
from core.training.samples import SamplingSetup
from core.training.targets import Scales
from tests.factories import voxels_of
from tests.plans import small_plan

CPU = torch.device("cpu")
SETTINGS = {"iterations_per_epoch": 4, "validation_iterations_per_epoch": 2, "seed": 3}
LABELS = label_set({"background": 0, "block": 1, "seed": 2}, None)
REGIONS = label_set({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])


def uncropped(shape: Shape) -> CaseProperties:
    """What is known of a case of which nothing was cropped or resampled, with voxels of 1 mm."""
    geometry = Geometry(
        spacing=(1, 1, 1),
        file_spacing_xyz=(1, 1, 1),
        origin_xyz=(0, 0, 0),
        direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
    )
    return CaseProperties(
        geometry=geometry,
        spacing=(1, 1, 1),
        shape_before_cropping=shape,
        bbox_used_for_cropping=((0, shape[0]), (0, shape[1]), (0, shape[2])),
        shape_after_cropping_and_before_resampling=shape,
    )


def case_of(
    voxels_czyx: FloatArray, labels_zyx: LabelArray | None, labels: LabelSet = LABELS
) -> PreprocessedCase:
    shape = (voxels_czyx.shape[1], voxels_czyx.shape[2], voxels_czyx.shape[3])
    wanted = [*labels.foreground_heads, *([] if labels.ignore is None else [labels.annotated])]
    shown_zyx = np.full(shape, -9) if labels_zyx is None else labels_zyx
    locations = {label_key(head): voxels_of(np.isin(shown_zyx, head)) for head in wanted}
    return PreprocessedCase(voxels_czyx, labels_zyx, uncropped(shape), locations)


def block_with_seed(number: int, labels: LabelSet = LABELS) -> PreprocessedCase:
    """A block of label 1 that holds 27 voxels of label 2, in noise that tells where each voxel was."""
    labels_zyx = np.zeros((30, 34, 38), np.int8)
    labels_zyx[8:24, 8:26, 8:30] = 1
    labels_zyx[14:17, 15:18, 18:21] = 2
    labels_zyx[:4] = -1
    voxels = np.random.default_rng(number).normal(size=(2, *labels_zyx.shape)).astype(np.float32)
    return case_of(voxels, labels_zyx, labels)


def setup_of(
    *patch: int,
    is_training: bool = True,
    labels: LabelSet = LABELS,
    scales: Scales = (),
    **settings: Any,
) -> SamplingSetup:
    entries = {"patch_size": list(patch), "batch_size": 3}
    _, configuration = small_plan([1] * len(patch), schemes=["ZScoreNormalization"] * 2, entries=entries)
    return SamplingSetup(
        cases=MappingProxyType({f"case_{number}": block_with_seed(number, labels) for number in range(3)}),
        configuration=configuration,
        labels=labels,
        masked_channels=(True, False),
        settings=TrainingSettings.model_validate(SETTINGS | settings),
        deep_supervision_scales=scales,
        is_training=is_training,
    )


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.case_ids == second.case_ids
    assert torch.equal(first.voxels_bczyx, second.voxels_bczyx)
    assert all(torch.equal(a, b) for a, b in zip(first.targets, second.targets, strict=True))
