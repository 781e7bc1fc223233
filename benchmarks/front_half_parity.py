"""How far fingerprints, preprocessed cases and resampled arrays are from what the reference recorded.

Usage:
    make bench BENCH=front_half_parity ARGS="--goldens FOLDER [--hippocampus DATASET]"

The folder holds fingerprint, preprocess_goldens and resample_goldens. Fingerprints and preprocessing go through
the command line; one line per folder and configuration, and the largest of all at the end. The exit status is 1
if a limit is exceeded.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.figures import print_table
from benchmarks.front_half import relative_difference
from core import __main__ as command_line
from core.domain.resampling import SplineArguments
from core.preprocessing.resample import resample_image, resample_labels, separate_axis

FINGERPRINT_LIMIT = 1e-5
"""Relative."""

IMAGE_LIMIT = 1e-4
"""Of the image's range."""

Row = dict[str, object]
Arrays = dict[str, npt.NDArray[Any]]


def main() -> int:
    """Print all differences and the largest of each kind."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as work:
        fingerprints = list(_fingerprints(arguments, Path(work)))
        cases = list(_cases(arguments.goldens, Path(work)))
    arrays = list(_arrays(arguments.goldens))
    for rows in (fingerprints, cases, arrays):
        print_table(rows)
        print()
    summary = {
        "fingerprints, relative": max(float(str(row["largest relative difference"])) for row in fingerprints),
        "preprocessing, of the range": max(float(str(row["image, of the range"])) for row in cases),
        "labels and class locations that differ": sum(
            int(str(row["labels"])) + int(str(row["class locations"])) for row in cases
        ),
        "resampling, of the range": max(float(str(row["largest, of the range"])) for row in arrays),
        "resampled labels that differ": sum(int(str(row["labels"])) for row in arrays),
    }
    print(json.dumps(summary))
    limits = (FINGERPRINT_LIMIT, IMAGE_LIMIT, 0, IMAGE_LIMIT, 0)
    return int(any(value > limit for value, limit in zip(summary.values(), limits, strict=True)))


def _fingerprints(arguments: argparse.Namespace, work: Path) -> Iterator[Row]:
    """Measure every raw folder and compare with its recorded fingerprint."""
    folders = sorted((arguments.goldens / "preprocess_goldens").glob("*/*/fingerprint.json"))
    pairs = [(path.parent / "raw", path) for path in folders]
    if arguments.hippocampus is not None:
        pairs.append((arguments.hippocampus, arguments.goldens / "fingerprint/dataset_fingerprint.json"))
    for raw, recorded in pairs:
        _run("fingerprint", "--raw", raw, "--out", work / "fingerprint.json")
        found, expected = (json.loads(path.read_text()) for path in (work / "fingerprint.json", recorded))
        difference = relative_difference(found, expected)
        yield {"fingerprint of": raw.parent.name if raw.name == "raw" else raw.name} | {
            "largest relative difference": f"{difference:.1e}"
        }


def _cases(goldens: Path, work: Path) -> Iterator[Row]:
    """Preprocess every folder as it was recorded."""
    for expected in sorted((goldens / "preprocess_goldens").glob("*/*/expected/*")):
        folder = expected.parents[1]
        plans, configuration = expected.name.split("__")
        raw = folder / "raw"
        if not (raw / "dataset.json").is_file():
            raw = _completed(raw, folder / "dataset.json", work / folder.name)
        store = work / f"{folder.name}_{expected.name}"
        words = ("--raw", raw, "--plans", folder / f"{plans}.json", "--configuration", configuration)
        _run("preprocess", *words, "--out", store)
        image, labels, locations, count = 0.0, 0, 0, 0
        for path in sorted(expected.glob("*.npz")):
            found, recorded = _loaded(store / path.name), _loaded(path)
            image = max(image, _of_range(found["data"], recorded["data"]))
            labels += int((found["seg"] != recorded["seg"]).sum())
            names = {name for name in {*found, *recorded} if name.startswith("loc_")}
            locations += sum(
                name not in found or found[name].tolist() != recorded[name].reshape(-1, 4).tolist()
                for name in names
            )
            count += 1
        yield {
            "preprocessing of": f"{folder.name}, {expected.name}",
            "cases": count,
            "image, of the range": f"{image:.1e}",
            "labels": labels,
            "class locations": locations,
        }


def _arrays(goldens: Path) -> Iterator[Row]:
    """Resample every recorded array."""
    for path in sorted((goldens / "resample_goldens").glob("*/*.npz")):
        recorded = _loaded(path)
        before, after = tuple(recorded["spacing"].tolist()), tuple(recorded["new_spacing"].tolist())
        z, y, x = (int(count) for count in recorded["new_shape"])
        apart = separate_axis(before, after, None)
        differences = {}
        for kind, order in (("data", 3), ("prob32", 1), ("prob", 1)):
            given = recorded[f"in_{kind}"].astype(np.float32)
            found = resample_image(given, (z, y, x), before, after, SplineArguments(order=order))
            found = found.astype(recorded[f"in_{kind}"].dtype).astype(np.float32)
            differences[kind] = _of_range(found, recorded[f"out_{kind}"].astype(np.float32))
        labels = resample_labels(recorded["in_seg"][0], (z, y, x), before, after, SplineArguments(order=1))
        exact = max(differences["data"], differences["prob32"])
        yield {
            "resampling of": path.stem,
            "image": f"{differences['data']:.1e}",
            "probabilities": f"{differences['prob32']:.1e}",
            "in 16 bits": f"{differences['prob']:.1e}",
            "largest, of the range": f"{exact:.1e}",
            "labels": int((labels != recorded["out_seg"][0]).sum()),
            "axis": "as recorded" if (-1 if apart is None else apart) == recorded["axis"] else "differs",
        }


def _of_range(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return the largest difference as a share of the range."""
    return float(np.abs(found - expected).max() / max(float(np.ptp(expected)), 1e-12))


def _completed(raw: Path, description: Path, folder: Path) -> Path:
    """Put dataset.json beside images and labels that lack it."""
    folder.mkdir(exist_ok=True)
    for path in raw.iterdir():
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())
    (folder / "dataset.json").write_bytes(description.read_bytes())
    return folder


def _run(*words: object) -> None:
    """Run a verb of the command line."""
    if command_line.main([str(word) for word in words]):
        raise SystemExit(f"{' '.join(map(str, words))} failed")


def _loaded(path: Path) -> Arrays:
    """Read the arrays of an npz file."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files if not name.endswith(".json")}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--goldens", type=Path, required=True, help="folder of recorded results")
    parser.add_argument("--hippocampus", type=Path, help="the dataset of the recorded fingerprint")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
