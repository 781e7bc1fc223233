"""Networks that packages add: built, trained and used for prediction like ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from core.domain.labels import label_set
from core.domain.plan import Architecture
from core.domain.training import TrainingSettings
from core.errors import ExtensionError, PlanError, TrainingError, UnknownNameError
from core.extensions import Group
from core.network.contract import InFormat
from core.network.unet import build_network
from core.training.loss import LossSetup, make_loss
from core.training.patches import Batch
from core.training.step import make_training_state, train_step, validate
from core.training.targets import deep_supervision_scales, make_targets
from tests.core.packages import installed

CODE = """
import torch
from torch import nn

class Tokens(nn.Module):
    '''Normalizes over features, which no network of ours does; may return half of the resolution too.'''

    def __init__(self, channels, heads, width, outputs):
        super().__init__()
        self.deep_supervision = True
        self.outputs = outputs
        self.embed = nn.Linear(channels, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, heads)
        self.register_buffer("scale", torch.full((1,), 2.0), persistent=False)

    def forward(self, voxels):
        features = torch.relu(self.norm(self.embed(voxels.movedim(1, -1)))) * self.scale
        logits = self.head(features).movedim(-1, 1)
        if not self.deep_supervision or self.outputs == 1:
            return logits
        return logits, logits[:, :, ::2, ::2]

def tokens(arch_kwargs, input_channels, heads):
    return Tokens(input_channels, heads, arch_kwargs["width"], max(1, len(arch_kwargs.get("strides", [])) - 1))

def nothing(arch_kwargs, input_channels, heads):
    return None
"""
STRIDES = [[1, 1], [2, 2], [2, 2]]


@pytest.fixture(autouse=True)
def package(tmp_path: Path) -> Iterator[None]:
    entries = {"Tokens": "made_of_tokens:tokens", "Nothing": "made_of_tokens:nothing"}
    with installed(tmp_path, "made_of_tokens", CODE, {Group.ARCHITECTURE: entries}):
        yield


def architecture(name: str = "some.where.Tokens", **arguments: Any) -> Architecture:
    return Architecture.model_validate({"network_class_name": name, "arch_kwargs": {"width": 8, **arguments}})


def stripes(strides: list[list[int]]) -> Batch:
    """Two images whose label can be read from their intensity."""
    labels_byx = (torch.arange(16) // 6).expand(2, 16, 16)
    scales = deep_supervision_scales(architecture(strides=strides))
    targets = make_targets(labels_byx, label_set({"background": 0, "a": 1, "b": 2}, None), scales)
    return Batch(labels_byx.unsqueeze(1).float(), targets, ("a", "b"))


def test_it_is_built_with_the_weights_of_the_seed_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()

    one, same, other = (build_network(architecture(), 1, 3, seed=seed) for seed in (7, 7, 8))

    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.state_dict()["embed.weight"], same.state_dict()["embed.weight"])
    assert not torch.equal(one.state_dict()["embed.weight"], other.state_dict()["embed.weight"])


@pytest.mark.parametrize("strides", [[], STRIDES])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_with_one_output_and_with_several(strides: list[list[int]], precision: Any) -> None:
    labels = label_set({"background": 0, "a": 1, "b": 2}, None)
    settings = TrainingSettings()
    loss = make_loss(LossSetup(labels, batch_dice=True, settings=settings))
    network = build_network(architecture(strides=strides), 1, 3)
    state = make_training_state(network, settings, precision, torch.device("cpu"))

    losses = [train_step(state, stripes(strides), loss, 12.0).item() for _ in range(30)]
    after = validate(state, [stripes(strides)], loss, labels)

    assert losses[-1] < losses[0] - 0.5
    assert after.mean_pseudo_dice == pytest.approx(1, abs=0.1)


def test_fewer_outputs_than_stages_will_do() -> None:
    labels = label_set({"background": 0, "a": 1, "b": 2}, None)
    loss = make_loss(LossSetup(labels, batch_dice=True, settings=TrainingSettings()))
    network = build_network(architecture(), 1, 3)
    state = make_training_state(network, TrainingSettings(), "fp32", torch.device("cpu"))

    assert train_step(state, stripes(STRIDES), loss, 12.0).isfinite()


def test_more_outputs_than_its_strides_give_are_refused() -> None:
    labels = label_set({"background": 0, "a": 1, "b": 2}, None)
    loss = make_loss(LossSetup(labels, batch_dice=True, settings=TrainingSettings()))
    network = build_network(architecture(strides=STRIDES), 1, 3)
    state = make_training_state(network, TrainingSettings(), "fp32", torch.device("cpu"))

    with pytest.raises(
        TrainingError, match="returns 2 outputs, but by the strides in its arch_kwargs there is 1"
    ):
        train_step(state, stripes([]), loss, 12.0)


def test_prediction_computes_in_the_format_that_is_asked_for() -> None:
    network = build_network(architecture(), 1, 3)
    network.deep_supervision = False
    voxels = torch.randn(2, 1, 8, 8)

    with torch.no_grad():
        expected = network(voxels)
        short = InFormat(network, "bf16", torch.device("cpu"))(voxels.bfloat16())

    assert short.dtype == torch.bfloat16
    assert torch.allclose(short.float(), expected, atol=0.05)


def test_what_cannot_be_built_is_said_with_the_reason() -> None:
    without = Architecture.model_validate({"network_class_name": "Tokens", "arch_kwargs": {}})

    with pytest.raises(
        PlanError, match="the network Tokens cannot be built of its arch_kwargs: KeyError: 'width'"
    ):
        build_network(without, 1, 3)
    with pytest.raises(ExtensionError, match="the network Nothing is a NoneType instead of a torch module"):
        build_network(architecture("Nothing"), 1, 3)
    with pytest.raises(
        UnknownNameError, match="choose one of: Nothing, PlainConvUNet, ResidualEncoderUNet, Tokens"
    ):
        build_network(architecture("Other"), 1, 3)
