"""A whole cross-validation over REST: five folds of several configurations, the choice, and what it is worth.

Usage:
    make bench BENCH=selection ARGS="--raw Dataset004_Name [--cases 40] [--held-out 20] [--epochs 10] [--iterations 25]
        [--threads 2]"
    PYTHONPATH=examples/demo python -m benchmarks.selection …

From the upload to the model: every configuration is trained on all five folds, the service chooses a configuration
or an ensemble and its postprocessing, and the model that comes of it segments images that no fold saw. Nothing is
asserted; the last line is JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.figures import machine
from benchmarks.rest import STRUCTURES, Bench, Json, held_out_dice, serving, train, upload

QUICK: Json = {"optimizer": "adamw", "initial_learning_rate": 0.003}
"""Settings with which a network learns something in a few hundred steps."""


def main() -> None:
    """Train, choose, segment; print each candidate's Dice and that of the held-out images."""
    chosen = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with serving(folder, {"SEG_THREADS": str(chosen.threads)}) as (client, http):
            bench = Bench(client, http, folder, chosen.raw, chosen.cases, chosen.held_out)
            print(json.dumps(_measured(bench, chosen)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Cross-validate configurations over REST, and use what is chosen."
    )
    parser.add_argument(
        "--raw", type=Path, required=True, help="a dataset in nnU-Net v2's layout, with labels 1 and 2"
    )
    parser.add_argument("--plans", type=Path, help="plans.json to train by; by default the service plans")
    parser.add_argument("--configurations", nargs="+", default=["2d", "3d_fullres"])
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2, help="of a training's arithmetic")
    return parser.parse_args()


def _measured(bench: Bench, chosen: argparse.Namespace) -> Json:
    """Return all figures."""
    upload(bench, "cases")
    request: Json = {
        "dataset_id": bench.uploaded["cases"],
        "configurations": chosen.configurations,
        "epochs": chosen.epochs,
        "iterations_per_epoch": chosen.iterations,
        "settings": QUICK,
    }
    if chosen.plans is not None:
        request["plan"] = _kept(bench.http, bench.uploaded["cases"], chosen.plans)
    started = time.monotonic()
    training = train(bench, request)
    seconds = round(time.monotonic() - started)
    model = bench.client.get(f"/models/{training['model_id']}")
    for candidate in model["selection"]["candidates"]:
        print(json.dumps(candidate), flush=True)
    started = time.monotonic()
    found = held_out_dice(bench, training["model_id"])
    return {
        "configuration": model["configuration"],
        "folds": model["folds"],
        "members": model["members"],
        "cross_validated_dice": model["mean_dice"],
        "postprocessing": model["postprocessing"],
        "reason": model["reason"],
        "held_out_cases": len(found),
        "held_out_dice": {
            name: round(statistics.fmean(one[name] for one in found), 4) for name in STRUCTURES
        },
        "training_seconds": seconds,
        "seconds_per_prediction": round((time.monotonic() - started) / len(found), 1),
        "machine": machine(),
    }


def _kept(http: httpx.Client, dataset_id: str, plans: Path) -> str:
    """Give a dataset a plan of one's own; return its name."""
    name = "given"
    http.put(f"/datasets/{dataset_id}/plans/{name}", json=json.loads(plans.read_text())).raise_for_status()
    return name


if __name__ == "__main__":
    main()
