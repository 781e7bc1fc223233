"""Official models, and ours from elsewhere, as folders that predict."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import pipeline
from core.domain.ensemble import EnsembleRecord
from core.domain.exchange import ImportOptions, ImportSummary, ModelOrigin
from core.domain.model import ModelRecord, PredictionOptions
from core.domain.postprocessing import Postprocessing
from core.domain.progress import SilentObserver
from core.domain.selection import Candidate, Selection
from core.errors import DomainError, ModelError
from core.inference.model import load_model
from tests.core.exchange.official import (
    TRAINER,
    drawn_weights,
    folder_of,
    results,
    unpacked,
    zipped,
)
from tests.core.inference.conftest import ARCHITECTURE, DATASET, PLANS

CPU = PredictionOptions(device="cpu", precision="fp32")
KEEPING = (
    "nnunetv2.postprocessing.remove_connected_components.remove_all_but_largest_component_from_segmentation"
)


def imported(source: Path, out: Path, **options: Any) -> ImportSummary:
    return pipeline.import_model(source, out, ImportOptions(**options), SilentObserver())


def test_an_official_zip_becomes_a_model_that_loads(tmp_path: Path) -> None:
    source, out = zipped(tmp_path / "model.zip", results()), tmp_path / "far" / "model"

    summary = imported(source, out)

    model = load_model(out, CPU)
    assert (summary.models, summary.folds, summary.notes) == (("3d_fullres",), (0, 1), ())
    assert model.folds == (0, 1)
    assert model.mirror_axes == (0, 2)
    for fold in (0, 1):
        weights = drawn_weights("3d_fullres", fold)
        assert load_file(out / f"fold_{fold}/weights.safetensors").keys() == weights.keys()
        assert all(torch.equal(model.networks[fold].state_dict()[key], weights[key]) for key in weights)
    assert json.loads((out / "plans.json").read_text()) == PLANS
    origin = ModelOrigin.model_validate_json((out / "origin.json").read_text())
    assert (origin.trainer, origin.epochs) == (TRAINER, {"0": 7, "1": 7})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "model.zip"]


@pytest.mark.parametrize("below", ["", "nnUNet_results", folder_of("3d_fullres")])
def test_a_folder_may_be_the_models_or_one_above(tmp_path: Path, below: str) -> None:
    top = tmp_path / "nnUNet_results"
    unpacked(top, results(folds=["all"]))

    summary = imported(top / below if below.startswith("Dataset") else tmp_path / below, tmp_path / "out")

    assert summary.folds == ("all",)


def test_a_folder_of_another_name_says_by_its_checkpoint_what_it_is(tmp_path: Path) -> None:
    unpacked(tmp_path, results(folds=[3])).joinpath(folder_of("3d_fullres")).rename(tmp_path / "mine")

    assert imported(tmp_path / "mine", tmp_path / "out").models == ("3d_fullres",)


def test_folds_and_checkpoints_are_chosen(tmp_path: Path) -> None:
    files = results(folds=[0, 1, 2]) | results(folds=[1], file="checkpoint_best.pth", seed=9)
    source = zipped(tmp_path / "model.zip", files)

    some = imported(source, tmp_path / "some", folds=(2, 0))
    best = imported(source, tmp_path / "best", checkpoint="best")

    assert some.folds == (2, 0)
    assert load_model(tmp_path / "some", CPU).folds == (0, 2)
    assert best.folds == (1,)
    weights, first = load_file(tmp_path / "best/fold_1/weights.safetensors"), drawn_weights("3d_fullres", 9)
    assert all(torch.equal(weights[name], first[name]) for name in first)
    with pytest.raises(ModelError, match=r"has no fold 5 with checkpoint_final\.pth; it has 0, 1, 2"):
        imported(source, tmp_path / "none", folds=(5,))


def test_older_plans_are_taken_as_they_are(tmp_path: Path) -> None:
    modern = PLANS["configurations"]["3d_fullres"]
    arguments = ARCHITECTURE["arch_kwargs"]
    old = {key: value for key, value in modern.items() if key != "architecture"} | {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": arguments["n_conv_per_stage"],
        "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 1, 1],
        "pool_op_kernel_sizes": arguments["strides"],
        "conv_kernel_sizes": arguments["kernel_sizes"],
    }
    plans = {**PLANS, "configurations": {"3d_fullres": old}}
    source = zipped(tmp_path / "model.zip", results(plans=plans))

    imported(source, tmp_path / "out")

    assert json.loads((tmp_path / "out/plans.json").read_text()) == plans
    assert load_model(tmp_path / "out", CPU).folds == (0, 1)


def test_the_norm_of_the_batch_norm_trainer_is_written_into_the_plan(tmp_path: Path) -> None:
    arguments = ARCHITECTURE["arch_kwargs"] | {"norm_op": "torch.nn.modules.batchnorm.BatchNorm3d"}
    configuration = PLANS["configurations"]["3d_fullres"]
    trained = configuration | {"architecture": ARCHITECTURE | {"arch_kwargs": arguments}}
    plans = {**PLANS, "configurations": {"3d_fullres": trained}}
    files = results(plans=plans, trainer="nnUNetTrainerBN")
    files[f"{folder_of('3d_fullres', 'nnUNetTrainerBN')}/plans.json"] = json.dumps(PLANS).encode()

    summary = imported(zipped(tmp_path / "model.zip", files), tmp_path / "out")

    assert "batch norm" in summary.notes[0]
    assert load_model(tmp_path / "out", CPU).folds == (0, 1)


def test_a_fingerprint_that_cannot_be_used_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    files = results() | {f"{folder_of('3d_fullres')}/dataset_fingerprint.json": b'{"spacings": []}'}

    summary = imported(zipped(tmp_path / "model.zip", files), tmp_path / "out")

    assert "left out, since no prediction needs it: dataset_fingerprint.json" in summary.notes[0]
    assert not (tmp_path / "out/dataset_fingerprint.json").exists()


@pytest.mark.parametrize("kind", ["json", "pkl"])
def test_postprocessing_is_taken_over(tmp_path: Path, kind: str) -> None:
    within = f"{folder_of('3d_fullres')}/crossval_results_folds_0_1/postprocessing.{kind}"
    arguments = [{"labels_or_regions": [1]}, {"labels_or_regions": 1, "background_label": 0}]
    named = b"c" + KEEPING.rpartition(".")[0].encode() + b"\n" + KEEPING.rpartition(".")[2].encode() + b"\n"
    content = {
        "json": json.dumps(
            {"postprocessing_fns": [KEEPING.rpartition(".")[2]] * 2, "postprocessing_kwargs": arguments}
        ).encode(),
        "pkl": b"\x80\x02]" + (named + b"a") * 2 + pickle.dumps(arguments, 2)[2:-1] + b"\x86.",
    }[kind]

    imported(zipped(tmp_path / "model.zip", results() | {within: content}), tmp_path / "out")

    kept = Postprocessing.parse((tmp_path / "out/postprocessing.json").read_text())
    assert kept.keep_largest == ((1,), (1,))


def information(*configurations: str) -> bytes:
    selected = [
        {"configuration": name, "trainer": TRAINER, "plans_identifier": "nnUNetPlans"}
        for name in configurations
    ]
    return json.dumps(
        {"best_model_or_ensemble": {"selected_model_or_models": selected}, "folds": [0]}
    ).encode()


def test_the_ensemble_that_was_found_best_is_imported(tmp_path: Path) -> None:
    names = [folder_of(name).rpartition("/")[2] for name in ("3d_lowres", "3d_fullres")]
    within = f"Dataset901_Small/ensembles/ensemble___{'___'.join(names)}___0/postprocessing.json"
    steps = {
        "postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"],
        "postprocessing_kwargs": [{"labels_or_regions": 1}],
    }
    files = {
        **results("3d_lowres", [0]),
        **results("3d_fullres", [0]),
        **results("3d_cascade_fullres", [0]),
        "Dataset901_Small/inference_information.json": information("3d_lowres", "3d_fullres"),
        within: json.dumps(steps).encode(),
    }

    summary = imported(zipped(tmp_path / "model.zip", files), tmp_path / "out")

    record = EnsembleRecord.parse((tmp_path / "out/ensemble.json").read_text())
    assert summary.models == record.members == ("3d_lowres", "3d_fullres")
    assert "chosen by inference_information.json" in summary.notes[0]
    assert load_model(tmp_path / "out/members/3d_lowres", CPU).configuration_name == "3d_lowres"
    assert Postprocessing.parse((tmp_path / "out/postprocessing.json").read_text()).keep_largest == ((1,),)


def test_where_there_are_several_one_must_be_chosen(tmp_path: Path) -> None:
    files = results("3d_lowres", [0]) | results("3d_fullres", [0])
    source = zipped(tmp_path / "model.zip", files)

    chosen = imported(source, tmp_path / "one", configuration="3d_lowres")
    named = imported(source, tmp_path / "two", configuration=folder_of("3d_fullres").rpartition("/")[2])

    assert (chosen.models, named.models) == (("3d_lowres",), ("3d_fullres",))
    with pytest.raises(ModelError, match=r"there are 2 models: .*3d_fullres, .*3d_lowres; choose one with"):
        imported(source, tmp_path / "out")
    with pytest.raises(ModelError, match="of 2d, there is none; choose one of the models there are"):
        imported(source, tmp_path / "out", configuration="2d")
    missing = zipped(
        tmp_path / "m.zip",
        files | {"Dataset901_Small/inference_information.json": information("2d", "3d_lowres")},
    )
    with pytest.raises(ModelError, match="__2d is not there; choose another one"):
        imported(missing, tmp_path / "out")


def test_a_later_stage_brings_the_stage_before_if_it_is_there(tmp_path: Path) -> None:
    later = results("3d_cascade_fullres", [0])
    whole = zipped(tmp_path / "whole.zip", later | results("3d_lowres", [0, 1]))
    alone = zipped(tmp_path / "alone.zip", later)

    imported(whole, tmp_path / "whole", configuration="3d_cascade_fullres", folds=(0,))
    summary = imported(alone, tmp_path / "alone")

    model = load_model(tmp_path / "whole", CPU)
    assert model.previous is not None
    assert model.previous.folds == (0, 1)
    assert "the stage before 3d_cascade_fullres is not there" in summary.notes[0]


def test_a_model_of_ours_is_imported_from_its_own_export(
    tmp_path: Path, model_folder: Path, cascade_folder: Path
) -> None:
    for source in (model_folder, cascade_folder):
        packed, out = tmp_path / f"{source.name}.zip", tmp_path / f"{source.name}-again"
        pipeline.export_model(source, packed, "ours", SilentObserver())

        summary = imported(packed, out)

        assert summary.folds == (0, 1)
        for name in ("fold_0/weights.safetensors", "fold_1/weights.safetensors", "plans.json", "model.json"):
            assert (out / name).exists()
        first, second = load_model(source, CPU), load_model(out, CPU)
        assert (first.previous is None) == (second.previous is None)
        own = first.networks[1].state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in second.networks[1].state_dict().items())


def test_an_ensemble_of_ours_is_imported_whole_or_one_member_of_it(
    tmp_path: Path, cascade_folder: Path
) -> None:
    ensemble = tmp_path / "ensemble"
    (ensemble / "members").mkdir(parents=True)
    (cascade_folder / "previous").rename(ensemble / "members/low")
    cascade_folder.rename(ensemble / "members/high")
    (ensemble / "ensemble.json").write_text('{"version": 1, "members": ["low", "high"]}')
    (ensemble / "postprocessing.json").write_text('{"version": 1, "keep_largest": [[1]]}')
    selection = Selection(
        candidates=(Candidate(members=("low", "high"), dice=0.5),),
        winner=("low", "high"),
        folds=(0, 1),
        cases=4,
        dice=0.5,
        dice_postprocessed=None,
        reason="it is the best",
    )
    (ensemble / "selection.json").write_text(selection.model_dump_json())
    pipeline.export_model(ensemble, tmp_path / "ensemble.zip", "ours", SilentObserver())

    whole = imported(tmp_path / "ensemble.zip", tmp_path / "whole")
    member = imported(ensemble, tmp_path / "member", configuration="low")

    assert whole.models == ("low", "high")
    assert (tmp_path / "whole/postprocessing.json").is_file()
    assert Selection.parse((tmp_path / "whole/selection.json").read_text()) == selection
    assert load_model(tmp_path / "whole/members/low", CPU).folds == (0, 1)
    assert member.models == ("3d_lowres",)
    with pytest.raises(ModelError, match="the ensemble has no member 2d; it has low, high"):
        imported(ensemble, tmp_path / "none", configuration="2d")


def test_the_best_weights_of_ours_are_chosen(tmp_path: Path, model_folder: Path) -> None:
    best = drawn_weights("3d_fullres", 77)
    save_file(best, model_folder / "fold_0/weights_best.safetensors")

    summary = imported(model_folder, tmp_path / "out", checkpoint="best")

    kept = load_file(tmp_path / "out/fold_0/weights.safetensors")
    assert summary.folds == (0,)
    assert all(torch.equal(kept[name], best[name]) for name in best)


def test_nothing_is_written_where_something_is(tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "empty").mkdir()

    imported(model_folder, tmp_path / "empty")

    assert ModelRecord.parse((tmp_path / "empty/model.json").read_text()).mirror_axes == (0, 1, 2)
    with pytest.raises(ModelError, match="empty exists already; name a new folder"):
        imported(model_folder, tmp_path / "empty")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"inference_allowed_mirroring_axes": ("x",)}, "mirroring along something that is no axis"),
        ({"init_args": {"configuration": "2d"}}, "is of configuration 2d, but lies in"),
        ({"trainer_name": "nnUNet_Primus_M_Trainer"}, "trains another network than plans.json describes"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    source = zipped(tmp_path / "model.zip", results(**change))

    with pytest.raises(DomainError, match=sentence):
        imported(source, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_folds_that_mirror_otherwise_are_no_model(tmp_path: Path) -> None:
    files = results(folds=[0]) | {
        name: content
        for name, content in results(folds=[1], inference_allowed_mirroring_axes=(1,)).items()
        if "fold_1" in name
    }

    with pytest.raises(
        ModelError, match=r"fold_1/checkpoint_final.pth was mirrored along \[1\], fold 0 along"
    ):
        imported(zipped(tmp_path / "model.zip", files), tmp_path / "out")


def test_members_with_other_labels_make_no_ensemble(tmp_path: Path) -> None:
    other = {**DATASET, "labels": {"background": 0, "tumor": 1}}
    files = {
        **results("3d_lowres", [0]),
        **results("3d_fullres", [0], dataset=other),
        "Dataset901_Small/inference_information.json": information("3d_lowres", "3d_fullres"),
    }

    with pytest.raises(ModelError, match="3d_lowres and 3d_fullres have other labels or channels"):
        imported(zipped(tmp_path / "model.zip", files), tmp_path / "out")
