"""Weights of networks that were trained before: found, compared, taken over, and remembered."""

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.domain.labels import LabelSet, label_set
from core.domain.plan import Configuration, Plan
from core.domain.training import Fold
from core.errors import CancelledError, ModelError, TrainingError
from core.network.unet import build_network
from core.network.weights import expanded
from core.training import checkpoint
from core.training.loop import train_fold
from core.training.pretrained import StartWeights, find_weights, start_weights
from tests.core.pipeline.bench import RESIDUAL, architecture
from tests.core.training.small_training import Listener, setup_in
from tests.plans import small_plan

RECORDED = Path(__file__).resolve().parents[3] / "../shared/goldens"
LABELS = label_set({"background": 0, "ball": 1}, None)
OTHERS = label_set({"background": 0, "left": 1, "right": 2}, None)


def configuration_of(*, channels: int = 1, changes: Any = None, kind: Any = None) -> Configuration:
    network = architecture(3) if kind is None else architecture(3, kind)
    network["arch_kwargs"] |= changes or {}
    entries = {"architecture": network, "patch_size": [8, 8, 8]}
    _, configuration = small_plan((1, 1, 1), schemes=["ZScoreNormalization"] * channels, entries=entries)
    return configuration


def network_of(configuration: Configuration, labels: LabelSet, seed: int = 7) -> dict[str, Tensor]:
    channels = len(configuration.normalization_schemes)
    return build_network(configuration.architecture, channels, len(labels.heads), seed=seed).state_dict()


def model_at(folder: Path, weights: dict[str, Tensor], *folds: Fold) -> Path:
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(parents=True)
        save_file(weights, folder / f"fold_{fold}/weights.safetensors")
    return folder


# --- which file ----------------------------------------------------------------------------------------------


def touch(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "fold", "found"),
    [
        (
            ("fold_all/weights.safetensors", "fold_10/weights.safetensors", "fold_2/weights.safetensors"),
            None,
            2,
        ),
        (("fold_1/weights.safetensors", "fold_all/weights.safetensors"), "all", 1),
        (("fold_all/checkpoint_final.pth",), None, 0),
        (("fold_0/checkpoint_best.pth", "fold_1/checkpoint_final.pth", "fold_x/checkpoint_final.pth"), 1, 1),
        (("fold_0/checkpoint_best.pth", "fold_0/checkpoint_final.pth"), None, 1),
        (("fold_0/checkpoint.safetensors", "fold_1/weights.safetensors"), None, 0),
        (("weights.safetensors",), None, 0),
    ],
)
def test_the_fold_that_is_asked_for_is_taken_or_the_first(
    tmp_path: Path, names: tuple[str, ...], fold: Fold | None, found: int
) -> None:
    assert find_weights(touch(tmp_path, names), fold) == tmp_path / names[found]


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    file = touch(tmp_path, ("any.pth",)) / "any.pth"

    assert find_weights(file) == file
    with pytest.raises(ModelError, match="no fold can be chosen"):
        find_weights(file, 0)


@pytest.mark.parametrize(
    ("names", "fold", "sentence"),
    [
        (
            ("fold_0/weights.safetensors", "fold_3/checkpoint_final.pth"),
            1,
            "no fold 1 with weights; it has 0, 3",
        ),
        (("fold_0/fold.json",), 0, "no fold 0 with weights; it has none"),
        (
            ("nnUNetTrainer__nnUNetPlans__2d/fold_0/checkpoint_final.pth",),
            None,
            "m holds no weights; give a model",
        ),
        ((), None, "there is no .*m to take weights from"),
    ],
)
def test_where_there_are_no_weights_the_sentence_says_what_there_is(
    tmp_path: Path, names: tuple[str, ...], fold: Fold | None, sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        find_weights(touch(tmp_path / "m", names), fold)


# --- what is taken -------------------------------------------------------------------------------------------


def test_all_but_the_heads_is_taken_from_a_model_of_the_same_plan(tmp_path: Path) -> None:
    configuration = configuration_of()
    source = network_of(configuration, LABELS)
    model = model_at(tmp_path / "model", source, 0)

    found = start_weights(model, configuration, OTHERS)

    heads = {name for name in source if ".seg_layers." in name}
    assert heads
    assert set(found.tensors) == set(found.record.taken) == set(source) - heads
    assert all(torch.equal(tensor, source[name]) for name, tensor in found.tensors.items())
    assert {(tensor.name, tensor.reason) for tensor in found.record.left} == {
        (name, "head") for name in heads
    }
    weights = (model / "fold_0/weights.safetensors").read_bytes()
    assert found.record.source.sha256 == hashlib.sha256(weights).hexdigest()
    assert found.record.source.name == "model/fold_0/weights.safetensors"
    assert found.record.unused == ()


def test_heads_keep_their_fresh_values_even_for_as_many_labels(tmp_path: Path) -> None:
    configuration = configuration_of()
    model = model_at(tmp_path / "model", network_of(configuration, LABELS), "all")

    found = start_weights(model, configuration, LABELS)

    assert {tensor.reason for tensor in found.record.left} == {"head"}
    assert not any(".seg_layers." in name for name in found.tensors)


def test_other_channels_cost_the_first_convolution_alone(tmp_path: Path) -> None:
    model = model_at(tmp_path / "model", network_of(configuration_of(), LABELS), 0)

    found = start_weights(model, configuration_of(channels=2), LABELS)

    (first,) = (tensor for tensor in found.record.left if tensor.reason != "head")
    assert (first.name, first.reason) == ("encoder.stages.0.0.convs.0.conv.weight", "shape")
    assert (first.shape, first.source_shape) == ((4, 2, 3, 3, 3), (4, 1, 3, 3, 3))


def test_a_residual_encoder_of_other_channels_keeps_its_blocks(tmp_path: Path) -> None:
    model = model_at(tmp_path / "model", network_of(configuration_of(kind=RESIDUAL), LABELS), 0)

    found = start_weights(model, configuration_of(channels=3, kind=RESIDUAL), LABELS)

    assert [tensor.name for tensor in found.record.left if tensor.reason == "shape"] == [
        "encoder.stem.convs.0.conv.weight"
    ]


def test_a_deeper_network_takes_what_fits_and_names_the_rest(tmp_path: Path) -> None:
    deeper = {
        "n_stages": 3,
        "features_per_stage": [4, 8, 16],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
    }
    model = model_at(tmp_path / "model", network_of(configuration_of(), LABELS), 0)

    found = start_weights(model, configuration_of(changes=deeper), LABELS)

    reasons = {tensor.name: tensor.reason for tensor in found.record.left}
    assert reasons["encoder.stages.2.0.convs.0.conv.weight"] == "missing"
    assert reasons["decoder.stages.0.convs.0.conv.weight"] == "shape"
    assert "encoder.stages.1.0.convs.0.conv.weight" in found.tensors


def test_what_the_source_has_beyond_the_network_is_named(tmp_path: Path) -> None:
    configuration = configuration_of()
    source = network_of(configuration, LABELS) | {"encoder.mask_token": torch.zeros(4)}

    found = start_weights(model_at(tmp_path / "model", source, 0), configuration, LABELS)

    assert found.record.unused == ("encoder.mask_token",)


def test_a_network_that_hardly_fits_is_refused_with_the_cure(tmp_path: Path) -> None:
    wider = configuration_of(changes={"features_per_stage": [6, 12]})
    model = model_at(tmp_path / "model", network_of(configuration_of(), LABELS), 0)

    with pytest.raises(
        TrainingError, match=r"only 0 of 8 .* of the encoder .*\[6, 1, 3, 3, 3\] .*move-plans"
    ):
        start_weights(model, wider, LABELS)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    configuration = configuration_of()
    source = network_of(configuration, LABELS)
    source["encoder.stages.1.0.convs.0.conv.weight"][0] = float("nan")

    with pytest.raises(ModelError, match=r"not finite in encoder\.stages\.1\.0\.convs\.0\.conv\.weight"):
        start_weights(model_at(tmp_path / "model", source, 0), configuration, LABELS)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    touch(tmp_path, ("fold_0/weights.safetensors",))

    with pytest.raises(ModelError, match=r"weights\.safetensors cannot be read"):
        start_weights(tmp_path, configuration_of(), LABELS)


def test_an_official_checkpoint_gives_the_same_as_a_model_of_ours(tmp_path: Path) -> None:
    configuration = configuration_of()
    source = network_of(configuration, LABELS)
    file = touch(tmp_path / "official", ("fold_0/checkpoint_final.pth",)) / "fold_0/checkpoint_final.pth"
    aliased = {f"module.{name}": tensor.half() for name, tensor in expanded(source).items()}
    torch.save({"network_weights": aliased, "init_args": {"device": torch.device("cuda")}}, file)

    for path in (tmp_path / "official", file):
        found = start_weights(path, configuration, OTHERS)

        assert found.record.unused == ()
        assert all(tensor.dtype == torch.float32 for tensor in found.tensors.values())
        assert all(torch.equal(tensor, source[name].half().float()) for name, tensor in found.tensors.items())


def test_a_hostile_checkpoint_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "trace"),))

    file = tmp_path / "checkpoint_final.pth"
    weights = network_of(configuration_of(), LABELS)
    torch.save({"network_weights": weights, "trainer_name": Hostile()}, file)

    with pytest.raises(ModelError, match="could run code"):
        start_weights(file, configuration_of(), LABELS)

    assert not (tmp_path / "trace").exists()


@pytest.mark.parity
@pytest.mark.skipif(not RECORDED.exists(), reason="../shared is absent: no recorded models")
@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_recorded_models_fit_their_plan(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(RECORDED / f"models/hippocampus_{name}_fold0_no_optimizer.zip") as archive:
        archive.extractall(tmp_path)
    (model,) = tmp_path.glob("*/nnUNetTrainer*")
    plan = Plan.parse((model / "plans.json").read_bytes())

    found = start_weights(model, plan.configuration(name), LABELS)

    assert {tensor.reason for tensor in found.record.left} == {"head"}
    assert found.record.unused == ()
    assert found.record.source.name == f"{model.name}/fold_0/checkpoint_final.pth"


# --- a training that begins with it --------------------------------------------------------------------------


@pytest.fixture
def initial(tmp_path: Path) -> StartWeights:
    return weights_for(tmp_path / "source", seed=7)


def weights_for(folder: Path, seed: int) -> StartWeights:
    """Weights of another network like that of the setup."""
    setup = setup_in(folder)
    return start_weights(
        model_at(folder, network_of(setup.configuration, OTHERS, seed), 0), setup.configuration, setup.labels
    )


def after_one_epoch(folder: Path, initial: StartWeights | None) -> None:
    """Begin a training and stop it after an epoch."""
    setup = replace(setup_in(folder), initial=initial)
    with pytest.raises(CancelledError):
        train_fold(setup, Listener(stops=lambda done: done >= 7))


def test_a_training_begins_with_the_weights_and_says_so(tmp_path: Path, initial: StartWeights) -> None:
    folder = tmp_path / "fold_0"
    slow = replace(setup_in(folder, epochs=1, initial_learning_rate=1e-12, weight_decay=0.0), initial=initial)

    record = train_fold(slow, Listener())

    trained = load_file(folder / "weights.safetensors")
    fresh = build_network(slow.configuration.architecture, 1, 2, seed=slow.settings.seed).state_dict()
    for name, tensor in trained.items():
        assert torch.allclose(tensor, initial.tensors.get(name, fresh[name]), atol=1e-6), name
    assert record.pretrained == initial.record.source
    assert json.loads((folder / "fold.json").read_text())["pretrained"] == initial.record.source.to_json()
    assert json.loads((folder / "pretrained.json").read_text()) == initial.record.to_json()


def test_an_interrupted_fine_tuning_goes_on_as_if_it_was_not(tmp_path: Path, initial: StartWeights) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_fold(replace(setup_in(whole), initial=initial), Listener())
    after_one_epoch(broken, initial)
    (broken / "pretrained.json").unlink()  # As on another machine, which gets the checkpoint alone.

    train_fold(setup_in(broken), Listener())

    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (broken, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (broken / "pretrained.json").read_bytes() == (whole / "pretrained.json").read_bytes()


def test_the_source_of_an_interrupted_training_stays(tmp_path: Path, initial: StartWeights) -> None:
    other = weights_for(tmp_path / "other", seed=8)
    begun, fresh = tmp_path / "begun", tmp_path / "fresh"
    after_one_epoch(begun, initial)
    after_one_epoch(fresh, None)

    with pytest.raises(TrainingError, match=r"other weights, those of source/.*, and not with other/fold_0"):
        train_fold(replace(setup_in(begun), initial=other), Listener())
    with pytest.raises(TrainingError, match="other weights, drawn ones, and not with source/fold_0"):
        train_fold(replace(setup_in(fresh), initial=initial), Listener())
    assert (
        train_fold(replace(setup_in(begun), initial=initial), Listener()).pretrained == initial.record.source
    )


def test_the_checkpoint_of_a_training_that_is_under_way_can_be_taken(
    tmp_path: Path, initial: StartWeights
) -> None:
    after_one_epoch(tmp_path / "m/fold_0", initial)
    setup = setup_in(tmp_path)

    found = start_weights(tmp_path / "m", setup.configuration, setup.labels)

    kept = checkpoint.read(tmp_path / "m/fold_0")
    assert kept is not None
    assert found.record.taken == initial.record.taken
    assert all(
        torch.equal(tensor, kept[1][checkpoint.NETWORK + name]) for name, tensor in found.tensors.items()
    )
