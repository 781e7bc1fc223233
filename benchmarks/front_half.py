"""From a dataset to preprocessed cases, ours and the reference's in turn: command to command, function to function.

Usage:
    make bench BENCH=front_half ARGS="--reference VENV/bin/python --raw Dataset004_Name --plans nnUNetPlans.json"
        [--configurations 3d_fullres 2d] [--pairs 3] [--workers 2] [--large] [--json FILE]

The reference is the package nnunetv2 in an environment of its own. Each side starts from nothing, with as many
workers as the other; what both made is compared, so that a ratio stands beside the difference of the results.
Memory is that of the largest process.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its customary name

from benchmarks.figures import ROOT, machine, median, print_table

FUNCTIONS = """
import json, sys, time
import numpy as np

side, folder = sys.argv[1:]
rng = np.random.default_rng(0)
shape, new_shape, spacing, new_spacing = (96, 256, 256), (128, 220, 220), (2.0, 1.0, 1.0), (1.5, 256 / 220, 256 / 220)
image = (300 * rng.normal(size=(1, *shape)) + np.linspace(-1000, 1000, shape[2])).astype(np.float32)
labels, grid = np.zeros((1, *shape), np.int16), np.ogrid[: shape[0], : shape[1], : shape[2]]
for label in range(1, 26):
    centre, radius = rng.uniform(0, 1, 3) * shape, rng.uniform(8, 28)
    distance = sum((axis - middle) ** 2 * weight for axis, middle, weight in zip(grid, centre, (4, 1, 1)))
    labels[0][distance < radius**2] = label
if side == "ours":
    from core.domain.resampling import SplineArguments
    from core.preprocessing.resample import resample_image, resample_labels
    work = {
        "image": lambda: resample_image(image, new_shape, spacing, new_spacing, SplineArguments(order=3)),
        "labels": lambda: resample_labels(labels[0], new_shape, spacing, new_spacing, SplineArguments(order=1))[None],
    }
else:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape as resample
    slices = {"order_z": 0, "force_separate_z": None}
    work = {
        "image": lambda: resample(image, new_shape, spacing, new_spacing, is_seg=False, order=3, **slices),
        "labels": lambda: resample(labels, new_shape, spacing, new_spacing, is_seg=True, order=1, **slices),
    }
seconds = {}
for name, call in work.items():
    np.save(f"{folder}/{side}_{name}.npy", call())
    taken = []
    for _ in range(3 if side == "ours" else 1):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    seconds[name] = min(taken)
print(json.dumps(seconds))
"""
"""Resampling alone, on one thread; the first call warms caches and is compared."""

READ_STORE = """
import sys
from pathlib import Path
import blosc2, numpy as np

source, target = map(Path, sys.argv[1:])
for path in source.glob("*.b2nd"):
    np.save(target / f"{path.name.removesuffix('.b2nd')}.npy", blosc2.open(str(path))[:])
"""
"""The reference's store → npy files."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

LARGE_SHAPE = (400, 512, 512)


@dataclass(frozen=True)
class Run:
    """What a command took."""

    seconds: float
    peak_mib: int
    """Memory of the largest process."""
    said: str


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    name: str
    ours: Callable[[], Run]
    reference: Callable[[], Run]
    difference: Callable[[], str]
    """Compares what the last runs of both made."""


@dataclass(frozen=True)
class Bench:
    """A dataset, its plans, and where both sides work."""

    reference: Path
    """Its Python."""
    raw: Path
    plans: Path
    workers: int
    work: Path

    @property
    def name(self) -> str:
        """Of the dataset, as the reference wants it."""
        return self.raw.name

    @property
    def identifier(self) -> str:
        """Of the dataset: the number in its name."""
        return str(int(self.name[7:].split("_")[0]))

    @property
    def environment(self) -> dict[str, str]:
        """Tells the reference where its folders are."""
        folders = {f"nnUNet_{part}": str(self.work / part) for part in ("raw", "preprocessed", "results")}
        return dict(os.environ) | folders  # noqa: TID251 - for another program

    def prepare(self) -> None:
        """Lay out the reference's folders."""
        (self.work / "raw").mkdir()
        (self.work / "raw" / self.name).symlink_to(self.raw.resolve())

    def fresh(self) -> Path:
        """Empty the folder that the reference writes to."""
        folder = self.work / "preprocessed" / self.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copyfile(self.raw / "dataset.json", folder / "dataset.json")
        values = json.loads(self.plans.read_text()) | {"dataset_name": self.name}
        (folder / f"{values['plans_name']}.json").write_text(json.dumps(values))
        return folder

    def tool(self, name: str, *words: object) -> Run:
        """Run a command of the reference."""
        self.fresh()
        command = [self.reference.with_name(name), "-d", self.identifier, *words, "-np", self.workers]
        return run(command, self.environment)

    def ours(self, *words: object) -> Run:
        """Run a command of ours."""
        return run([sys.executable, "-m", "core", *words, "--workers", self.workers])


def main() -> None:
    """Measure pairs and print the medians of their ratios."""
    arguments = _arguments()
    conditions = machine()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        reference = arguments.reference.absolute()
        bench = Bench(reference, arguments.raw, arguments.plans, arguments.workers, work)
        bench.prepare()
        cases = [fingerprint_case(bench), *(preprocess_case(bench, one) for one in arguments.configurations)]
        rows = [measured(case, arguments.pairs) for case in cases]
        rows += function_rows(bench, arguments.pairs)
        if arguments.large:
            large = Bench(reference, *make_large(work / "Dataset900_Large", bench.plans), 1, work / "large")
            large.work.mkdir()
            large.prepare()
            rows.append(measured(preprocess_case(large, "3d_fullres"), 1))
    print_table(rows)
    report = {"machine": conditions, "workers": arguments.workers, "rows": rows}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=4))
    print(json.dumps(report))


def fingerprint_case(bench: Bench) -> Case:
    """Compare the commands that measure a dataset."""
    found = bench.work / "fingerprint.json"
    expected = bench.work / "preprocessed" / bench.name / "dataset_fingerprint.json"
    return Case(
        "fingerprint",
        lambda: bench.ours("fingerprint", "--raw", bench.raw, "--out", found),
        lambda: bench.tool("nnUNetv2_extract_fingerprint"),
        lambda: (
            f"{relative_difference(json.loads(found.read_text()), json.loads(expected.read_text())):.1e} relative"
        ),
    )


def preprocess_case(bench: Bench, configuration: str) -> Case:
    """Compare the commands that preprocess a dataset for one configuration."""
    store = bench.work / f"store_{configuration}"
    plans = json.loads(bench.plans.read_text())
    made = (
        bench.work / "preprocessed" / bench.name / plans["configurations"][configuration]["data_identifier"]
    )

    def ours() -> Run:
        shutil.rmtree(store, ignore_errors=True)
        words = ("--raw", bench.raw, "--plans", bench.plans, "--configuration", configuration, "--out", store)
        return bench.ours("preprocess", *words)

    return Case(
        f"preprocess {configuration}" + (" of one 512 x 512 x 400 CT" if "Large" in bench.name else ""),
        ours,
        lambda: bench.tool("nnUNetv2_preprocess", "-plans_name", plans["plans_name"], "-c", configuration),
        lambda: store_difference(bench, store, made),
    )


def measured(case: Case, pairs: int) -> dict[str, object]:
    """Run both sides in turn, the first one alternating."""
    sides: dict[str, list[Run]] = {"ours": [], "reference": []}
    for number in range(pairs):
        order = ("ours", "reference") if number % 2 == 0 else ("reference", "ours")
        for side in order:
            sides[side].append(case.ours() if side == "ours" else case.reference())
    return _row(case.name, sides["ours"], sides["reference"], case.difference())


def function_rows(bench: Bench, pairs: int) -> list[dict[str, object]]:
    """Compare the functions that resample an image and a label map with 25 labels, on one thread."""
    sides: dict[str, list[dict[str, float]]] = {"ours": [], "reference": []}
    path = {"PYTHONPATH": str(ROOT)}
    for number in range(pairs):
        for side in sorted(sides, reverse=number % 2 == 1):
            python = sys.executable if side == "ours" else bench.reference
            environment = {**bench.environment, **ONE_THREAD, **(path if side == "ours" else {})}
            said = run([python, "-c", FUNCTIONS, side, bench.work], environment).said
            sides[side].append(json.loads(said.strip().splitlines()[-1]))
    rows = []
    for name, title in (("image", "resample an image, order 3"), ("labels", "resample 25 labels")):
        found, expected = (np.load(bench.work / f"{side}_{name}.npy") for side in ("ours", "reference"))
        ours, reference = ([Run(one[name], 0, "") for one in sides[side]] for side in sides)
        rows.append(
            _row(f"{title}, 96 x 256 x 256 to 128 x 220 x 220", ours, reference, _difference(found, expected))
        )
    return rows


def store_difference(bench: Bench, store: Path, made: Path) -> str:
    """Compare our store with the reference's, case by case."""
    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        run([bench.reference, "-c", READ_STORE, made, folder])
        worst, different, count = 0.0, 0, 0
        for path in sorted(Path(folder).glob("*.npy")):
            if path.stem.endswith("_seg"):
                continue
            with np.load(store / f"{path.stem}.npz") as found:
                expected = np.load(path)
                labels = np.load(path.with_name(f"{path.stem}_seg.npy"))
                worst = max(worst, float(np.abs(found["data"] - expected).max() / np.ptp(expected)))
                different += int((found["seg"] != labels).sum())
            count += 1
    return f"{worst:.1e} of the range, {different} labels, {count} cases"


def relative_difference(found: Any, expected: Any) -> float:
    """Return the largest relative difference of numbers in two JSON values of the same form."""
    if isinstance(expected, Mapping):
        return max((relative_difference(found[key], expected[key]) for key in expected), default=0.0)
    if isinstance(expected, Sequence) and not isinstance(expected, str):
        if len(found) != len(expected):
            return float("inf")
        return max((relative_difference(*pair) for pair in zip(found, expected, strict=True)), default=0.0)
    return float(abs(found - expected) / max(abs(expected), 1e-12))


def make_large(folder: Path, plans: Path) -> tuple[Path, Path]:
    """Make a dataset of one CT with 25 labels, and plans that bring it to 1.5 mm."""
    rng = np.random.default_rng(0)
    voxels_zyx, labels_zyx = np.empty(LARGE_SHAPE, np.int16), np.zeros(LARGE_SHAPE, np.uint8)
    y, x = np.ogrid[: LARGE_SHAPE[1], : LARGE_SHAPE[2]]
    body_yx = ((y - 256) / 200) ** 2 + ((x - 256) / 240) ** 2 < 1
    for slice_yx in voxels_zyx:
        air_yx = rng.normal(-1000, 8, body_yx.shape)
        slice_yx[:] = np.where(body_yx, rng.normal(40, 30, body_yx.shape), air_yx)
    for label in range(1, 26):
        centre, radius = rng.uniform(0.25, 0.75, 3) * LARGE_SHAPE, rng.uniform(20, 50)
        box = tuple(slice(int(middle - radius), int(middle + radius) + 1) for middle in centre)
        inside = (
            sum(
                (axis + low.start - middle) ** 2
                for axis, low, middle in zip(
                    np.ogrid[tuple(slice(0, part.stop - part.start) for part in box)],
                    box,
                    centre,
                    strict=True,
                )
            )
            < radius**2
        )
        labels_zyx[box][inside] = label
    for array, name in ((voxels_zyx, "imagesTr/ct_0000.nii.gz"), (labels_zyx, "labelsTr/ct.nii.gz")):
        image: Any = sitk.GetImageFromArray(array)
        image.SetSpacing((0.8, 0.8, 1.0))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(folder / name), useCompression=True)
    labels = {"background": 0, **{f"label {label}": label for label in range(1, 26)}}
    description = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    values = json.loads(plans.read_text())
    values["foreground_intensity_properties_per_channel"] = {
        "0": {
            "max": 300,
            "mean": 60,
            "median": 60,
            "min": -200,
            "percentile_00_5": -50,
            "percentile_99_5": 150,
            "std": 30,
        }
    }
    values["configurations"]["3d_fullres"] |= {
        "spacing": [1.5, 1.5, 1.5],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
    }
    target = folder.parent / "large_plans.json"
    target.write_text(json.dumps(values))
    return folder, target


def run(command: Sequence[object], environment: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end.

    Raises:
        SystemExit: It failed.
    """
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command],
            env=environment,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {said[-2000:]}")
    return Run(seconds, used.ru_maxrss // 1024, said)


def _difference(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> str:
    """Compare images by range, label maps by voxel."""
    if expected.dtype.kind == "f":
        return f"{float(np.abs(found - expected).max() / np.ptp(expected)):.1e} of the range"
    return f"{int((found != expected).sum())} labels of {expected.size}"


def _row(name: str, ours: Sequence[Run], reference: Sequence[Run], difference: str) -> dict[str, object]:
    """Put pairs into one line."""
    ratios = [theirs.seconds / own.seconds for own, theirs in zip(ours, reference, strict=True)]
    return {
        "what": name,
        "ours, s": median([one.seconds for one in ours]),
        "reference, s": median([one.seconds for one in reference]),
        "ratio": round(statistics.median(ratios), 1),
        "of each pair": " ".join(f"{ratio:.1f}" for ratio in ratios),
        "memory, MiB": " / ".join(
            str(max(one.peak_mib for one in runs)) for runs in (ours, reference) if runs[0].peak_mib
        ),
        "difference": difference,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--reference", type=Path, required=True, help="Python of an environment with nnunetv2"
    )
    parser.add_argument("--raw", type=Path, required=True, help="dataset folder, named Dataset004_Name")
    parser.add_argument("--plans", type=Path, required=True, help="its plans.json")
    parser.add_argument("--configurations", nargs="+", default=["3d_fullres", "2d"])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--large", action="store_true", help="also one 512 x 512 x 400 CT, once; takes minutes"
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
