"""From images to segmentations, ours and the reference's in turn, command to command; many classes on request.

Usage:
    make bench BENCH=predict ARGS="--reference VENV/bin/python --model MODEL.zip --images FOLDER
        [--cases 1] [--pairs 3] [--precisions auto fp32] [--many] [--classes 118] [--many-reference] [--json FILE]"

The reference is the package nnunetv2 in an environment of its own. The model is imported here and exported again for
the reference, so that both read the same weights; each side starts a process per command, as a user would. With
`--many`, an untrained network segments one image of 200 x 256 x 256 voxels into many classes, on its own grid and on a
coarser one; the reference does so too if asked, which takes minutes. Memory is that of the largest process.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from benchmarks.figures import machine, print_table
from benchmarks.front_half import Case, Run, measured, run
from core.domain.dataset import DatasetDescription
from core.domain.labels import LabelSet
from core.domain.model import ModelRecord
from core.domain.plan import Plan
from core.io.image import Geometry
from core.io.probabilities import write_map
from core.io.readers import read_labels
from core.network.unet import build_network

PYTHON_CORE = (sys.executable, "-m", "core")

SHAPE = (200, 256, 256)

FEATURES = (8, 16, 32, 64, 64)
"""Of the network with many classes: few, so that it is the export that is compared."""

PATCH = (128, 128, 128)

KEEP_GRID, COARSER = 1.0, 1.5
"""Spacing of the network, where the image's is 1."""


@dataclass(frozen=True)
class Sides:
    """What both sides segment, and where to."""

    reference: Path
    """Its Python."""
    model: Path
    """Model folder of ours."""
    official: Path
    """The same as the reference has it."""
    images: Path
    work: Path

    def ours(self, *words: object) -> Run:
        """Run our command."""
        place = ("--input", self.images, "--out", self._empty("ours"), "--device", "cpu")
        return run([*PYTHON_CORE, "predict", "--model", self.model, *place, *words])

    def theirs(self, *words: object) -> Run:
        """Run the reference's command."""
        out = self._empty("theirs")
        command = [
            self.reference.with_name("nnUNetv2_predict_from_modelfolder"),
            "-i",
            self.images,
            "-o",
            out,
        ]
        folds = sorted(path.name.removeprefix("fold_") for path in self.official.glob("fold_*"))
        folders = {f"nnUNet_{part}": str(self.work) for part in ("raw", "preprocessed", "results")}
        environment = dict(os.environ) | folders  # noqa: TID251 - for another program
        words = ("-m", self.official, "-f", *folds, "-device", "cpu", *words)
        return run([*command, *words], environment)

    def difference(self) -> str:
        """Compare what the last runs made."""
        agreeing, voxels, dice = 0, 0, []
        for path in sorted((self.work / "ours").glob("*.nii.gz")):
            found = read_labels(path, "SimpleITKIO").labels_zyx
            expected = read_labels(self.work / "theirs" / path.name, "SimpleITKIO").labels_zyx
            agreeing, voxels = agreeing + int((found == expected).sum()), voxels + found.size
            for label in np.unique(expected)[1:]:
                a, b = found == label, expected == label
                dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
        return (
            f"{100 * agreeing / voxels:.4f} % of voxels agree, Dice between both {np.mean(dice or [1]):.4f}"
        )

    def _empty(self, side: str) -> Path:
        """Empty the folder of a side."""
        shutil.rmtree(self.work / side, ignore_errors=True)
        return self.work / side


def main() -> None:
    """Measure pairs and print the medians of their ratios."""
    arguments = _arguments()
    conditions = machine()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if arguments.model is not None:
            few = few_images(arguments.images, arguments.cases, work / "images")
            own = work / "model"
            run([*PYTHON_CORE, "import-model", arguments.model, "--out", own])
            sides = sides_of(arguments.reference, own, few, work)
            for precision in arguments.precisions:
                words = ("--precision", precision)
                name = f"{arguments.cases} small images, {precision}"
                case = Case(name, partial(sides.ours, *words), sides.theirs, sides.difference)
                rows.append(measured(case, arguments.pairs))
        if arguments.many:
            rows += [_many(arguments, work / f"many_{spacing}", spacing) for spacing in (COARSER, KEEP_GRID)]
    for row in rows:
        print_table([row])
    report = {"machine": conditions, "rows": rows}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=4))
    print(json.dumps(report))


def few_images(images: Path, count: int, folder: Path) -> Path:
    """Copy the first images of a folder."""
    folder.mkdir()
    for path in sorted(images.glob("*.nii.gz"))[:count]:
        shutil.copyfile(path, folder / path.name)
    return folder


def sides_of(reference: Path, model: Path, images: Path, work: Path) -> Sides:
    """Give both sides the same model."""
    archive = work / "official.zip"
    run([*PYTHON_CORE, "export-model", model, "--out", archive])
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(work / "official")
    (plans,) = (work / "official").rglob("plans.json")
    return Sides(reference.absolute(), model, plans.parent, images, work)


def _many(arguments: argparse.Namespace, work: Path, spacing: float) -> dict[str, object]:
    """Segment one image into many classes, without mirroring, and say what `explain` says of it."""
    work.mkdir()
    images = work / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    voxels_zyx = rng.normal(size=SHAPE).astype(np.float32).cumsum(2)
    edges = (1.0, 1.0, 1.0)
    straight = (1.0, 0, 0, 0, 1, 0, 0, 0, 1)
    place = Geometry(spacing=edges, file_spacing_xyz=edges, origin_xyz=(0, 0, 0), direction=straight)
    write_map(voxels_zyx, place, images / "case_0000.nii.gz")
    sides = sides_of(
        arguments.reference, _untrained(work / "model", arguments.classes, spacing), images, work
    )
    image = ("--image-shape", ",".join(map(str, SHAPE)), "--image-spacing", "1,1,1")
    files = ("--plans", sides.model / "plans.json", "--dataset-json", sides.model / "dataset.json")
    said = run([*PYTHON_CORE, "explain", *image, *files]).said
    estimate = said.strip().splitlines()[-1]
    ours = sides.ours("--no-mirroring", "--precision", arguments.many_precision)
    row: dict[str, object] = {
        "what": f"{arguments.classes} classes, network at {spacing} mm",
        "ours, s": round(ours.seconds, 1),
        "memory, MiB": ours.peak_mib,
        "explain": estimate.strip(),
    }
    if arguments.many_reference:
        theirs = sides.theirs("--disable_tta", "-npp", 1, "-nps", 1)
        row |= {
            "reference, s": round(theirs.seconds, 1),
            "reference, MiB": theirs.peak_mib,
            "ratio": round(theirs.seconds / ours.seconds, 1),
            "difference": sides.difference(),
        }
    return row


def _untrained(folder: Path, classes: int, spacing: float) -> Path:
    """Write a model folder with drawn weights."""
    labels = {"background": 0} | {f"label {number}": number for number in range(1, classes)}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    values = _plans(spacing)
    (folder / "fold_0").mkdir(parents=True)
    heads: LabelSet = DatasetDescription.model_validate(dataset).label_set()
    configuration = Plan.model_validate(values).configuration("3d_fullres")
    network = build_network(configuration.architecture, 1, len(heads.heads), seed=0)
    save_file(network.state_dict(), folder / "fold_0" / "weights.safetensors")
    record = ModelRecord(configuration="3d_fullres", mirror_axes=(0, 1, 2)).to_json()
    for name, content in (("dataset.json", dataset), ("plans.json", values), ("model.json", record)):
        (folder / name).write_text(json.dumps(content))
    return folder


def _plans(spacing: float) -> dict[str, Any]:
    """Make plans of one configuration."""
    interpolation = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    by_splines = "resample_data_or_seg_to_shape"
    stages = len(FEATURES)
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "batch_dice": False,
        "patch_size": list(PATCH),
        "median_image_size_in_voxels": list(SHAPE),
        "spacing": [spacing] * 3,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": by_splines,
        "resampling_fn_data_kwargs": {**interpolation, "order": 3},
        "resampling_fn_seg": by_splines,
        "resampling_fn_seg_kwargs": {**interpolation, "is_seg": True},
        "resampling_fn_probabilities": by_splines,
        "resampling_fn_probabilities_kwargs": interpolation,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": list(FEATURES),
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * stages,
                "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
                "n_conv_per_stage": [2] * stages,
                "n_conv_per_stage_decoder": [2] * (stages - 1),
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": "Dataset901_Many",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": list(SHAPE),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "max": 1,
                "mean": 0,
                "median": 0,
                "min": -1,
                "percentile_00_5": -1,
                "percentile_99_5": 1,
                "std": 1,
            }
        },
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--reference", type=Path, required=True, help="Python of an environment with nnunetv2"
    )
    parser.add_argument("--model", type=Path, help="an official zip, or one of ours")
    parser.add_argument("--images", type=Path, help="folder of CASE_0000.nii.gz")
    parser.add_argument("--cases", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["auto"])
    parser.add_argument("--many", action="store_true", help="one large image with many classes as well")
    parser.add_argument("--classes", type=int, default=118, help="background among them")
    parser.add_argument("--many-precision", default="auto")
    parser.add_argument("--many-reference", action="store_true", help="the reference too, for minutes")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
