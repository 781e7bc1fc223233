"""Forward pass and sliding window of small networks, against what the reference recorded."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from core.domain.dataset import DatasetDescription
from core.domain.plan import Plan
from core.inference.slabs import Accumulator, fold_mean_logits
from core.inference.sliding_window import Window
from core.network.contract import Network
from core.network.unet import build_network

GOLDENS = Path(__file__).resolve().parents[3] / "../shared/goldens/inference_goldens/tiny_nets"
NETWORKS = {"plain2d": "2d", "plain3d": "3d_fullres", "resenc3d": "3d_fullres"}
FORWARD_TOLERANCE = 1e-4
SUM_TOLERANCE = 1e-2
"""Of logits summed in 16 bits."""

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        not GOLDENS.is_dir(), reason="the reference's recorded networks (../shared) are absent"
    ),
]


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[Network, tuple[int, ...], dict[str, npt.NDArray[Any]]]:
    folder = GOLDENS / request.param
    configuration = Plan.parse((folder / "plans.json").read_text()).configuration(NETWORKS[request.param])
    labels = DatasetDescription.parse((folder / "dataset.json").read_text()).label_set()
    network = build_network(configuration.architecture, 1, len(labels.heads))
    network.deep_supervision = False
    with np.load(folder / "state_dict.npz") as weights:
        network.load_state_dict({key: torch.tensor(weights[key]) for key in network.state_dict()})
    with np.load(folder / "dev.npz") as recorded:
        return network.eval(), configuration.patch_size, dict(recorded)


def test_logits_of_a_batch(network: tuple[Network, tuple[int, ...], dict[str, npt.NDArray[Any]]]) -> None:
    unet, _, recorded = network

    with torch.inference_mode():
        logits = unet(torch.tensor(recorded["forward_in"]))

    assert isinstance(logits, torch.Tensor)
    assert np.abs(logits.numpy() - recorded["forward_out"]).max() <= FORWARD_TOLERANCE


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("mirror", {"mirror": True}),
        ("nomirror", {}),
        ("nomirror_step0.75", {"step": 0.75}),
        ("nomirror_nogauss_step1", {"step": 1, "has_gaussian": False}),
    ],
)
def test_logits_of_an_image(
    network: tuple[Network, tuple[int, ...], dict[str, npt.NDArray[Any]]],
    image: int,
    name: str,
    variant: dict[str, Any],
) -> None:
    unet, patch, recorded = network
    options = dict(variant)
    axes = tuple(range(len(patch))) if options.pop("mirror", False) else ()
    expected = torch.tensor(recorded[f"logits{image}_{name}"]).float()
    voxels = torch.tensor(recorded[f"image{image}"])
    as_recorded = Accumulator(len(expected), torch.device("cpu"), torch.float16)

    logits = fold_mean_logits(
        [unet], voxels, Window(patch, mirror_axes=axes, **options), as_recorded, lambda _: None
    ).float()

    assert (logits - expected).abs().max() <= SUM_TOLERANCE
    assert (logits.argmax(0) == expected.argmax(0)).float().mean() >= 0.9999
