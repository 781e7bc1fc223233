import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from core.domain.conversion import Layout
from tests.core.conversion.converting import converted
from tests.factories import Recipe
from tests.older_layouts import FOUR_AXES, OBLIQUE, make_older, older_json

sitk: Any = SimpleITK
"""Its functions carry no types."""

OFFICIAL = shutil.which("nnUNetv2_convert_MSD_dataset")
SHARED = Path(__file__).resolve().parents[3] / "../shared"


@pytest.mark.skipif(OFFICIAL is None, reason="needs the official package on the PATH")
@pytest.mark.parametrize("recipe", [OBLIQUE, replace(FOUR_AXES, channels=3)], ids=["3 axes", "4 axes"])
def test_the_official_conversion_gives_the_same(tmp_path: Path, target: Path, recipe: Recipe) -> None:
    source = make_older(tmp_path / "Task99_Phantoms", recipe, tests=2)
    (source / "imagesTr" / "._phantom_000.nii.gz").write_bytes(b"\x00\x05\x16\x07")

    converted(source, target)

    _require_same(target, _convert_officially(source, tmp_path))


@pytest.mark.skipif(OFFICIAL is None, reason="needs the official package on the PATH")
def test_the_official_conversion_of_the_older_nnunet_gives_the_same(tmp_path: Path, target: Path) -> None:
    source = make_older(tmp_path / "Task99_Phantoms", FOUR_AXES, Layout.V1, tests=2)

    converted(source, target)

    _require_same(target, _convert_officially(source, tmp_path, "nnUNetv2_convert_old_nnUNet_dataset"))


@pytest.mark.skipif(OFFICIAL is None, reason="needs the official package on the PATH")
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real images in ../shared")
def test_real_images_become_what_the_official_conversion_makes_of_them(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "Task04_Hippocampus"
    raw = SHARED / "data" / "Dataset004_Hippocampus"
    for name in ("imagesTr", "imagesTs", "labelsTr"):
        (source / name).mkdir(parents=True)
    for image in sorted((raw / "imagesTr").iterdir())[:20]:
        shutil.copyfile(image, source / "imagesTr" / image.name.replace("_0000", ""))
        label = image.name.replace("_0000", "")
        shutil.copyfile(raw / "labelsTr" / label, source / "labelsTr" / label)
    values = {
        **older_json(),
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": 20,
    }
    (source / "dataset.json").write_text(json.dumps({**values, "training": [], "test": []}))

    converted(source, target)

    _require_same(target, _convert_officially(source, tmp_path))


def _convert_officially(source: Path, folder: Path, program: str = "nnUNetv2_convert_MSD_dataset") -> Path:
    """Run an official conversion."""
    roots = {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    for root in roots.values():
        Path(root).mkdir()
    what = ["-i", str(source), "-np", "1"] if "MSD" in program else [str(source), "Dataset099_Phantoms"]
    subprocess.run(
        [Path(str(OFFICIAL)).with_name(program), *what],
        env={**os.environ, **roots},  # noqa: TID251 - the environment of a process that is started
        check=True,
        capture_output=True,
    )
    return next((folder / "raw").iterdir())


def _require_same(ours: Path, theirs: Path) -> None:
    """Compare two datasets: names, entries of dataset.json, voxels, types, places in space."""
    names = {str(path.relative_to(ours)) for path in ours.rglob("*.*")}
    assert names == {str(path.relative_to(theirs)) for path in theirs.rglob("*.*")}
    assert json.loads((ours / "dataset.json").read_text()) == json.loads(
        (theirs / "dataset.json").read_text()
    )
    for name in sorted(names - {"dataset.json"}):
        one, other = (sitk.ReadImage(str(folder / name)) for folder in (ours, theirs))
        assert one.GetPixelID() == other.GetPixelID()
        assert np.array_equal(sitk.GetArrayViewFromImage(one), sitk.GetArrayViewFromImage(other))
        assert one.GetSpacing() == other.GetSpacing()
        assert np.allclose(one.GetOrigin(), other.GetOrigin(), atol=1e-5)
        assert np.allclose(one.GetDirection(), other.GetDirection(), atol=1e-6)
