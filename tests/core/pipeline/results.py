"""Folders as trainings and predictions leave them, made of a few voxels: segmentations, probabilities, properties."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.io.image import FloatArray, Geometry, LabelArray, LabelMap, array_spacing
from core.io.readers import write_labels
from tests.plans import small_plan

READER = "SimpleITKIO"
LABELS: Mapping[str, Any] = {"background": 0, "a": 1, "b": 2}
SPACING_XYZ = (0.8, 0.9, 2.5)
ORIGIN_XYZ = (3.0, -4.0, 5.5)
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GEOMETRY = Geometry(
    spacing=array_spacing(SPACING_XYZ),
    file_spacing_xyz=SPACING_XYZ,
    origin_xyz=ORIGIN_XYZ,
    direction=STRAIGHT,
)
PROPERTIES = {
    "sitk_stuff": {"spacing": SPACING_XYZ, "origin": ORIGIN_XYZ, "direction": STRAIGHT},
    "spacing": list(SPACING_XYZ[::-1]),
}


def rows(*lines: str) -> LabelArray:
    """One slice of labels, a digit each."""
    return np.asarray([[[int(value) for value in line] for line in lines]], dtype=np.uint8)


def one_hot(labels_zyx: LabelArray, sure: float, heads: int = 3) -> FloatArray:
    """Probabilities that decide for these labels, and are more or less sure of them."""
    rest = (1 - sure) / (heads - 1)
    found_kzyx = np.full((heads, *labels_zyx.shape), rest, np.float32)
    np.put_along_axis(found_kzyx, labels_zyx[None].astype(np.int64), np.float32(sure), axis=0)
    return found_kzyx


def save_labels(labels_zyx: LabelArray, folder: Path, case: str, geometry: Geometry = GEOMETRY) -> None:
    """Write a label map."""
    folder.mkdir(parents=True, exist_ok=True)
    write_labels(LabelMap(labels_zyx, geometry), folder / f"{case}.nii.gz", READER)


def save_probabilities(probabilities_kzyx: FloatArray, folder: Path, case: str) -> None:
    """Write probabilities and properties as the reference does."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{case}.npz", probabilities=probabilities_kzyx)
    (folder / f"{case}.pkl").write_bytes(pickle.dumps(PROPERTIES))


def describe(folder: Path, labels: Mapping[str, Any] = LABELS, **more: Any) -> None:
    """Write dataset.json and plans.json."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "channel_names": {"0": "MRI"},
        "labels": dict(labels),
        "numTraining": 4,
        "file_ending": ".nii.gz",
        **more,
    }
    (folder / "dataset.json").write_text(json.dumps(values))
    (folder / "plans.json").write_text(json.dumps(small_plan((1, 1, 1))[0].to_json()))


def save_model(
    folder: Path,
    cases: Sequence[LabelArray],
    *,
    sure: float | None = None,
    folds: int = 2,
    labels: Mapping[str, Any] = LABELS,
) -> Path:
    """A model whose folds validated cases c0, c1 … in turn; with probabilities if it is so sure of them."""
    describe(folder, labels)
    record = {"version": 1, "configuration": "small", "mirror_axes": [], "settings": {}}
    (folder / "model.json").write_text(json.dumps(record))
    for number, labels_zyx in enumerate(cases):
        fold = folder / f"fold_{number % folds}"
        save_labels(labels_zyx, fold / "validation", f"c{number}")
        if sure is not None:
            save_probabilities(one_hot(labels_zyx, sure), fold / "validation", f"c{number}")
        (fold / "weights.safetensors").write_bytes(f"weights of {folder.name}".encode())
    return folder
