"""What each way to train comes to: regions, an ignore label, a cascade, fine-tuning, a residual encoder, over REST.

Usage:
    make bench BENCH=features ARGS="[--raw Dataset004_Name] [--epochs 10] [--iterations 25] [--threads 2] [--only cascade …]"
    PYTHONPATH=examples/demo python -m benchmarks.features …

Every feature is trained from the upload to the model, beside the same job without it: same images, same seed, same
number of steps, a small network. Both models then segment the same held-out images, and the Dice of the first
label, of the second, and of both together is that of the label maps that the service sent. Without --raw the
dataset is made: noisy ellipsoids. Nothing is asserted; the last line is JSON.
"""

import argparse
import copy
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.figures import machine, print_table
from benchmarks.rest import STRUCTURES, Bench, Json, held_out_dice, serving, train, upload
from tests.factories import Recipe, make_dataset

TRAINED, HELD_OUT = 15, 3
"""Cases of each dataset."""

FEW = 4
"""Cases that are left to learn from where a pretrained network pays."""

ANNOTATED_EVERY = 4
"""Of so many slices one is annotated, where the others are ignored."""

FEATURES = (8, 16, 32, 64, 64, 64)
"""Of the stages of a network: so few that a processor trains it in seconds."""

PATCH = (24, 32, 24)

QUICK = {"optimizer": "adamw", "initial_learning_rate": 0.003}
"""Settings with which a small network learns something in a few hundred steps."""

IGNORE = 3

PLAN = "small"


def main() -> None:
    """Train each feature beside the same without it, and print the Dice of both."""
    parser = argparse.ArgumentParser(description="Compare ways to train, over REST.")
    parser.add_argument("--raw", type=Path, help="a dataset in nnU-Net v2's layout, with labels 1 and 2")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2, help="of a training's arithmetic")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    chosen = parser.parse_args()
    rows: list[Json] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        raw = chosen.raw or _made(folder / "made")
        settings = {"SEG_THREADS": str(chosen.threads)}
        with serving(folder, settings) as (client, http):
            length = {
                "epochs": chosen.epochs,
                "iterations_per_epoch": chosen.iterations,
                "seed": 1,
                "settings": QUICK,
            }
            bench = Bench(client, http, folder, raw, TRAINED, HELD_OUT, length)
            for name in chosen.only:
                for row in WAYS[name](bench):
                    rows.append({"feature": name, **row})
                    print(json.dumps(rows[-1]), flush=True)
    print_table(rows)
    print(json.dumps({"machine": machine(), "rows": rows}))


def _made(folder: Path) -> Path:
    """Make images in which noise hides where the structures end."""
    return make_dataset(folder, Recipe(cases=TRAINED + HELD_OUT, shape=(32, 44, 36), noise=90.0))


def regions(bench: Bench) -> list[Json]:
    """Both structures as one region, the second within it, against one label each."""
    together = {"background": 0, "both": [1, 2], "second": 2}
    upload(bench, "regions", description={"labels": together, "regions_class_order": [1, 2]})
    return [_plain(bench), _row(bench, "with regions", "regions")]


def ignore_label(bench: Bench) -> list[Json]:
    """One slice of several is annotated: the others ignored, or taken for background, or annotated as well."""
    labels = {**_labels(bench), "ignore": IGNORE}
    upload(bench, "ignore", description={"labels": labels}, annotate=lambda zyx: _sparse(zyx, IGNORE))
    upload(bench, "background", annotate=lambda zyx: _sparse(zyx, 0))
    return [
        _plain(bench, "all slices annotated"),
        _row(bench, "a quarter of the slices, the others ignored", "ignore"),
        _row(bench, "a quarter of the slices, the others background", "background"),
    ]


def cascade(bench: Bench) -> list[Json]:
    """A patch of an eighth of the image alone, and with what the same network saw of it at half the resolution."""
    upload(bench, "cascade")
    plan = _keep_plan(bench, "cascade", edit=_with_cascade)
    halves = [bench.cases[:TRAINED:2], bench.cases[1:TRAINED:2]]
    splits = [{"train": halves[1], "val": halves[0]}, {"train": halves[0], "val": halves[1]}]
    chosen = {"plan": plan, "splits": splits, "folds": [0]}
    return [
        _row(bench, "3d_fullres", "cascade", chosen | {"configurations": ["3d_fullres"]}),
        _row(bench, "3d_cascade_fullres", "cascade", chosen | {"configurations": ["3d_cascade_fullres"]}),
    ]


def fine_tuning(bench: Bench) -> list[Json]:
    """A few cases and a third of the epochs: weights drawn, and weights of a network that saw other cases."""
    upload(bench, "many", cases=bench.cases[FEW:TRAINED])
    upload(bench, "few", cases=bench.cases[:FEW])
    short = {"folds": ["all"], "epochs": max(1, bench.length["epochs"] // 3)}
    source = _trained(bench, "many", {"folds": ["all"]})
    pretrained = {"pretrained": {"model_id": source["model_id"]}}
    return [
        _row(bench, "drawn weights", "few", short),
        _row(bench, "pretrained weights", "few", short | pretrained),
    ]


def residual_encoder(bench: Bench) -> list[Json]:
    """The planner for residual encoders, with as many features per stage."""
    upload(bench, "plain")
    plan = _keep_plan(bench, "plain", preset="resenc_m")
    return [_plain(bench), _row(bench, "residual encoder", "plain", {"plan": plan})]


WAYS: Mapping[str, Callable[[Bench], list[Json]]] = {
    "regions": regions,
    "ignore label": ignore_label,
    "cascade": cascade,
    "fine-tuning": fine_tuning,
    "residual encoder": residual_encoder,
}

PLAIN: dict[Path, Json] = {}
"""The row without any feature, once it is measured: several features stand beside it."""


def _plain(bench: Bench, job: str = "without") -> Json:
    """Return the row of the dataset as it is."""
    if bench.folder not in PLAIN:
        upload(bench, "plain")
        PLAIN[bench.folder] = _row(bench, job, "plain")
    return {**PLAIN[bench.folder], "job": job}


def _row(bench: Bench, job: str, dataset: str, request: Json | None = None) -> Json:
    """Train, have the held-out images segmented, and return how well that went."""
    started = time.monotonic()
    training = _trained(bench, dataset, request or {})
    seconds = time.monotonic() - started
    found = held_out_dice(bench, training["model_id"])
    means = {name: round(statistics.fmean(one[name] for one in found), 3) for name in STRUCTURES}
    return {"job": job, "configuration": training["configuration"], **means, "seconds": round(seconds)}


def _trained(bench: Bench, dataset: str, request: Json) -> Json:
    """Train on a dataset, fold 0 of the default cross-validation unless the request says otherwise."""
    known = {
        "dataset_id": bench.uploaded[dataset],
        "folds": [0],
        "plan": PLAN,
        "configurations": ["3d_fullres"],
    }
    known = {**bench.length, **known, **request}
    if known["plan"] == PLAN:
        _keep_plan(bench, dataset)
    return train(bench, known)


def _keep_plan(
    bench: Bench, dataset: str, preset: str = "default", edit: Callable[[Json], None] | None = None
) -> str:
    """Plan for a dataset, make the networks small, and keep that as another plan; return its name."""
    name = PLAN if edit is None and preset == "default" else f"{PLAN}_{dataset}_{preset}"
    plans = f"/datasets/{bench.uploaded[dataset]}/plans"
    made = bench.http.post(plans, json={"preset": preset, "name": f"{name}_made"})
    if made.status_code == httpx.codes.CONFLICT:  # It is there already.
        return name
    made.raise_for_status()
    bench.client.follow(made.json()["job_id"], lambda _job: None)
    plan = bench.client.get(f"{plans}/{name}_made")["plan"]
    configuration = plan["configurations"]["3d_fullres"]
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = list(FEATURES[: arguments["n_stages"]])
    unit = [math.prod(axis) for axis in zip(*arguments["strides"], strict=True)]
    configuration["patch_size"] = [-(-size // step) * step for size, step in zip(PATCH, unit, strict=True)]
    configuration["batch_size"] = 2
    if edit is not None:
        edit(plan)
    bench.http.put(f"{plans}/{name}", json=plan).raise_for_status()
    return name


def _with_cascade(plan: Json) -> None:
    """Halve the patch of 3d_fullres, and add a stage of half the resolution before it."""
    full = plan["configurations"]["3d_fullres"]
    arguments = full["architecture"]["arch_kwargs"]
    unit = [math.prod(axis) for axis in zip(*arguments["strides"], strict=True)]
    full["patch_size"] = [
        max(1, size // 2 // step) * step for size, step in zip(full["patch_size"], unit, strict=True)
    ]
    low = copy.deepcopy(full)
    low |= {
        "data_identifier": f"{plan['plans_name']}_3d_lowres",
        "spacing": [2 * edge for edge in full["spacing"]],
        "median_image_size_in_voxels": [max(1, size // 2) for size in full["median_image_size_in_voxels"]],
        "next_stage": "3d_cascade_fullres",
    }
    plan["configurations"] |= {
        "3d_lowres": low,
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }


def _labels(bench: Bench) -> Json:
    """Return the labels of the dataset as it is."""
    return dict(json.loads((bench.raw / "dataset.json").read_text())["labels"])


def _sparse(labels_zyx: Any, other: int) -> Any:
    """Keep the annotation of every so many slices."""
    sparse_zyx = np.full_like(labels_zyx, other)
    sparse_zyx[::ANNOTATED_EVERY] = labels_zyx[::ANNOTATED_EVERY]
    return sparse_zyx


if __name__ == "__main__":
    main()
