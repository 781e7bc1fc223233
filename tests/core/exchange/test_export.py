"""Models of ours as the official tools read them."""

import io
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from core import pipeline
from core.domain.dataset import DatasetDescription
from core.domain.exchange import ImportOptions
from core.domain.model import PredictionOptions
from core.domain.plan import Plan
from core.domain.progress import Progress, SilentObserver
from core.errors import CancelledError, ModelError
from core.exchange.export import pickled_postprocessing
from core.exchange.official_plans import official_dataset_name, official_plans_name
from core.inference.model import load_model
from core.network.official import read_official_checkpoint
from tests.core.exchange.official import drawn_weights
from tests.core.inference.conftest import PLANS

CPU = PredictionOptions(device="cpu", precision="fp32")
TOP = "Dataset901_Small/nnUNetTrainer__nnUNetPlans__3d_fullres"


def exported(folder: Path, out: Path) -> dict[str, bytes]:
    pipeline.export_model(folder, out, "official", SilentObserver())
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def loaded(content: bytes) -> dict[str, Any]:
    contents: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return contents


def test_the_zip_is_laid_out_as_the_official_export(tmp_path: Path, model_folder: Path) -> None:
    files = exported(model_folder, tmp_path / "model.zip")

    assert set(files) == {
        f"{TOP}/plans.json",
        f"{TOP}/dataset.json",
        *(
            f"{TOP}/fold_{fold}/{name}"
            for fold in (0, 1)
            for name in ("checkpoint_final.pth", "progress.png", "validation/summary.json")
        ),
    }
    Plan.parse(files[f"{TOP}/plans.json"])
    DatasetDescription.parse(files[f"{TOP}/dataset.json"])
    assert files[f"{TOP}/fold_0/progress.png"].startswith(b"\x89PNG")


def test_a_checkpoint_has_what_the_official_trainer_and_predictor_ask_for(
    tmp_path: Path, model_folder: Path
) -> None:
    files = exported(model_folder, tmp_path / "model.zip")

    contents = loaded(files[f"{TOP}/fold_1/checkpoint_final.pth"])

    weights, own = contents["network_weights"], drawn_weights("3d_fullres", 1)
    first = "encoder.stages.0.0.convs.0"
    assert set(contents) == {
        *("network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema"),
        *("current_epoch", "init_args", "trainer_name", "inference_allowed_mirroring_axes"),
    }
    assert contents["inference_allowed_mirroring_axes"] == (0, 1, 2)
    assert (contents["trainer_name"], contents["init_args"]["fold"]) == ("nnUNetTrainer", 1)
    for alias in (f"{first}.conv", f"{first}.all_modules.0", f"decoder.encoder.{first[8:]}.conv"):
        assert torch.equal(weights[f"{alias}.weight"], own[f"{first}.conv.weight"])
    assert len(contents["optimizer_state"]["param_groups"][0]["params"]) == len(own)


def test_the_same_model_makes_the_same_bytes(tmp_path: Path, model_folder: Path) -> None:
    exported(model_folder, tmp_path / "one.zip")
    exported(model_folder, tmp_path / "two.zip")

    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.parametrize("mirror_axes", [[], [1]])
def test_what_is_exported_can_be_imported_again(
    tmp_path: Path, model_folder: Path, mirror_axes: list[int]
) -> None:
    record = {"version": 1, "configuration": "3d_fullres", "mirror_axes": mirror_axes}
    (model_folder / "model.json").write_text(json.dumps(record))
    (model_folder / "postprocessing.json").write_text('{"version": 1, "keep_largest": [[1]]}')

    exported(model_folder, tmp_path / "model.zip")
    pipeline.import_model(tmp_path / "model.zip", tmp_path / "again", ImportOptions(), SilentObserver())

    first, second = load_model(model_folder, CPU), load_model(tmp_path / "again", CPU)
    assert first.mirror_axes == second.mirror_axes == tuple(mirror_axes)
    for fold in first.folds:
        own, other = first.networks[fold].state_dict(), second.networks[fold].state_dict()
        assert all(torch.equal(own[name], other[name]) for name in own)
    kept = json.loads((tmp_path / "again/postprocessing.json").read_text())
    assert kept == {"version": 1, "keep_largest": [[1]]}


def test_a_cascade_takes_its_first_stage_along(tmp_path: Path, cascade_folder: Path) -> None:
    files = exported(cascade_folder, tmp_path / "model.zip")

    folders = {name.split("/")[1] for name in files if "/fold_" in name}
    assert folders == {
        "nnUNetTrainer__nnUNetPlans__3d_lowres",
        "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres",
    }


def test_the_export_of_a_cascade_says_which_stage_is_the_result(tmp_path: Path, cascade_folder: Path) -> None:
    (cascade_folder / "postprocessing.json").write_text('{"version": 1, "keep_largest": [[1]]}')

    files = exported(cascade_folder, tmp_path / "model.zip")
    summary = pipeline.import_model(
        tmp_path / "model.zip", tmp_path / "again", ImportOptions(), SilentObserver()
    )

    best = json.loads(files["Dataset901_Small/inference_information.json"])["best_model_or_ensemble"]
    assert best["postprocessing_file"] in files
    assert summary.models == ("3d_cascade_fullres",)
    assert load_model(tmp_path / "again", CPU).previous is not None
    assert json.loads((tmp_path / "again/postprocessing.json").read_text())["keep_largest"] == [[1]]


def test_an_ensemble_is_several_configurations_and_what_was_decided_of_them(
    tmp_path: Path, cascade_folder: Path, model_folder: Path
) -> None:
    ensemble = tmp_path / "ensemble"
    (ensemble / "members").mkdir(parents=True)
    (cascade_folder / "previous").rename(ensemble / "members/3d_lowres")
    model_folder.rename(ensemble / "members/3d_fullres")
    (ensemble / "ensemble.json").write_text('{"version": 1, "members": ["3d_lowres", "3d_fullres"]}')
    (ensemble / "postprocessing.json").write_text('{"version": 1, "keep_largest": [[1]]}')

    exported(ensemble, tmp_path / "model.zip")
    summary = pipeline.import_model(
        tmp_path / "model.zip", tmp_path / "again", ImportOptions(), SilentObserver()
    )

    assert summary.models == ("3d_lowres", "3d_fullres")
    for name in ("ensemble.json", "postprocessing.json"):
        assert json.loads((tmp_path / "again" / name).read_text()) == json.loads(
            (ensemble / name).read_text()
        )


def with_configuration(folder: Path, **changes: Any) -> None:
    configurations = dict(PLANS["configurations"])
    configurations["3d_fullres"] = {**configurations["3d_fullres"], **changes}
    (folder / "plans.json").write_text(json.dumps({**PLANS, "configurations": configurations}))


def test_names_are_written_as_the_official_tools_import_them(tmp_path: Path, model_folder: Path) -> None:
    architecture = json.loads(json.dumps(PLANS["configurations"]["3d_fullres"]["architecture"]))
    architecture["network_class_name"] = "PlainConvUNet"
    architecture["arch_kwargs"] |= {"conv_op": "Conv3d", "norm_op": "InstanceNorm3d", "nonlin": "LeakyReLU"}
    with_configuration(
        model_folder, architecture=architecture, resampling_fn_seg="resample_labels_by_threshold"
    )

    files = exported(model_folder, tmp_path / "model.zip")

    written = json.loads(files[f"{TOP}/plans.json"])["configurations"]["3d_fullres"]
    assert written["architecture"] == PLANS["configurations"]["3d_fullres"]["architecture"]
    assert written["resampling_fn_seg"] == "resample_data_or_seg_to_shape"


def test_paths_of_training_cases_stay_here(tmp_path: Path, model_folder: Path) -> None:
    description = json.loads((model_folder / "dataset.json").read_text())
    description["dataset"] = {"a": {"images": ["/home/a_0000.nii.gz"], "label": "/home/a.nii.gz"}}
    (model_folder / "dataset.json").write_text(json.dumps(description))

    files = exported(model_folder, tmp_path / "model.zip")

    assert not any(b"/home/" in content for content in files.values())


def test_what_only_a_package_knows_is_not_exported(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.domain.plan_check.normalization_names", lambda: {"Percentiles"})
    with_configuration(model_folder, normalization_schemes=["Percentiles", "Percentiles"])

    with pytest.raises(
        ModelError, match=r"normalization Percentiles is known to this software only.*--format ours"
    ):
        exported(model_folder, tmp_path / "model.zip")

    assert not (tmp_path / "model.zip").exists()
    assert pipeline.export_model(model_folder, tmp_path / "model.zip", "ours", SilentObserver())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Dataset004_Hippocampus", "Dataset004_Hippocampus"),
        ("Köpfe & Hälse", "Dataset999_K_pfe_H_lse"),
        ("", "Dataset999_Model"),
        ("../x", "Dataset999_x"),
    ],
)
def test_a_dataset_gets_a_name_that_the_official_tools_take(name: str, expected: str) -> None:
    assert official_dataset_name(name) == expected


def test_plans_get_a_name_that_can_be_a_part_of_a_folders() -> None:
    assert official_plans_name("my__plans") == "nnUNetPlans"
    assert official_plans_name("nnUNetResEncUNetMPlans") == "nnUNetResEncUNetMPlans"


def test_postprocessing_is_pickled_by_the_name_of_the_official_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("nnunetv2.postprocessing.remove_connected_components")
    function = module.remove_all_but_largest_component_from_segmentation = lambda: None  # type: ignore[attr-defined]
    for name in ("nnunetv2", "nnunetv2.postprocessing"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    arguments = [{"labels_or_regions": [1, 2]}, {"labels_or_regions": [1]}]

    some, none = (pickled_postprocessing(steps) for steps in (arguments, []))

    assert pickle.loads(some) == ([function, function], arguments)  # noqa: S301 - our own
    assert pickle.loads(none) == ([], [])  # noqa: S301 - our own


def test_an_export_stops_when_it_is_asked_to_and_leaves_nothing(tmp_path: Path, model_folder: Path) -> None:
    class StopsLater(SilentObserver):
        def __init__(self) -> None:
            self.heard: list[Progress] = []

        def report(self, progress: Progress) -> None:
            self.heard.append(progress)

        def stop_requested(self) -> bool:
            return len(self.heard) > 1

    with pytest.raises(CancelledError):
        pipeline.export_model(model_folder, tmp_path / "out" / "model.zip", "official", StopsLater())

    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("target", ["official", "ours"])
def test_what_is_no_model_is_not_exported(tmp_path: Path, target: Any) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.json; give a model folder"):
        pipeline.export_model(tmp_path, tmp_path / "model.zip", target, SilentObserver())


def test_weights_that_are_not_those_of_the_plan_are_not_exported(tmp_path: Path, model_folder: Path) -> None:
    with_configuration(model_folder, patch_size=[8, 8])

    with pytest.raises(Exception, match="patch_size"):
        exported(model_folder, tmp_path / "model.zip")


def test_what_is_exported_is_read_by_the_reading_of_checkpoints(tmp_path: Path, model_folder: Path) -> None:
    files = exported(model_folder, tmp_path / "model.zip")
    path = tmp_path / "checkpoint_final.pth"
    path.write_bytes(files[f"{TOP}/fold_0/checkpoint_final.pth"])

    read = read_official_checkpoint(path)

    assert (read.configuration, read.trainer, read.epochs) == ("3d_fullres", "nnUNetTrainer", 0)
