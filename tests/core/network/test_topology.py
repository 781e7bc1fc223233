import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.domain.plan import Architecture
from core.errors import ModelError, PlanError, UnknownNameError
from core.network.unet import build_network
from core.network.weights import canonical, expanded

GOLDENS = Path(__file__).resolve().parents[3] / "../shared/goldens"
TOPOLOGIES = sorted((GOLDENS / "losses_goldens/topology").glob("*.json"))
TINY_NETS = sorted((GOLDENS / "inference_goldens/tiny_nets").glob("*"))


def architecture(kind: str = "plain", stages: int = 4, axes: int = 3, **changes: Any) -> Architecture:
    """An isotropic network with the features and blocks that the planner would choose."""
    limit = 512 if axes == 2 else 320
    plain = kind == "plain"
    arguments: dict[str, Any] = {
        "n_stages": stages,
        "features_per_stage": [min(32 * 2**i, limit) for i in range(stages)],
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": [[3] * axes] * stages,
        "strides": [[1] * axes] + [[2] * axes] * (stages - 1),
        "n_conv_per_stage_decoder": [2 if plain else 1] * (stages - 1),
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    if plain:
        arguments["n_conv_per_stage"] = [2] * stages
    else:
        arguments["n_blocks_per_stage"] = [1, 3, 4, 6, 6, 6, 6, 6][:stages]
    name = "PlainConvUNet" if plain else "ResidualEncoderUNet"
    return Architecture.model_validate(
        {"network_class_name": f"some.where.unet.{name}", "arch_kwargs": arguments | changes}
    )


@pytest.mark.parametrize(
    ("kind", "axes", "stages", "counts"),
    [
        ("plain", 3, 4, (5_603_177, 68, 188)),
        ("plain", 3, 6, (31_196_399, 108, 292)),
        ("plain", 2, 8, (46_326_581, 148, 396)),
        ("residual", 3, 4, (25_895_593, 149, 536)),
        ("residual", 3, 6, (102_350_575, 264, 956)),
        ("residual", 2, 8, (140_019_061, 376, 1_364)),
    ],
)
def test_networks_have_the_counted_parameters(
    kind: str, axes: int, stages: int, counts: tuple[int, int, int]
) -> None:
    network = build_network(architecture(kind, stages, axes), 1, 3, seed=None)

    weights = list(network.parameters())
    assert counts == (sum(map(torch.numel, weights)), len(weights), len(expanded(network.state_dict())))
    assert len(network.state_dict()) == len(weights)


def test_a_plan_names_what_is_known_and_nothing_is_imported() -> None:
    unknown = architecture().model_copy(update={"network_class_name": "os.system"})

    with pytest.raises(UnknownNameError, match="PlainConvUNet"):
        build_network(unknown, 1, 3)
    with pytest.raises(UnknownNameError, match="Conv3d"):
        build_network(architecture(conv_op="os.system"), 1, 3)
    with pytest.raises(PlanError, match="dropout_op"):
        build_network(architecture(dropout_op="torch.nn.Dropout3d"), 1, 3)
    with pytest.raises(PlanError, match="kernel_sizes needs 4"):
        build_network(architecture(kernel_sizes=[[3, 3, 3]]), 1, 3)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_same_seed_same_weights_and_the_global_generator_is_left_alone(kind: str) -> None:
    small = architecture(kind, 2, 2, features_per_stage=[4, 8])
    before = torch.get_rng_state()

    one, same, other = (build_network(small, 1, 3, seed=seed).state_dict() for seed in (7, 7, 8))

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["decoder.transpconvs.0.weight"], other["decoder.transpconvs.0.weight"])


def test_weights_are_he_normal_by_fan_in() -> None:
    state = build_network(architecture(), 1, 3).state_dict()
    gain = (2 / (1 + 0.01**2)) ** 0.5

    assert state["encoder.stages.3.0.convs.1.conv.weight"].std() == pytest.approx(
        gain / (256 * 27) ** 0.5, rel=0.01
    )
    assert state["decoder.transpconvs.0.weight"].std() == pytest.approx(gain / (128 * 8) ** 0.5, rel=0.01)
    assert not state["decoder.seg_layers.2.bias"].any()
    assert (state["encoder.stages.0.0.convs.0.norm.weight"] == 1).all()


def test_a_fresh_residual_block_is_its_shortcut() -> None:
    network = build_network(architecture("residual", 2, 2, features_per_stage=[4, 8]), 1, 3)
    block = network.get_submodule("encoder.stages.0.blocks.0")
    features = torch.rand(2, 4, 8, 8)

    assert torch.equal(block(features), features)


@pytest.mark.parametrize("features", [[4, 8, 8], [4, 4, 8]], ids=["projected", "pooled"])
@pytest.mark.parametrize("axes", [2, 3])
def test_residual_networks_train_in_bfloat16(axes: int, features: list[int]) -> None:
    network = build_network(architecture("residual", 3, axes, features_per_stage=features), 1, 2)
    voxels = torch.rand(2, 1, *[16] * axes, generator=torch.Generator().manual_seed(0))
    exact = network(voxels)[0]

    with torch.autocast("cpu", torch.bfloat16):
        logits = network(voxels)[0]
    logits.float().square().mean().backward()

    assert logits.dtype == torch.bfloat16
    assert (logits - exact).abs().max() < 0.05 * exact.abs().max()
    assert network.get_parameter("encoder.stages.0.blocks.0.conv1.conv.weight").grad is not None


def test_a_pooled_projection_is_pooling_then_projection() -> None:
    network = build_network(architecture("residual", 2, 3, features_per_stage=[4, 8]), 1, 2)
    shortcut = network.get_submodule("encoder.stages.1.blocks.0.skip")
    conv, norm = (shortcut.get_submodule(name) for name in ("1.conv", "1.norm"))
    features = torch.rand(2, 4, 6, 8, 4)

    expected = norm(conv(torch.nn.functional.avg_pool3d(features, 2, 2)))

    torch.testing.assert_close(shortcut(features), expected, atol=1e-4, rtol=1e-4)


def test_deep_supervision_gives_every_resolution_and_its_absence_the_highest() -> None:
    network = build_network(architecture(stages=4, axes=2, features_per_stage=[4, 4, 4, 4]), 2, 3)
    voxels = torch.rand(1, 2, 16, 24)

    every = network(voxels)
    network.deep_supervision = False
    highest = network(voxels)

    assert [tuple(logits.shape) for logits in every] == [(1, 3, 16, 24), (1, 3, 8, 12), (1, 3, 4, 6)]
    assert torch.equal(every[0], highest)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_official_names_and_back(kind: str) -> None:
    state = build_network(architecture(kind, 3, 2, features_per_stage=[4, 8, 8]), 1, 2).state_dict()

    back = canonical({f"module._orig_mod.{name}": tensor.clone() for name, tensor in expanded(state).items()})

    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_an_alias_with_other_values_is_refused() -> None:
    state = build_network(architecture(stages=2, axes=2, features_per_stage=[4, 8]), 1, 2).state_dict()
    official = expanded(state)
    official["decoder.encoder.stages.0.0.convs.0.all_modules.0.bias"] = torch.ones(4)

    with pytest.raises(ModelError, match="contradict"):
        canonical(official)


@pytest.mark.parity
@pytest.mark.skipif(not TOPOLOGIES, reason="../shared is absent: no recorded topologies")
@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_topology_equals_the_recorded_one(path: Path) -> None:
    recorded = json.loads(path.read_text())
    recipe = Architecture.model_validate(recorded["architecture"])
    network = build_network(recipe, recorded["input_channels"], recorded["output_channels"], seed=None)

    official = expanded(network.state_dict())

    assert {name: list(tensor.shape) for name, tensor in official.items()} == recorded["state_dict"]
    assert list(official) == list(recorded["state_dict"])
    assert sum(weight.numel() for weight in network.parameters()) == recorded["n_parameters"]
    voxels = torch.empty(2, recorded["input_channels"], *recorded["patch_size"], device="meta")
    shapes = [list(logits.shape) for logits in network(voxels)]
    assert shapes == recorded["deep_supervision_output_shapes_batch2"]


@pytest.mark.parity
@pytest.mark.skipif(not TINY_NETS, reason="../shared is absent: no recorded forward passes")
@pytest.mark.parametrize("folder", TINY_NETS, ids=lambda folder: folder.name)
def test_forward_pass_equals_the_recorded_one(folder: Path) -> None:
    plans = json.loads((folder / "plans.json").read_text())
    (configuration,) = plans["configurations"].values()
    recorded = np.load(folder / "dev.npz")
    weights = {name: torch.from_numpy(array) for name, array in np.load(folder / "state_dict.npz").items()}
    inputs, outputs = recorded["forward_in"], recorded["forward_out"]
    recipe = Architecture.model_validate(configuration["architecture"])
    network = build_network(recipe, inputs.shape[1], outputs.shape[1], seed=None)
    network.load_state_dict(canonical(weights), assign=True)
    network.deep_supervision = False

    with torch.no_grad():
        logits = network(torch.from_numpy(inputs))

    difference = (logits - torch.from_numpy(outputs)).abs().max().item()
    print(f"{folder.name}: largest difference {difference:.2e}")  # noqa: T201 - shown with pytest -s
    assert difference <= 5e-5
