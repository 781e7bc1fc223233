import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import ModelError
from core.network.official import read_official_weights

RECORDED = Path(__file__).resolve().parents[3] / "../shared/goldens/models"
KERNEL = torch.arange(12.0).reshape(3, 4)


class Hostile:
    """Would make a folder if it were loaded as any pickle is."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.trace),))


def checkpoint(**more: Any) -> dict[str, Any]:
    return {
        "network_weights": OrderedDict(
            {
                "module.encoder.stages.0.0.convs.0.conv.weight": KERNEL,
                "module.encoder.stages.0.0.convs.0.all_modules.0.weight": KERNEL,
                "module.decoder.encoder.stages.0.0.convs.0.conv.weight": KERNEL,
            }
        ),
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.ones(3)}}},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "all": np.arange(3)},
        "_best_ema": np.float64(0.5),
        "current_epoch": 3,
        "init_args": {"configuration": "2d", "fold": 0, "device": torch.device("cuda", 1)},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
        **more,
    }


def test_weights_are_read_once_each_whatever_else_there_is(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_final.pth"
    torch.save(checkpoint(), path)

    weights = read_official_weights(path)

    assert list(weights) == ["encoder.stages.0.0.convs.0.conv.weight"]
    assert torch.equal(weights["encoder.stages.0.0.convs.0.conv.weight"], KERNEL)


def test_checkpoints_of_older_numpy_are_read(tmp_path: Path) -> None:
    """Its functions were in numpy.core; the name in the pickle is shortened, as that version wrote it."""
    path, older = tmp_path / "new.pth", tmp_path / "old.pth"
    torch.save(checkpoint(), path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(older, "w") as target:
        for name in source.namelist():
            target.writestr(
                name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            )

    assert torch.equal(read_official_weights(older)["encoder.stages.0.0.convs.0.conv.weight"], KERNEL)


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path) -> None:
    path, trace = tmp_path / "checkpoint_final.pth", tmp_path / "trace"
    torch.save(checkpoint(extra=Hostile(trace)), path)

    with pytest.raises(ModelError, match=r"checkpoint_final.pth names \w+\.mkdir, which could run code"):
        read_official_weights(path)

    assert not trace.exists()
    torch.load(path, weights_only=False)  # It would have.
    assert trace.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_hostile_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "checkpoint_final.pth", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Hostile(trace), protocol=protocol))

    with pytest.raises(ModelError, match=r"checkpoint_final\.pth"):
        read_official_weights(path)

    assert not trace.exists()


def test_what_is_allowed_by_name_is_not_made(tmp_path: Path) -> None:
    """An object array of numpy would take any object that a pickle makes."""
    path = tmp_path / "checkpoint_final.pth"
    torch.save(checkpoint(array=np.array([{"a": 1}], dtype=object)), path)

    assert len(read_official_weights(path)) == 1


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        ({"state_dict": {"a": KERNEL}}, "no network_weights"),
        ([KERNEL], "no network_weights"),
        ({"network_weights": {}}, "no network_weights"),
        ({"network_weights": {"a": 3}}, "something else than a tensor as 'a'"),
        ({"network_weights": {3: KERNEL}}, "something else than a tensor as 3"),
        ({"network_weights": {"a": torch.ones(1).expand(10**12)}}, "something else than a tensor as 'a'"),
        ({"network_weights": {"a": KERNEL.to_sparse()}}, "something else than a tensor as 'a'"),
        (
            {"network_weights": {"encoder.conv.weight": KERNEL, "decoder.encoder.conv.weight": KERNEL + 1}},
            "contradict themselves",
        ),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, contents: Any, sentence: str) -> None:
    path = tmp_path / "checkpoint_final.pth"
    torch.save(contents, path)

    with pytest.raises(ModelError, match=sentence):
        read_official_weights(path)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint_final.pth"
    path.write_bytes(content)

    with pytest.raises(ModelError, match="is no checkpoint that can be read"):
        read_official_weights(path)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_final.pth"
    torch.save(checkpoint(), path)
    path.write_bytes(path.read_bytes()[:-400])

    with pytest.raises(ModelError, match="is no checkpoint that can be read"):
        read_official_weights(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"checkpoint_final\.pth cannot be read: No such file"):
        read_official_weights(tmp_path / "checkpoint_final.pth")


@pytest.mark.parity
@pytest.mark.skipif(not RECORDED.exists(), reason="../shared is absent: no recorded models")
@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_recorded_models_are_read(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(RECORDED / f"hippocampus_{name}_fold0_no_optimizer.zip") as archive:
        (member,) = (one for one in archive.namelist() if one.endswith("checkpoint_final.pth"))
        archive.extract(member, tmp_path)

    weights = read_official_weights(tmp_path / member)

    assert not any("all_modules" in one or one.startswith("decoder.encoder") for one in weights)
    assert weights["encoder.stages.0.0.convs.0.conv.weight"].shape[:2] == (32, 1)
    assert all(tensor.device.type == "cpu" for tensor in weights.values())
