import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from core.domain.dataset import DatasetDescription
from core.domain.labels import label_set
from core.domain.model import PrecisionName
from core.domain.plan import Architecture, Plan
from core.domain.training import TrainingSettings
from core.network.unet import build_network
from core.network.weights import canonical
from core.training.dice_ce import Rules, fused_loss
from core.training.optimizer import set_learning_rate
from core.training.patches import Batch
from core.training.step import (
    TrainingState,
    Validation,
    make_training_state,
    overlap,
    train_step,
    validate,
)

GOLDENS = Path(__file__).resolve().parents[3] / "../shared/goldens/losses_goldens/train_steps"
CPU = torch.device("cpu")
LABELS = label_set({"background": 0, "one": 1, "two": 2}, None)
REGIONS = label_set({"background": 0, "whole": (1, 2), "core": 2, "ignore": 3}, (1, 2))


def test_overlap_counts_hits_wrong_and_missed_voxels_but_ignored_ones() -> None:
    labels = label_set({"background": 0, "one": 1, "two": 2, "ignore": 3}, None)
    found = torch.tensor([0, 1, 1, 2, 2, 2])
    truth = torch.tensor([0, 1, 2, 2, 3, 0])
    logits_bkyx = torch.nn.functional.one_hot(found, 3).T.float().view(1, 3, 2, 3)

    counts = overlap(logits_bkyx, truth.view(1, 1, 2, 3), labels)

    assert counts.tolist() == [[1, 1], [1, 1], [0, 1]]


def test_overlap_of_regions() -> None:
    logits = torch.tensor([[5.0, 5, -5, -5, 5], [5, -5, 5, -5, 5]]).view(1, 2, 1, 5)
    truth = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]).view(1, 3, 1, 5) > 0

    counts = overlap(logits, truth, REGIONS)

    assert counts.tolist() == [[2, 1], [0, 1], [1, 0]]


def test_a_class_that_is_nowhere_has_no_dice_and_counts_in_no_mean() -> None:
    assert Validation(0.0, (0.5, None, 0.7)).mean_pseudo_dice == pytest.approx(0.6)
    assert Validation(0.0, (None, None)).mean_pseudo_dice is None


def small_state(*, precision: PrecisionName = "fp32", epochs: int = 1) -> TrainingState:
    architecture = Architecture.model_validate(
        {
            "network_class_name": "PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [8, 16, 16],
                "conv_op": "torch.nn.modules.conv.Conv2d",
                "kernel_sizes": [[3, 3]] * 3,
                "strides": [[1, 1], [2, 2], [2, 2]],
                "n_conv_per_stage": [2, 2, 2],
                "n_conv_per_stage_decoder": [2, 2],
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                "nonlin": "torch.nn.LeakyReLU",
            },
        }
    )
    return make_training_state(
        build_network(architecture, 1, 3), TrainingSettings(epochs=epochs), precision, CPU
    )


def stripes() -> Batch:
    """Two images whose label can be read from their intensity."""
    labels_byx = (torch.arange(16) // 6).expand(2, 16, 16)
    voxels = labels_byx.unsqueeze(1) + 0.1 * torch.randn(
        2, 1, 16, 16, generator=torch.Generator().manual_seed(0)
    )
    targets = (labels_byx.unsqueeze(1), labels_byx[:, ::2, ::2].unsqueeze(1))
    return Batch(voxels, targets, ("a", "b"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_few_steps_learn_and_validation_sees_it(precision: PrecisionName) -> None:
    state, loss = small_state(precision=precision), fused_loss(LABELS, Rules(batch_dice=False))
    before = validate(state, [stripes()], loss, LABELS)

    losses = [train_step(state, stripes(), loss, 12.0).item() for _ in range(30)]
    after = validate(state, [stripes(), stripes()], loss, LABELS)

    assert before.loss is not None
    assert after.loss is not None
    assert losses[0] == pytest.approx(before.loss, abs=0.02)
    assert after.loss < losses[0] - 0.5
    assert min(dice or 0 for dice in after.pseudo_dice) > 0.8
    assert state.network.training


def test_logits_that_are_no_numbers_have_neither_loss_nor_dice() -> None:
    state, batch = small_state(), stripes()
    spoilt = Batch(torch.full_like(batch.voxels_bczyx, torch.inf), batch.targets, batch.case_ids)

    found = validate(state, [batch, spoilt], fused_loss(LABELS, Rules(batch_dice=True)), LABELS)

    assert found == Validation(None, (None, None))


def test_validation_changes_nothing() -> None:
    state, loss = small_state(), fused_loss(LABELS, Rules(batch_dice=True))
    before = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}

    validate(state, [stripes()], loss, LABELS)

    assert all(torch.equal(tensor, before[name]) for name, tensor in state.network.state_dict().items())
    assert all(parameter.grad is None for parameter in state.network.parameters())


def test_long_gradients_are_shortened() -> None:
    state, loss = small_state(), fused_loss(LABELS, Rules(batch_dice=False))

    train_step(state, stripes(), loss, 1e-3)

    norms = [parameter.grad.norm() for parameter in state.network.parameters() if parameter.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_the_head_without_weight_stays_as_it_was() -> None:
    state, loss = small_state(), fused_loss(LABELS, Rules(batch_dice=False))
    coarsest = state.network.get_parameter("decoder.seg_layers.0.weight").clone()

    train_step(state, stripes(), loss, 12.0)

    assert torch.equal(state.network.get_parameter("decoder.seg_layers.0.weight"), coarsest)


@pytest.mark.parity
@pytest.mark.skipif(not GOLDENS.is_dir(), reason="../shared is absent: no recorded training steps")
@pytest.mark.parametrize("name", ["plain3d", "resenc2d"])
def test_steps_equal_the_recorded_ones(name: str) -> None:
    recorded, arrays = (
        json.loads((GOLDENS / name / "steps.json").read_text()),
        np.load(GOLDENS / name / "steps.npz"),
    )
    plan = Plan.parse((GOLDENS / name / "plans.json").read_bytes())
    (configuration,) = [plan.configuration(key) for key in plan.configurations]
    description = DatasetDescription.parse((GOLDENS / name / "dataset.json").read_bytes())
    labels = description.label_set()
    network = build_network(configuration.architecture, len(description.channels), len(labels.heads))
    network.load_state_dict(weights(arrays, "sd_before/"))
    state = make_training_state(network, TrainingSettings(), "fp32", CPU)
    loss = fused_loss(labels, Rules(batch_dice=configuration.batch_dice))

    losses = []
    for index, rate in enumerate(recorded["lr"]):
        set_learning_rate(state.optimizer, rate)
        losses.append(train_step(state, batch(arrays, index), loss, recorded["grad_clip"]).item())

    of_losses = max(abs(ours - theirs) for ours, theirs in zip(losses, recorded["losses"], strict=True))
    after = weights(arrays, "sd_after/")
    of_weights = max((network.state_dict()[key] - after[key]).abs().max().item() for key in after)
    print(f"{name}: loss {of_losses:.1e}, weights {of_weights:.1e}")  # noqa: T201 - shown with pytest -s
    assert of_losses < 2e-5
    assert of_weights < 2e-5


def weights(arrays: Mapping[str, npt.NDArray[np.float32]], prefix: str) -> dict[str, Tensor]:
    named = {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
    return canonical({key: torch.from_numpy(array) for key, array in named.items()})


def batch(arrays: Mapping[str, npt.NDArray[np.float32]], index: int) -> Batch:
    voxels, *targets = (
        torch.from_numpy(arrays[f"step{index}/{name}"]) for name in ("data", "target0", "target1")
    )
    return Batch(voxels, tuple(targets), ("a", "b"))
