"""The package of docs/extending.md: built from the page, installed by pip, and used from the command line."""

import importlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from core.domain.labels import label_set
from core.domain.training import TrainingSettings
from core.extensions import Group
from core.training.loss import LossSetup, MakeLoss
from core.training.ranks import ALONE, Ranks
from tests.recipes import DOCS, blocks

ROOT = Path(__file__).parents[1]
PACKAGE = "nnunet_example"


@dataclass(frozen=True)
class Bench:
    """A dataset of .npy files, and what the package was used for on it."""

    site: Path
    """Where the package is installed."""
    folder: Path

    def run(self, *arguments: object, is_installed: bool = True) -> subprocess.CompletedProcess[str]:
        """Call a verb in a fresh process, in which the package is installed or not."""
        site = self.site if is_installed else self.folder / "nowhere"
        program = (
            f"import sys; sys.path.insert(0, {str(site)!r}); from core.__main__ import main; sys.exit(main())"
        )
        words = [str(argument) for argument in arguments]
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", program, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=300,
        )

    def must(self, *arguments: object) -> str:
        """Call a verb that must succeed; return what it printed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    missing = [tool for tool in ("pip", "setuptools") if find_spec(tool) is None]
    if missing:
        pytest.skip(f"the package is built with {' and '.join(missing)}, which this environment lacks")
    folder = tmp_path_factory.mktemp("extending")
    source = folder / "source"
    for code in (*blocks("extending.md", "toml"), *blocks("extending.md")):
        path = source / code.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    (source / PACKAGE / "__init__.py").touch()
    words = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        folder / "site",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, words), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    write_dataset(folder / "raw")
    return Bench(folder / "site", folder)


def write_dataset(raw: Path, cases: int = 5) -> None:
    """Bright balls in noise."""
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    z, y, x = np.ogrid[:10, :24, :24]
    for case in range(cases):
        labels_zyx = ((2 * (z - 5)) ** 2 + (y - 12) ** 2 + (x - 9 - case) ** 2 < 36).astype(np.uint8)
        noise_zyx = np.random.default_rng(case).normal(100, 10, labels_zyx.shape)
        np.save(raw / "imagesTr" / f"ball{case}_0000.npy", (noise_zyx + 60 * labels_zyx).astype(np.float32))
        np.save(raw / "labelsTr" / f"ball{case}.npy", labels_zyx)
    description = {
        "channel_names": {"0": "PercentileNormalization"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": cases,
        "file_ending": ".npy",
    }
    (raw / "dataset.json").write_text(json.dumps(description))


@pytest.mark.slow
def test_all_seven_recipes_carry_a_dataset_to_a_prediction(bench: Bench) -> None:
    raw, fingerprint, plans, model = (
        bench.folder / name for name in ("raw", "f.json", "plans.json", "model")
    )
    settings = bench.folder / "settings.json"
    settings.write_text(
        '{"loss": "focal", "augmentation": "brighter", "epochs": 2, "iterations_per_epoch": 4}'
    )
    order = ("--raw", raw, "--plans", plans, "--configuration", "2d")

    assert "no problem found" in bench.must("verify", "--raw", raw)
    bench.must("fingerprint", "--raw", raw, "--out", fingerprint)
    given = ("--dataset-json", raw / "dataset.json", "--fingerprint", fingerprint, "--reader", "NumpyIO")
    bench.must("plan", *given, "--preset", "example", "--out", plans)
    bench.must("preprocess", *order, "--out", bench.folder / "cases")
    bench.must(
        "train", *order, "--out", model, "--settings", settings, "--preprocessed", bench.folder / "cases"
    )
    bench.must(
        "predict", "--model", model, "--input", raw / "imagesTr", "--out", bench.folder / "predictions"
    )

    planned = json.loads(plans.read_text())
    chosen = planned["configurations"]["2d"]
    assert (planned["image_reader_writer"], planned["plans_name"]) == ("NumpyIO", "ExamplePlans")
    assert chosen["normalization_schemes"] == ["PercentileNormalization"]
    assert chosen["resampling_fn_seg"] == "linear_across_slices"
    assert chosen["architecture"]["network_class_name"] == "SmallNetwork"
    assert len((model / "fold_0" / "epochs.jsonl").read_text().splitlines()) == 2
    found = np.load(bench.folder / "predictions" / "ball0.npy")
    assert found.shape == (10, 24, 24)
    assert set(np.unique(found)) <= {0, 1}


@pytest.mark.slow
def test_without_the_package_its_names_are_unknown(bench: Bench) -> None:
    raw, out = bench.folder / "raw", bench.folder / "f2.json"

    done = bench.run("fingerprint", "--raw", raw, "--out", out, is_installed=False)

    assert done.returncode == 1
    assert ".npy" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_loss_is_that_of_the_whole_batch_where_several_processes_share_it() -> None:
    names: dict[str, MakeLoss] = {}
    exec(next(code for code in blocks("extending.md") if "/loss.py" in code), names)  # noqa: S102
    labels, settings = label_set({"background": 0, "ball": 1, "ignore": 2}, None), TrainingSettings()
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn((3, 2, 4, 4, 4), generator=rng)
    target = torch.randint(3, (3, 1, 4, 4, 4), generator=rng)
    of_the_others: list[torch.Tensor] = []

    def keep(own: torch.Tensor) -> torch.Tensor:
        of_the_others.append(own)
        return own

    def add(own: torch.Tensor) -> torch.Tensor:
        return own + of_the_others.pop(0)

    def loss(ranks: Ranks, samples: slice) -> float:
        made = names["focal"](LossSetup(labels, batch_dice=False, settings=settings, ranks=ranks))
        return made(logits[samples], target[samples]).item()

    whole = loss(ALONE, slice(3))
    loss(Ranks(rank=1, count=2, total=keep, total_with_gradient=keep), slice(2, 3))
    assert loss(Ranks(rank=0, count=2, total=add, total_with_gradient=add), slice(2)) == pytest.approx(whole)


def test_every_group_has_a_recipe() -> None:
    (project,) = blocks("extending.md", "toml")

    assert sorted(re.findall(r'entry-points\."(.*)"', project)) == sorted(Group)


def test_what_packages_may_rely_on_is_there() -> None:
    page = (DOCS / "extending.md").read_text()
    imported = re.findall(r"^from (core\S*) import (.*)$", "\n".join(blocks("extending.md")), re.MULTILINE)
    named = [path.rpartition(".")[::2] for path in re.findall(r"`(core\.[a-z_.]+\.\w+)`", page)]

    assert len(imported) > 8
    for module, names in (*imported, *named):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"
