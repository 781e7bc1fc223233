"""Seconds per epoch of training, ours and the reference's in turn, on the same plan, cases and machine.

Usage:
    python benchmarks/epoch.py --raw DATASET --plans plans.json --configuration 3d_fullres
        [--reference-python VENV/bin/python --preprocessed nnUNet_preprocessed] [--pairs 2]

The reference is the package nnunetv2 in an environment of its own; its preprocessed folder must hold the
same dataset and plans. Without it, only our own figure is printed. One JSON line per pair.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

OURS = """
import json, sys
from pathlib import Path
from core import pipeline
from core.domain.plan import Plan
from core.domain.training import TrainingSettings
from core.errors import CancelledError

class TwoEpochs:
    taken = []
    def report(self, progress): pass
    def record_epoch(self, epoch): self.taken.append(epoch.seconds)
    def stop_requested(self): return len(self.taken) == 2

raw, plans, configuration, store, model, iterations = sys.argv[1:]
plan, observer = Plan.parse(Path(plans).read_text()), TwoEpochs()
if not Path(store).is_dir():
    pipeline.preprocess(Path(raw), plan, configuration, Path(store), observer)
settings = TrainingSettings(epochs=3, iterations_per_epoch=int(iterations))
try:
    pipeline.train(
        pipeline.TrainOrder(Path(raw), plan, configuration, 0, settings, Path(model), Path(store)), observer
    )
except CancelledError:
    print(json.dumps(observer.taken[1]))
"""
"""The second epoch counts: the first one warms caches."""

REFERENCE = """
import json, sys, time
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

folder, plans, configuration, iterations = sys.argv[1:]
values = json.load(open(plans)) | {"continue_training": False}
description = json.load(open(folder + "/dataset.json"))
trainer = nnUNetTrainer(values, configuration, 0, description, torch.device("cpu"))
trainer.num_epochs, trainer.num_iterations_per_epoch = 2, int(iterations)
trainer.num_val_iterations_per_epoch = max(1, int(iterations) // 5)
trainer.disable_checkpointing = True
begin, end, times = trainer.on_epoch_start, trainer.on_epoch_end, []
trainer.on_epoch_start = lambda: (times.append(time.monotonic()), begin())
trainer.on_epoch_end = lambda: (times.append(time.monotonic()), end())
trainer.run_training()
print(json.dumps(times[3] - times[2]))
"""


def main() -> None:
    """Measure pairs and print the median of their ratios."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as work:
        pairs = [_pair(arguments, Path(work), number) for number in range(arguments.pairs)]
    ratios = [pair["ratio"] for pair in pairs if pair["ratio"] is not None]
    if ratios:
        print(json.dumps({"median_ratio": round(statistics.median(ratios), 2), "pairs": len(ratios)}))


def _pair(arguments: argparse.Namespace, work: Path, number: int) -> dict[str, float | None]:
    """Measure both sides once, the first one alternating."""
    model = work / f"model_{number}"
    ours = [sys.executable, "-c", OURS, arguments.raw, arguments.plans, arguments.configuration]
    ours += [work / "store", model, arguments.iterations]
    sides = {"ours": ours}
    if arguments.reference_python is not None:
        dataset = arguments.preprocessed / arguments.raw.name
        reference = [arguments.reference_python, "-c", REFERENCE, dataset, arguments.plans]
        sides["reference"] = [*reference, arguments.configuration, arguments.iterations]
    order = list(sides) if number % 2 == 0 else list(reversed(sides))
    seconds = {side: _run(sides[side], arguments, work) for side in order}
    reference_seconds = seconds.get("reference")
    ratio = None if reference_seconds is None else reference_seconds / seconds["ours"]
    figures = {**seconds, "ratio": ratio, "load": os.getloadavg()[0]}
    print(json.dumps({name: None if value is None else round(value, 3) for name, value in figures.items()}))
    return {**seconds, "ratio": ratio}


def _run(command: list[object], arguments: argparse.Namespace, work: Path) -> float:
    """Run one side in a process of its own; its last line is the figure."""
    folders = {"nnUNet_raw": arguments.raw.parent, "nnUNet_results": work}
    folders["nnUNet_preprocessed"] = arguments.preprocessed or work
    environment = dict(os.environ) | {name: str(path) for name, path in folders.items()}  # noqa: TID251 - for another program
    done = subprocess.run(
        [str(word) for word in command], env=environment, check=True, capture_output=True, text=True
    )
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--plans", type=Path, required=True)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--reference-python", type=Path)
    parser.add_argument("--preprocessed", type=Path, help="the reference's folder of preprocessed datasets")
    return parser.parse_args()


if __name__ == "__main__":
    main()
