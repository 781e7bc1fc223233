"""Phantoms: small made images and datasets whose shapes, volumes and labels are known."""

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - its customary name
import tifffile
from PIL import Image

from core.domain.geometry import Shape, Spacing

BACKGROUND_INTENSITY = 100
"""Of the body around the ellipsoids; outside the margin the image is exactly 0."""

CONTRAST = 60
"""Between one label and the next, in the first channel."""

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Recipe:
    """What kind of dataset to make; `dataclasses.replace` or keywords change single entries."""

    cases: int = 5
    shape: Shape = (20, 28, 24)
    """(z, y, x); z = 1 makes 2D files."""
    spacing: Spacing = (1.0, 1.0, 1.0)
    channels: int = 1
    """Natural images (PNG, BMP, 2D TIFF) hold 1, 3 or 4 channels in one file, other formats one per file."""
    ending: str = ".nii.gz"
    labels: Mapping[str, int | Sequence[int]] = field(
        default_factory=lambda: {"background": 0, "left": 1, "right": 2}
    )
    """As in dataset.json; each value but 0 becomes one ellipsoid, `ignore` the lowest slice or row."""
    region_order: Sequence[int] | None = None
    channel_names: Sequence[str] | None = None
    margin: int = 1
    """Voxels of exact zero around the body, cropped by preprocessing."""
    noise: float = 8.0
    """Standard deviation of the intensities."""
    vary_shape: bool = False
    """Whether case k is k voxels larger along y and x."""
    origin_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: Sequence[float] = IDENTITY
    seed: int = 0


STANDARD = Recipe()


@dataclass(frozen=True)
class Phantom:
    """One made case."""

    voxels_czyx: npt.NDArray[np.int16]
    labels_zyx: npt.NDArray[np.uint16]
    volumes_mm3: Mapping[int, float]
    """Of the ellipsoids as drawn by formula; the voxel counts approach them."""


def make_phantom(recipe: Recipe = STANDARD, number: int = 0) -> Phantom:
    """Draw case `number` of a recipe; the same arguments give the same voxels."""
    rng = np.random.default_rng((recipe.seed, number))
    z, y, x = recipe.shape
    grown = number if recipe.vary_shape else 0
    shape = (z, y + grown, x + grown)
    values = label_values(recipe.labels)
    labels_zyx = np.zeros(shape, np.uint16)
    volumes: dict[int, float] = {}
    for index, value in enumerate(values):
        centre, radii = _ellipsoid(rng, shape, index, len(values))
        labels_zyx[_inside(shape, centre, radii)] = value
        volumes[value] = _volume_mm3(radii, recipe.spacing, shape)
    body_zyx = _body(shape, recipe.margin)
    channels = [
        _intensities(labels_zyx, body_zyx, channel, recipe, rng) for channel in range(recipe.channels)
    ]
    ignore = recipe.labels.get("ignore")
    if isinstance(ignore, int):
        lowest = (slice(None), 0) if z == 1 else (0,)
        labels_zyx[lowest] = ignore
    return Phantom(np.stack(channels), labels_zyx, volumes)


def make_dataset(folder: Path, recipe: Recipe = STANDARD, *, held_out: int = 0) -> Path:
    """Write a dataset in nnU-Net v2's raw layout: dataset.json, imagesTr, labelsTr.

    Args:
        folder: Where to; made if absent.
        recipe: What to make.
        held_out: How many further cases go to imagesTs and labelsTs.

    Returns:
        The folder.
    """
    for number in range(recipe.cases + held_out):
        part = "Tr" if number < recipe.cases else "Ts"
        write_case(folder, part, case_name(number), make_phantom(recipe, number), recipe)
    (folder / "dataset.json").write_text(json.dumps(dataset_json(recipe), indent=4))
    return folder


def write_case(folder: Path, part: str, case_id: str, phantom: Phantom, recipe: Recipe) -> list[Path]:
    """Write one case into images<part> and labels<part>; return the paths of its images."""
    images = folder / f"images{part}"
    labels = folder / f"labels{part}"
    for sub in (images, labels):
        sub.mkdir(parents=True, exist_ok=True)
    write_array(phantom.labels_zyx.astype(np.uint8), labels / f"{case_id}{recipe.ending}", recipe)
    first = images / f"{case_id}_0000{recipe.ending}"
    if is_natural(recipe):
        voxels_yxc = np.moveaxis(phantom.voxels_czyx[:, 0], 0, -1).clip(0, 255).astype(np.uint8)
        _write_natural(voxels_yxc, first)
        return [first]
    paths = [images / f"{case_id}_{channel:04d}{recipe.ending}" for channel in range(recipe.channels)]
    for path, voxels_zyx in zip(paths, phantom.voxels_czyx, strict=True):
        write_array(voxels_zyx, path, recipe)
    return paths


def write_array(voxels_zyx: npt.NDArray[np.generic], path: Path, recipe: Recipe = STANDARD) -> Path:
    """Write one array with the spacing, origin and direction of a recipe, in the format of the path."""
    if path.suffix in {".png", ".bmp"} or (path.suffix == ".tif" and voxels_zyx.shape[0] == 1):
        _write_natural(voxels_zyx[0, ..., None], path)
    elif path.suffix in {".tif", ".tiff"}:
        tifffile.imwrite(path, voxels_zyx, compression="zlib", photometric="minisblack")
        stem = path.stem[:-5] if path.parent.name.startswith("images") else path.stem
        path.with_name(f"{stem}.json").write_text(json.dumps({"spacing": recipe.spacing}))
    else:
        sitk.WriteImage(itk_image(voxels_zyx, recipe), str(path), useCompression=True)
    return path


def itk_image(voxels_zyx: npt.NDArray[np.generic], recipe: Recipe = STANDARD) -> Any:
    """Return an ITK image; a 2D one where there is one slice."""
    flat = voxels_zyx.shape[0] == 1
    image: Any = sitk.GetImageFromArray(voxels_zyx[0] if flat else voxels_zyx)  # its methods carry no types
    dimensions = 2 if flat else 3
    image.SetSpacing(recipe.spacing[::-1][:dimensions])
    image.SetOrigin(recipe.origin_xyz[:dimensions])
    if not flat:
        image.SetDirection(tuple(recipe.direction))
    return image


def dataset_json(recipe: Recipe) -> dict[str, object]:
    """Return the dataset.json of a recipe."""
    names = recipe.channel_names or [f"channel{number}" for number in range(recipe.channels)]
    description: dict[str, object] = {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": {
            name: value if isinstance(value, int) else list(value) for name, value in recipe.labels.items()
        },
        "numTraining": recipe.cases,
        "file_ending": recipe.ending,
    }
    if recipe.region_order is not None:
        description["regions_class_order"] = list(recipe.region_order)
    return description


def zip_folder(folder: Path, target: Path, *, inside: str = "") -> Path:
    """Zip the files of a folder, below the name `inside` if given."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, Path(inside) / path.relative_to(folder))
    return target


def rotation_xyz(degrees: Sequence[float]) -> tuple[float, ...]:
    """Return a direction matrix, row-major: rotations about x, then y, then z."""
    (sx, cx), (sy, cy), (sz, cz) = ((math.sin(math.radians(a)), math.cos(math.radians(a))) for a in degrees)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return tuple(float(entry) for entry in (about_z @ about_y @ about_x).ravel())


def case_name(number: int) -> str:
    """Return the identifier of case `number`."""
    return f"phantom_{number:03d}"


def label_values(labels: Mapping[str, int | Sequence[int]]) -> list[int]:
    """Return the foreground values of a `labels` entry, ascending, without the ignore label."""
    entries = [
        [value] if isinstance(value, int) else value for name, value in labels.items() if name != "ignore"
    ]
    return sorted({value for entry in entries for value in entry} - {0})


def voxels_of(mask_zyx: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """List the voxels of a mask as class locations have them: (n, 4), columns 0, z, y, x."""
    return np.pad(np.argwhere(mask_zyx), ((0, 0), (1, 0))).astype(np.int32)


def is_natural(recipe: Recipe) -> bool:
    """Whether the files are photographs: one file holds all channels."""
    return recipe.ending in {".png", ".bmp"} or (recipe.ending == ".tif" and recipe.shape[0] == 1)


def _ellipsoid(
    rng: np.random.Generator, shape: Shape, index: int, count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Place ellipsoid `index` in its slot along x; centre and radii in voxels, (z, y, x)."""
    slot = np.array([shape[0], shape[1], shape[2] / count])
    radii = slot * rng.uniform(0.22, 0.32, 3)
    centre = slot / 2 - 0.5 + slot * rng.uniform(-0.08, 0.08, 3)
    centre[2] += slot[2] * index
    if shape[0] == 1:
        centre[0], radii[0] = 0.0, 1.0
    return centre, radii


def _inside(
    shape: Shape, centre: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return the voxels whose centre lies in an ellipsoid."""
    offsets = np.ogrid[tuple(slice(0, n) for n in shape)]
    squares = [((axis - c) / r) ** 2 for axis, c, r in zip(offsets, centre, radii, strict=True)]
    return np.asarray(squares[0] + squares[1] + squares[2] <= 1)


def _volume_mm3(radii: npt.NDArray[np.float64], spacing: Spacing, shape: Shape) -> float:
    """Return the volume of an ellipsoid; of an ellipse one slice thick in 2D."""
    z, y, x = (float(radius * edge) for radius, edge in zip(radii, spacing, strict=True))
    return math.pi * y * x * spacing[0] if shape[0] == 1 else 4 / 3 * math.pi * z * y * x


def _body(shape: Shape, margin: int) -> npt.NDArray[np.bool_]:
    """Return the voxels within the margin; a 2D image has none in front of or behind it."""
    body_zyx = np.zeros(shape, np.bool_)
    body_zyx[tuple(slice(margin, n - margin) if n > 2 * margin else slice(None) for n in shape)] = True
    return body_zyx


def _intensities(
    labels_zyx: npt.NDArray[np.uint16],
    body_zyx: npt.NDArray[np.bool_],
    channel: int,
    recipe: Recipe,
    rng: np.random.Generator,
) -> npt.NDArray[np.int16]:
    """Paint one channel: labels grow brighter in even channels and darker in odd ones."""
    contrast = CONTRAST / (1 + channel) * (-1) ** channel
    clean_zyx = BACKGROUND_INTENSITY + contrast * labels_zyx.astype(np.float64)
    noisy_zyx = clean_zyx + rng.normal(0, recipe.noise, labels_zyx.shape)
    return np.where(body_zyx, np.maximum(np.rint(noisy_zyx), 1), 0).astype(np.int16)


def _write_natural(voxels_yxc: npt.NDArray[np.generic], path: Path) -> None:
    """Write a PNG, BMP or 2D TIFF with one, three or four channels."""
    voxels = voxels_yxc[..., 0] if voxels_yxc.shape[-1] == 1 else voxels_yxc
    if path.suffix == ".tif":
        tifffile.imwrite(path, voxels, photometric="minisblack" if voxels.ndim == 2 else "rgb")
    else:
        Image.fromarray(voxels.astype(np.uint8)).save(path)
