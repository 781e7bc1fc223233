import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from core.domain.labels import label_set
from core.domain.model import ModelRecord, PredictionOptions
from core.errors import ModelError, PlanError
from core.inference.model import load_model, load_stage, tile_network, with_previous

CPU = PredictionOptions(device="cpu", precision="fp32")


def test_a_model_folder_is_loaded_with_every_fold(model_folder: Path) -> None:
    model = load_model(model_folder, CPU)

    assert model.folds == (0, 1)
    assert model.mirror_axes == (0, 1, 2)
    assert model.description.channels == ("T1", "FLAIR")
    assert (model.precision.name, model.device.type) == ("fp32", "cpu")
    weights = load_file(model_folder / "fold_1/weights.safetensors")
    assert model.size_bytes == 2 * sum(tensor.numel() * 4 for tensor in weights.values())


def test_the_loaded_network_has_the_weights_of_its_fold(model_folder: Path) -> None:
    model = load_model(model_folder, CPU)

    for fold in (0, 1):
        weights = load_file(model_folder / f"fold_{fold}/weights.safetensors")
        state = model.networks[fold].state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in weights.items())


def test_short_formats_give_nearly_the_same_logits(model_folder: Path) -> None:
    tile = torch.rand(1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    precise, short = (
        load_model(model_folder, PredictionOptions(device="cpu", precision=name)) for name in ("fp32", "bf16")
    )

    with torch.inference_mode():
        expected = tile_network(precise.networks[0], precise.precision, precise.device)(tile)
        found = tile_network(short.networks[0], short.precision, short.device)(tile)

    assert found.dtype is torch.bfloat16
    assert (found.float() - expected).norm() < 0.05 * expected.norm()
    assert short.size_bytes < 0.6 * precise.size_bytes


def test_folds_are_chosen_by_request(model_folder: Path) -> None:
    (model_folder / "fold_0").rename(model_folder / "fold_all")

    assert load_model(model_folder, CPU).folds == (1,)
    assert load_model(model_folder, CPU.model_copy(update={"folds": ("all", 1)})).folds == ("all", 1)
    with pytest.raises(ModelError, match="no fold 4; it has 1, all"):
        load_model(model_folder, CPU.model_copy(update={"folds": (4,)}))


def test_the_fold_of_all_cases_serves_where_it_is_the_only_one(model_folder: Path) -> None:
    (model_folder / "fold_0").rename(model_folder / "fold_all")
    (model_folder / "fold_1/weights.safetensors").unlink()

    assert load_model(model_folder, CPU).folds == ("all",)


@pytest.mark.parametrize("name", ["model.json", "plans.json", "dataset.json"])
def test_a_missing_file_is_named(model_folder: Path, name: str) -> None:
    (model_folder / name).unlink()

    with pytest.raises(ModelError, match=rf"no readable {name}"):
        load_model(model_folder, CPU)


def test_a_model_without_weights_is_refused(model_folder: Path) -> None:
    for path in model_folder.glob("fold_*/weights.safetensors"):
        path.unlink()

    with pytest.raises(ModelError, match="no fold with"):
        load_model(model_folder, CPU)


def test_damaged_weights_are_refused(model_folder: Path) -> None:
    (model_folder / "fold_1/weights.safetensors").write_bytes(b"no tensors")

    with pytest.raises(ModelError, match=r"fold_1/weights\.safetensors cannot be read"):
        load_model(model_folder, CPU)


def edited(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the configuration that the model predicts with."""
    values = json.loads((folder / "plans.json").read_text())
    edit(values["configurations"]["3d_fullres"])
    (folder / "plans.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c.update(spacing=[1.0, 1.0]), "3d_fullres.spacing: has 2 entries"),
        (lambda c: c.update(normalization_schemes=["ZScoreNormalization"]), "the dataset has 2 channels"),
        (lambda c: c.update(normalization_schemes=["CTNormalization"] * 2), "channel 0 has CTNormalization"),
        (lambda c: c.update(use_mask_for_norm=[]), "use_mask_for_norm: has 0 entries"),
        (lambda c: c.update(resampling_fn_probabilities="zoom"), "no resampling function named 'zoom'"),
        (lambda c: c.update(resampling_fn_probabilities_kwargs={"order": "x"}), "probabilities_kwargs.order"),
        (lambda c: c.update(patch_size=[8, 8, 7]), "patch_size.2: 7 must be a multiple of 2"),
        (lambda c: c["architecture"]["arch_kwargs"].update(strides=[[1, 1, 1]]), "strides: has 1 entries"),
        (lambda c: c["architecture"]["arch_kwargs"].update(conv_op="Conv2d"), "Conv2d is for 2 axes"),
        (lambda c: c["architecture"]["arch_kwargs"]["norm_op_kwargs"].update(eps=[]), "norm_op_kwargs.eps"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused_before_any_image(
    model_folder: Path, edit: Callable[[dict[str, Any]], object], words: str
) -> None:
    edited(model_folder, edit)

    with pytest.raises(PlanError) as raised:
        load_model(model_folder, CPU)
    assert raised.value.message.startswith("plans.json cannot be used: configurations.3d_fullres")
    assert words in raised.value.message


def test_axes_that_do_not_undo_each_other_are_refused(model_folder: Path) -> None:
    values = json.loads((model_folder / "plans.json").read_text())
    (model_folder / "plans.json").write_text(json.dumps(values | {"transpose_backward": [0, 1, 2]}))

    with pytest.raises(PlanError, match="does not undo"):
        load_model(model_folder, CPU)


def test_weights_of_another_network_are_refused_with_the_differences(model_folder: Path) -> None:
    path = model_folder / "fold_0/weights.safetensors"
    weights = load_file(path)
    weights["decoder.seg_layers.0.weight"] = torch.zeros(3, 4, 1, 1, 1)
    weights["surprise"] = weights.pop("encoder.stages.0.0.convs.0.conv.bias")
    save_file(weights, path)

    with pytest.raises(
        ModelError, match=r"1 tensors are missing.*surprise.*\[3, 4, 1, 1, 1\] instead of \[2, 4"
    ):
        load_model(model_folder, CPU)


def test_a_cascade_is_loaded_with_the_stage_before(cascade_folder: Path) -> None:
    model, alone = load_model(cascade_folder, CPU), load_stage(cascade_folder, CPU)

    assert model.previous is not None
    assert model.previous.configuration_name == "3d_lowres"
    assert model.size_bytes == alone.size_bytes + model.previous.size_bytes
    assert alone.previous is None
    assert load_model(cascade_folder, CPU.model_copy(update={"folds": (1,)})).previous.folds == (0, 1)  # type: ignore[union-attr]


def test_what_is_wrong_with_the_stage_before_is_said_of_it(cascade_folder: Path) -> None:
    (cascade_folder / "previous/plans.json").unlink()

    with pytest.raises(ModelError, match=r"^previous, the stage before: .* no readable plans.json"):
        load_model(cascade_folder, CPU)


def test_a_stage_before_that_is_another_one_is_refused(cascade_folder: Path, model_folder: Path) -> None:
    cascade, other = load_stage(cascade_folder, CPU), load_model(model_folder, CPU)
    low = load_model(cascade_folder / "previous", CPU)
    relabelled = replace(low, labels=label_set({"background": 0, "a": 1, "b": 2}, None))

    with pytest.raises(ModelError, match=r"refines what 3d_lowres segments, but .* of 3d_fullres"):
        with_previous(cascade, other)
    with pytest.raises(ModelError, match="other labels, 1, 2 instead of 1"):
        with_previous(cascade, relabelled)
    with pytest.raises(ModelError, match="3d_fullres is no later stage"):
        with_previous(other, low)


def test_mirroring_an_axis_that_the_patch_lacks_is_refused(model_folder: Path) -> None:
    record = ModelRecord(configuration="3d_fullres", mirror_axes=(3,))
    (model_folder / "model.json").write_text(json.dumps(record.to_json()))

    with pytest.raises(ModelError, match="only axes 0 to 2"):
        load_model(model_folder, CPU)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("{", "not valid JSON"), ('{"version": 2}', "update it"), ('{"version": 1}', "configuration")],
)
def test_a_record_that_cannot_be_read_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        ModelRecord.parse(text)


def test_options_out_of_range_are_refused() -> None:
    refused: tuple[dict[str, object], ...] = (
        {"step_size": 0},
        {"step_size": 1.5},
        {"precision": "int8"},
        {"device": "tpu"},
        {"folds": []},
    )
    for values in refused:
        with pytest.raises(ValidationError):
            PredictionOptions.model_validate(values)
