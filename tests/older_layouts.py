"""Phantoms in the layouts of the Medical Segmentation Decathlon and of nnU-Net v1."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - its customary name

from core.domain.conversion import Layout
from tests.factories import Recipe, case_name, make_phantom, rotation_xyz, write_array

OBLIQUE = Recipe(
    cases=3,
    shape=(6, 9, 8),
    spacing=(2.5, 0.7, 0.9),
    origin_xyz=(-13.7, 21.3, 104.9),
    direction=rotation_xyz((11, -23, 5)),
)
"""Small, and placed in space by numbers that no format rounds by chance to themselves."""

FOUR_AXES = replace(OBLIQUE, channels=2)


def make_older(
    folder: Path, recipe: Recipe = OBLIQUE, layout: Layout = Layout.DECATHLON, tests: int = 0
) -> Path:
    """Write a dataset; of several channels, the Decathlon's images have four axes.

    Args:
        folder: Where to; made if absent.
        recipe: What to make.
        layout: One of the older two.
        tests: How many test images there are beside.

    Returns:
        The folder.
    """
    ending = recipe.ending
    for number in range(recipe.cases + tests):
        phantom, case_id = make_phantom(recipe, number), case_name(number)
        part = "Tr" if number < recipe.cases else "Ts"
        for name in (f"images{part}", "labelsTr"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        if layout is Layout.V1:
            for channel, voxels_zyx in enumerate(phantom.voxels_czyx):
                write_array(voxels_zyx, folder / f"images{part}" / f"{case_id}_{channel:04d}{ending}", recipe)
        else:
            write_channels(phantom.voxels_czyx, folder / f"images{part}" / f"{case_id}{ending}", recipe)
        if part == "Tr":
            write_array(
                phantom.labels_zyx.astype(np.uint8), folder / "labelsTr" / f"{case_id}{ending}", recipe
            )
    (folder / "dataset.json").write_text(json.dumps(older_json(recipe, tests), indent=1))
    return folder


def older_json(recipe: Recipe = OBLIQUE, tests: int = 0) -> dict[str, Any]:
    """Return the dataset.json that both layouts have."""
    names = [case_name(number) for number in range(recipe.cases + tests)]
    return {
        "name": "Phantoms",
        "description": "Ellipsoids",
        "reference": "none",
        "licence": "CC0",
        "release": "1.0",
        "tensorImageSize": "4D" if recipe.channels > 1 else "3D",
        "modality": {str(channel): f"MRI{channel}" for channel in range(recipe.channels)},
        "labels": {"0": "background", "1": "left", "2": "right"},
        "numTraining": recipe.cases,
        "numTest": tests,
        "training": [
            {"image": f"./imagesTr/{name}{recipe.ending}", "label": f"./labelsTr/{name}{recipe.ending}"}
            for name in names[: recipe.cases]
        ],
        "test": [f"./imagesTs/{name}{recipe.ending}" for name in names[recipe.cases :]],
    }


def write_channels(voxels_czyx: npt.NDArray[Any], path: Path, recipe: Recipe = OBLIQUE) -> Path:
    """Write channels along a fourth axis; one channel as a plain volume."""
    if len(voxels_czyx) == 1:
        return write_array(voxels_czyx[0], path, recipe)
    image: Any = sitk.GetImageFromArray(voxels_czyx, isVector=False)
    image.SetSpacing((*recipe.spacing[::-1], 1.5))
    image.SetOrigin((*recipe.origin_xyz, 0.0))
    direction = np.eye(4)
    direction[:3, :3] = np.array(recipe.direction).reshape(3, 3)
    image.SetDirection(tuple(direction.ravel().tolist()))
    sitk.WriteImage(image, str(path), useCompression=True)
    return path
