"""Fine-tuning from files to files: what was learnt on one dataset is where another one begins."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core import __main__ as command_line
from core import pipeline
from core.domain.pretraining import PretrainedRecord
from tests.core.pipeline.bench import order_of, plan_of, train
from tests.factories import Recipe, make_dataset

ROOT = Path(__file__).resolve().parents[3]
RECORDED = ROOT / "../shared/goldens/models"
LEFT_AND_RIGHT = Recipe(cases=5, shape=(10, 12, 12))
ONE_LABEL = Recipe(cases=5, shape=(11, 13, 12), labels={"background": 0, "lesion": 1}, seed=9)
STANDING_STILL: dict[str, Any] = {
    "initial_learning_rate": 1e-12,
    "weight_decay": 0.0,
    "optimizer": "sgd",
    "momentum": 0.0,
}


def run(*arguments: object) -> int:
    return command_line.main([str(argument) for argument in arguments])


def record_of(fold: Path) -> PretrainedRecord:
    return PretrainedRecord.model_validate_json((fold / "pretrained.json").read_bytes())


def test_a_network_begins_where_another_datasets_ended(tmp_path: Path) -> None:
    plan = plan_of()
    source, target = (
        make_dataset(tmp_path / "source", LEFT_AND_RIGHT),
        make_dataset(tmp_path / "target", ONE_LABEL),
    )
    train(order_of(source, plan, "small", tmp_path / "pretrained", "all", iterations_per_epoch=8))

    initial = pipeline.start_weights(
        tmp_path / "pretrained", fold=None, raw=target, plan=plan, configuration="small"
    )
    order = order_of(target, plan, "small", tmp_path / "model", **STANDING_STILL)
    train(order, pretrained=initial)

    before = load_file(tmp_path / "pretrained/fold_all/weights.safetensors")
    after = load_file(tmp_path / "model/fold_0/weights.safetensors")
    record = record_of(tmp_path / "model/fold_0")
    assert record.taken
    assert all(torch.allclose(after[name], before[name], atol=1e-7) for name in record.taken)
    assert {tensor.name for tensor in record.left} == {name for name in after if ".seg_layers." in name}
    assert set(record.taken) | {tensor.name for tensor in record.left} == set(after)
    heads = {name: (after[name].shape[0], before[name].shape[0]) for name in after if ".seg_layers." in name}
    assert set(heads.values()) == {(2, 3)}


def test_topologies_that_do_not_agree_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    target = make_dataset(tmp_path / "target", ONE_LABEL)
    train(order_of(target, plan_of(), "small", tmp_path / "pretrained"))
    plan = plan_of()
    network = plan.configurations["small"]["architecture"]
    network["arch_kwargs"]["features_per_stage"] = [6, 12]
    other = tmp_path / "plans.json"
    other.write_text(json.dumps(plan.to_json()))

    model = tmp_path / "model"
    begun = ("train", "--raw", target, "--plans", other, "--configuration", "small", "--out", model)

    assert run(*begun, "--pretrained", tmp_path / "pretrained") == 1
    assert not model.exists()


def recipe(title: str, words: dict[str, Path]) -> list[list[str]]:
    """The commands under a title of the documentation, with paths in place of its words in capitals."""
    text = (ROOT / "docs/fine-tuning.md").read_text()
    (block,) = re.findall(
        r"```bash\n(.*?)```", text.partition(f"## {title}\n")[2].partition("\n## ")[0], re.DOTALL
    )
    for word, path in words.items():
        block = re.sub(rf"\b{word}\b", str(path), block)
    return [line.removeprefix("python -m core ").split() for line in block.splitlines()]


def short(command: list[str]) -> list[str]:
    """The command, with as little training as there can be."""
    few = ("--epochs", "1", "--iterations-per-epoch", "1", "--device", "cpu")
    return [*command, *few] if command[0] == "train" else command


def test_the_recipe_of_the_documentation_works(tmp_path: Path, capfd: Any) -> None:
    source = make_dataset(tmp_path / "source", Recipe(cases=2))
    target = make_dataset(tmp_path / "target", Recipe(cases=5, labels=ONE_LABEL.labels, seed=4))
    (tmp_path / "work").mkdir()
    words = {"TARGET": target, "SOURCE": source, "WORK": tmp_path / "work"}

    for command in recipe("Pretraining on another dataset", words):
        assert run(*short(command)) == 0, capfd.readouterr().err

    model = tmp_path / "work/model"
    record = record_of(model / "fold_0")
    assert {tensor.reason for tensor in record.left} == {"head"}
    assert record.source.name == "pretrained/fold_all/weights.safetensors"
    assert json.loads((model / "fold_0/fold.json").read_text())["pretrained"] == record.source.to_json()
    assert "\n".join(record.summary()) in capfd.readouterr().out


@pytest.mark.parity
@pytest.mark.skipif(not RECORDED.exists(), reason="../shared is absent: no recorded models")
def test_an_official_model_is_fine_tuned_by_its_own_plan(tmp_path: Path, capfd: Any) -> None:
    with zipfile.ZipFile(RECORDED / "hippocampus_2d_fold0_no_optimizer.zip") as archive:
        archive.extractall(tmp_path / "official")
    (model,) = (tmp_path / "official").glob("*/*")
    target = make_dataset(tmp_path / "target", Recipe(cases=5, labels=ONE_LABEL.labels, shape=(6, 50, 36)))
    (tmp_path / "work").mkdir()
    words = {"TARGET": target, "MODEL": model, "WORK": tmp_path / "work"}

    for command in recipe("From a model that exists", words):
        as_2d = ["2d" if word == "3d_fullres" else word for word in command]
        assert run(*short(as_2d)) == 0, capfd.readouterr().err

    record = record_of(tmp_path / "work/tuned/fold_0")
    assert {tensor.reason for tensor in record.left} == {"head"}
    assert record.source.name.endswith("fold_0/checkpoint_final.pth")


def test_a_fold_without_a_model_is_refused(tmp_path: Path, capfd: Any) -> None:
    plans = tmp_path / "plans.json"
    plans.write_text(json.dumps(plan_of().to_json()))
    begun = (
        "train",
        "--raw",
        tmp_path,
        "--plans",
        plans,
        "--configuration",
        "small",
        "--out",
        tmp_path / "m",
    )

    assert run(*begun, "--pretrained-fold", 0) == 1
    assert "--pretrained-fold goes with --pretrained" in capfd.readouterr().err
    assert run(*begun, "--pretrained", tmp_path / "gone") == 1
