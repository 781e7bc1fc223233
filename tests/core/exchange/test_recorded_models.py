"""Models that the reference trained: imported, they compute what it recorded."""

import io
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core import pipeline
from core.domain.exchange import ImportOptions
from core.domain.model import PredictionOptions
from core.domain.progress import SilentObserver
from core.inference.model import load_model
from core.inference.predict import predict_image
from core.io.readers import read_image, read_labels
from tests.core.exchange.official import unpacked

GOLDENS = Path(__file__).resolve().parents[3] / "../shared/goldens"
IMAGES = GOLDENS.parent / "data/Dataset004_Hippocampus/imagesTr"
CPU = PredictionOptions(device="cpu", precision="fp32")
FORWARD_TOLERANCE = 1e-4
"""Of logits."""
AGREEMENT = 0.9999
"""Share of voxels; Engine specification B 15."""

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not GOLDENS.is_dir(), reason="the reference's recorded models (../shared) are absent"),
]


@pytest.mark.parametrize(("name", "axes"), [("2d", (0, 1)), ("3d_fullres", (0, 1, 2))])
def test_an_official_export_segments_a_case_as_recorded(
    tmp_path: Path, name: str, axes: tuple[int, ...]
) -> None:
    source = GOLDENS / f"models/hippocampus_{name}_fold0_no_optimizer.zip"
    recorded = GOLDENS / f"models/fold0_validation_{name.removesuffix('_fullres')}/hippocampus_037.nii.gz"

    pipeline.import_model(source, tmp_path / "model", ImportOptions(), SilentObserver())
    model = load_model(tmp_path / "model", CPU)
    image = read_image([IMAGES / "hippocampus_037_0000.nii.gz"], "SimpleITKIO")
    found = predict_image(model, image, CPU, SilentObserver())

    assert (model.configuration_name, model.mirror_axes) == (name, axes)
    assert (
        found.segmentation.labels_zyx == read_labels(recorded, "SimpleITKIO").labels_zyx
    ).mean() >= AGREEMENT


def results_of(folder: Path, configuration: str, patch: int) -> dict[str, bytes]:
    """A recorded network as the reference's results: all its names, its plan and its dataset."""
    with np.load(folder / "state_dict.npz") as weights:
        tensors = OrderedDict({name: torch.tensor(weights[name]) for name in weights})
    contents: dict[str, Any] = {
        "network_weights": tensors,
        "init_args": {"configuration": configuration},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": tuple(range(patch)),
    }
    stream = io.BytesIO()
    torch.save(contents, stream)
    top = f"Dataset001_Tiny/nnUNetTrainer__nnUNetPlans__{configuration}"
    return {
        f"{top}/plans.json": (folder / "plans.json").read_bytes(),
        f"{top}/dataset.json": (folder / "dataset.json").read_bytes(),
        f"{top}/fold_0/checkpoint_final.pth": stream.getvalue(),
    }


@pytest.mark.parametrize(
    ("network", "configuration"), [("plain2d", "2d"), ("plain3d", "3d_fullres"), ("resenc3d", "3d_fullres")]
)
def test_imported_networks_compute_what_is_recorded(tmp_path: Path, network: str, configuration: str) -> None:
    folder = GOLDENS / "inference_goldens/tiny_nets" / network
    axes = len(json.loads((folder / "plans.json").read_text())["configurations"][configuration]["patch_size"])
    unpacked(tmp_path / "results", results_of(folder, configuration, axes))

    pipeline.import_model(tmp_path / "results", tmp_path / "model", ImportOptions(), SilentObserver())
    model = load_model(tmp_path / "model", CPU)
    with np.load(folder / "dev.npz") as recorded, torch.inference_mode():
        logits = model.networks[0](torch.tensor(recorded["forward_in"]))
        difference = np.abs(logits.numpy() - recorded["forward_out"]).max()

    assert model.mirror_axes == tuple(range(axes))
    assert difference <= FORWARD_TOLERANCE
